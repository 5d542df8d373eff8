"""Where services run.

::

    base.py           what the runtime expects of any kind of container
    process.py        child processes on this host
      process_run.py    one run of it: a keeper's socket and what it has told
      freezing.py       runs whose processes stand still between them
      keeper.py         the program that owns the processes; imports nothing of ours
      launch.py         options checked, environment made (pure)
      listeners.py      whose a listening port is
      leftovers.py      what an earlier run left, found and ended
    address.py        somebody else's host
    places.py         addresses where no sandbox can be
    dial.py           connecting to a port
"""

from actors.containers.address import address_containers as address_containers
from actors.containers.process import process_containers as process_containers
