from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from undrift.data.online import SqliteOnline
from undrift.errors import StateError


def test_the_latest_row_of_an_entity_is_found_whatever_the_order_of_arrival(tmp_path: Path) -> None:
    store = SqliteOnline(tmp_path / "deep" / "online.db")
    store.put("weather", [("JFK", 20, {"temp": 2.0}), ("JFK", 10, {"temp": 1.0}), ("EWR", 5, {"temp": None})])
    store.put("weather", [("JFK", 15, {"temp": 1.5})])
    assert store.get("weather", ["EWR", "nowhere", "JFK", "JFK"]) == [
        (5, {"temp": None}), None, (20, {"temp": 2.0}), (20, {"temp": 2.0}),
    ]  # fmt: skip
    assert store.get("other", ["JFK"]) == [None]
    store.close()


def test_of_two_rows_of_one_time_the_later_put_counts(tmp_path: Path) -> None:
    store = SqliteOnline(tmp_path / "online.db")
    store.put("v", [("e", 10, {"x": 1}), ("e", 10, {"x": 2})])
    assert store.get("v", ["e"]) == [(10, {"x": 2})]
    store.close()


def test_values_keep_their_types(tmp_path: Path) -> None:
    store = SqliteOnline(f"sqlite:{tmp_path / 'online.db'}")
    values = {"n": 2**53 + 1, "x": 0.1, "s": "é", "b": True, "none": None, "t": datetime(2013, 1, 1, 5, tzinfo=UTC)}
    store.put("v", [("e", -1, values)])
    assert store.get("v", ["e"]) == [(-1, values)]
    assert (tmp_path / "online.db").exists()
    store.close()


def test_a_put_happens_whole_or_not_at_all(tmp_path: Path) -> None:
    store = SqliteOnline(tmp_path / "online.db")
    with pytest.raises(OverflowError):
        store.put("v", [("a", 1, {"x": 1}), ("b", 2**70, {"x": 1})])  # no integer of SQLite
    assert store.get("v", ["a", "b"]) == [None, None]
    store.put("v", [("a", 1, {"x": 1})])
    assert store.get("v", ["a"]) == [(1, {"x": 1})]
    store.close()


def test_threads_and_processes_write_at_once_and_none_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "online.db"
    store = SqliteOnline(path)
    program = (
        "import sys; from undrift.data.online import SqliteOnline; s = SqliteOnline(sys.argv[1])\n"
        "for i in range(50): s.put('v', [(sys.argv[2] + str(i), i, {'x': i}), ('shared', i, {'x': i})])"
    )
    children = [subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in "pq"]

    def write(name: str) -> None:
        for i in range(50):
            store.put("v", [(f"{name}{i}", i, {"x": i}), ("shared", i, {"x": i})])

    threads = [threading.Thread(target=write, args=(name,)) for name in "tu"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [child.wait(timeout=60) for child in children] == [0, 0]
    names = [f"{name}{i}" for name in "pqtu" for i in range(50)]
    assert store.get("v", names) == [(i, {"x": i}) for _ in "pqtu" for i in range(50)]
    assert store.get("v", ["shared"]) == [(49, {"x": 49})]
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_opens_connections_of_its_own(tmp_path: Path) -> None:
    program = (
        "import os, sys; from undrift.data.online import SqliteOnline\n"
        "s = SqliteOnline(sys.argv[1]); s.put('v', [('a', 1, {'x': 1})])\n"
        "pid = os.fork()\n"
        "if pid == 0: s.put('v', [('a', 2, {'x': 2})]); s.close(); os._exit(0)\n"
        "os.waitpid(pid, 0); print(s.get('v', ['a']))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "x.db")], capture_output=True, text=True)
    assert done.stdout.strip() == "[(2, {'x': 2})]", done.stderr


def test_a_closed_store_opens_again(tmp_path: Path) -> None:
    store = SqliteOnline(tmp_path / "online.db")
    store.put("v", [("e", 1, {"x": 1})])
    store.close()
    assert store.get("v", ["e"]) == [(1, {"x": 1})]
    store.close()


def test_a_file_that_is_no_store_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"this is no database, but long enough to be read as one" * 50)
    with pytest.raises(StateError, match=r"bad\.db cannot be used: file is not a database"):
        SqliteOnline(tmp_path / "bad.db")
    with pytest.raises(StateError, match="cannot be used"):
        SqliteOnline(tmp_path / "bad.db" / "below.db")
