"""The database under stress: damage, full disks, kill -9 in the middle of a transaction, processes at once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from undrift.errors import ConflictError, StateError
from undrift.event import Draft
from undrift.ids import FixedClock, SystemClock
from undrift.state.jobs import JobDraft, Jobs
from undrift.state.journal import Journal
from undrift.state.sql import SqliteStore

RECORD = """
import sys
from pathlib import Path
from undrift.event import Draft
from undrift.ids import SystemClock
from undrift.state.journal import Journal
from undrift.state.sql import SqliteStore
path, writer, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
journal, now = Journal(SqliteStore(path), SystemClock()), SystemClock().now()
for i in range(times):
    drafts = {"kind": "gate.judged", "subject": "model:a", "at": now, "actor": writer, "why": "w"}
    journal.record([Draft(key=f"{writer} {i}", **drafts), Draft(key=f"common {i}", **drafts)])
"""

WORK = """
import sys
from datetime import timedelta
from pathlib import Path
from undrift.ids import SystemClock
from undrift.state.jobs import Jobs
from undrift.state.sql import SqliteStore
jobs = Jobs(SqliteStore(sys.argv[1]), SystemClock())
while job := jobs.claim(sys.argv[2], ["count"], timedelta(minutes=5)):
    with Path(sys.argv[3]).open("a") as file:
        file.write(job.key + chr(10))
    jobs.finish(job, sys.argv[2])
"""


def _draft(number: int) -> Draft:
    return Draft(kind="gate.judged", subject=f"model:{number}", at=SystemClock().now(), actor="t", why="w")


def _together(program: str, *arguments: tuple[object, ...]) -> None:
    """Run a program once per tuple of arguments, all at the same time."""
    command = [sys.executable, "-c", program]
    children = [
        subprocess.Popen([*command, *map(str, given)], stderr=subprocess.PIPE, text=True) for given in arguments
    ]
    complaints = [child.communicate(timeout=90)[1] for child in children]
    assert complaints == [""] * len(arguments)


def test_processes_writing_at_once_make_one_chain(path: Path) -> None:
    SqliteStore(path).close()
    _together(RECORD, *((path, writer, 40) for writer in range(3)))
    journal = Journal(SqliteStore(path), SystemClock())
    assert journal.verify() == 3 * 40 + 40
    keys = {event.key for event in journal.events()}
    assert keys == {f"{w} {i}" for w in range(3) for i in range(40)} | {f"common {i}" for i in range(40)}


def test_processes_opening_a_new_file_at_once_make_its_schema_once(path: Path) -> None:
    _together(RECORD, *((path, writer, 1) for writer in range(3)))
    assert Journal(SqliteStore(path), SystemClock()).verify() == 4


def test_two_workers_share_the_jobs_without_doing_any_twice(path: Path, tmp_path: Path) -> None:
    jobs = Jobs(SqliteStore(path), SystemClock())
    for i in range(60):
        jobs.submit(JobDraft(kind="count", key=f"job {i}"))
    _together(WORK, *((path, name, tmp_path / "done") for name in ("ann", "bob")))
    assert sorted((tmp_path / "done").read_text().splitlines()) == sorted(f"job {i}" for i in range(60))
    assert jobs.counts() == {"ready": 0, "running": 0, "done": 60, "failed": 0}


MID_TRANSACTION = """
import sys, time
from undrift.ids import SystemClock
from undrift.state.jobs import Jobs
from undrift.state.sql import SqliteStore
from datetime import timedelta
store = SqliteStore(sys.argv[1])
assert Jobs(store, SystemClock()).claim("dead", ["k"], timedelta(seconds=0))
with store.write() as transaction:
    transaction.execute("put_setting", {"name": "a", "value": "2"})
    transaction.execute("mark_seen", [{"id": str(i), "at": i} for i in range(20_000)])
    print("in the middle", flush=True)
    time.sleep(60)
"""


def test_a_process_killed_in_the_middle_of_a_transaction_leaves_nothing_of_it(store: SqliteStore, path: Path) -> None:
    journal, jobs = Journal(store, SystemClock()), Jobs(store, SystemClock())
    journal.put_setting("a", 1)
    jobs.submit(JobDraft(kind="k", key="k"))
    child = subprocess.Popen([sys.executable, "-c", MID_TRANSACTION, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "in the middle\n"
    assert journal.get_setting("a") == 1, "readers neither wait for a writer nor see what it has not committed"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert (journal.get_setting("a"), journal.seen(["5"])) == (1, set())
    journal.put_setting("a", 3)
    taken_over = jobs.claim("alive", ["k"], timedelta(minutes=1))
    assert taken_over is not None
    assert (taken_over.attempts, journal.get_setting("a")) == (2, 3)


FULL_DISK = """
import resource, signal, sys
from undrift.errors import StateError
from undrift.event import Draft
from undrift.ids import SystemClock
from undrift.state.journal import Journal
from undrift.state.sql import SqliteStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(SqliteStore(sys.argv[1]), SystemClock())
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
draft = Draft(kind="gate.judged", subject="model:a", at=SystemClock().now(), actor="t", why="w" * 2000)
for i in range(10_000):
    try:
        journal.record([draft])
    except StateError as error:
        print(i, error.hint)
        break
"""


def test_a_disk_that_runs_full_loses_nothing_that_was_committed(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True)
    written, _, hint = done.stdout.partition(" ")
    assert int(written) > 10
    assert "disk" in hint
    journal = Journal(SqliteStore(path), SystemClock())
    assert journal.verify() == int(written)
    journal.record([_draft(1)])
    assert journal.verify() == int(written) + 1


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"this is a letter, not a database\n" * 100)
    with pytest.raises(StateError, match=r"cannot be used(.|\n)*no SQLite file"):
        SqliteStore(path)
    assert path.read_bytes().startswith(b"this is a letter"), "what is not ours is left as it is"


def test_a_damaged_file_is_reported_when_it_is_met(path: Path) -> None:
    store = SqliteStore(path)
    journal = Journal(store, SystemClock())
    for i in range(200):
        journal.record([_draft(i)])
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(size // 2))
    with pytest.raises(StateError, match=r"restore it from a backup|cannot be used"):
        Journal(SqliteStore(path), SystemClock()).verify()


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StateError, match="cannot be made"):
        SqliteStore(tmp_path / "file" / "undrift.db")
    with pytest.raises(StateError, match="cannot be used"):
        SqliteStore(tmp_path)


def test_a_newer_schema_is_left_alone(path: Path) -> None:
    SqliteStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StateError, match="schema 99"):
        SqliteStore(path)


def test_a_write_inside_a_write_is_refused_and_undoes_the_outer_one(store: SqliteStore) -> None:
    def write_twice() -> None:
        with store.write() as outer:
            outer.execute("put_setting", {"name": "a", "value": "1"})
            with store.write():
                pass

    with pytest.raises(ConflictError, match="inside a write"):
        write_twice()
    assert store.read("setting", {"name": "a"}) == []
    with store.write() as again:
        again.execute("put_setting", {"name": "a", "value": "2"})


def test_every_named_statement_is_one_that_the_database_accepts(store: SqliteStore) -> None:
    from undrift.state.sql import _statements

    assert len(_statements()) > 25
    with sqlite3.connect(store.path) as connection:
        for name, statement in _statements().items():
            holes = {word.strip("(),;") for word in statement.replace("(:", "( :").split()}
            values = {word.lstrip(":"): None for word in holes if word.startswith(":")}
            connection.execute(f"EXPLAIN {statement}", values)
            assert statement.count(";") == 1, name
    connection.close()


def test_threads_have_connections_of_their_own(store: SqliteStore) -> None:
    found: list[object] = []
    with store.write() as transaction:
        transaction.execute("put_setting", {"name": "a", "value": "1"})
        thread = threading.Thread(target=lambda: found.append(store.read("setting", {"name": "a"})))
        thread.start()
        thread.join(10)
    assert found == [[]], "another thread saw what was not committed"


@pytest.mark.parametrize("form", ["{}", "sqlite:{}", "sqlite://{}"])
def test_a_url_or_a_path_names_the_file(tmp_path: Path, form: str) -> None:
    path = tmp_path / "new folder" / "undrift.db"
    store = SqliteStore(form.format(path))
    Journal(store, FixedClock(SystemClock().now())).put_setting("a", 1)
    store.close()
    assert path.is_file()
    assert Journal(SqliteStore(path), SystemClock()).get_setting("a") == 1
