"""The worker's threads start together and meet the same types; what they share must be known before."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, threading
import msgspec
from undrift import work
from undrift.declarations import Model

work._know_types()
contract = {"name": "a", "fields": [{"name": "x", "type": "number"}]}
declared = {"name": "a", "task": "binary", "label": "y", "contract": contract}
sys.setswitchinterval(1e-6)
together = threading.Barrier(8)
read = []

def meet():
    together.wait()
    read.append(msgspec.convert(declared, Model))

threads = [threading.Thread(target=meet) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(read) == 8
"""


def test_threads_that_read_the_same_declaration_at_once_do_not_end_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
