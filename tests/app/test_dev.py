"""Real children: what `undrift dev` promises about processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from undrift.app.dev import Child, run

FOREVER = "import time\nprint('up', flush=True)\ntime.sleep(600)"


def child(name: str, program: str) -> Child:
    return Child(name, (sys.executable, "-u", "-c", program))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_death_of_one_ends_the_other_and_gives_its_exit_code() -> None:
    lines: list[tuple[str, str]] = []
    pids = "import os\nprint(os.getpid(), flush=True)\n"
    code = run(
        [
            child("serve", pids + FOREVER),
            child("work", "import time\ntime.sleep(0.3)\nprint('bad', flush=True)\nexit(3)"),
        ],
        lambda name, line: lines.append((name, line)),
        patience=10,
    )
    assert code == 3
    assert ("work", "bad") in lines
    assert ("dev", "work ended (exit code 3); ending the others") in lines
    (pid,) = [int(line) for name, line in lines if name == "serve" and line.isdigit()]
    assert not alive(pid)


def test_a_child_that_ends_without_error_still_ends_the_run_with_one() -> None:
    assert run([child("work", "pass")], lambda name, line: None) == 1


def test_told_to_stop_the_children_end_in_order_and_the_exit_code_is_0() -> None:
    patient = (
        "import signal, sys, time\n"
        "def end(*_):\n    print('drained', flush=True)\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\nprint('up', flush=True)\n"
        "while True:\n    time.sleep(0.05)"  # a signal between two instructions does not end one long sleep
    )
    before = signal.getsignal(signal.SIGINT)  # ignored where the tests run in the background of a shell
    lines: list[tuple[str, str]] = []

    def say(name: str, line: str) -> None:
        lines.append((name, line))
        if line == "up":
            os.kill(os.getpid(), signal.SIGINT)

    assert run([child("serve", patient)], say, patience=10) == 0
    assert lines == [("serve", "up"), ("dev", "ending"), ("serve", "drained")]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_child_that_does_not_end_is_killed_with_what_it_started(tmp_path: Path) -> None:
    stubborn = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(os.getpid(), other.pid, flush=True)\ntime.sleep(600)"
    )
    pids: list[int] = []

    def say(name: str, line: str) -> None:
        if name == "serve":
            pids.extend(int(word) for word in line.split())
            os.kill(os.getpid(), signal.SIGTERM)

    assert run([child("serve", stubborn)], say, patience=0.5) == 0
    assert len(pids) == 2
    for _ in range(100):  # an orphan is reaped by init, in its own time
        if not any(running(pid) for pid in pids):
            break
        time.sleep(0.05)
    assert not any(running(pid) for pid in pids)


def running(pid: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
