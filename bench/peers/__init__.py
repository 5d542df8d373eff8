"""Portico beside what users would pick instead, on one machine, in one sitting: ``python -m bench.peers --help``.

::

    scene      the previews that every proxy serves, and the heads that are sent      (pure)
    configs    the same routing in each proxy's own words                             (pure)
    workloads  what is done to a proxy, and what counts                               (pure)
    summary    medians, ratios, goals, rows of tables                                 (pure)
    install    nginx, HAProxy, Caddy, node's proxies and workerd in a cache folder; the C programs compiled
    machine    cores, CPU time, memory, whether the machine is quiet
    children   processes that end with this one
    proxies    how each is started
    smoke      whether each does what it should, before anything is measured
    rounds     interleaved samples

`service.c` is what stands behind every proxy, `load.c` what sends requests; `portico_server.py` is Portico as it is
measured. Everything listens on 127.0.0.1 alone.
"""
