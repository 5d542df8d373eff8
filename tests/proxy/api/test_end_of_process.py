"""A program that has described the API ends as it means to."""

import subprocess
import sys

PROGRAM = """
import atexit, gc
# Called last: handlers run in the reverse order.
atexit.register(lambda: print(gc.get_freeze_count() > 0))
import msgspec
from proxy.api import schemas
structs = [found for found in vars(schemas).values() if isinstance(found, type) and issubclass(found, msgspec.Struct)]
msgspec.json.schema_components(structs)
"""


def test_nothing_is_looked_through_at_the_end() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")
