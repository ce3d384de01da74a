"""`pg-durable start --var` gives a variable to the run that it starts, and to no other."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import Database, wait_until
from tests.terminal import command, environment
from tests.worker.process import WorkerProcess, await_end, start

WAITING = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    file = tmp_path / "a.flow"
    file.write_text("""'select ''{size}'' as size, ''{place}'' as place'""")
    return file


def values(db: Database, run: str) -> list[str]:
    return list(dict(db.sql("select df.result(%s)::json -> 'rows' -> 0", run)).values())


def test_a_later_run_has_the_variables_of_before(db: Database, worker: WorkerProcess, flow: Path) -> None:
    db.sql("select df.setvar('place', 'Riga')")
    variables = ("--var", "place=Oslo", "--var", "size=1", "--var", "size=2")
    done = command("start", str(flow), *variables, "--wait", "--dsn", db.dsn("app"))
    assert (done.returncode, done.stderr) == (0, "")
    assert values(db, done.stdout.split()[0]) == ["2", "Oslo"]
    assert db.rows("select df.getvar('place'), df.getvar('size')") == [("Riga", None)]
    later = start(db, "'select ''{place}'' as place'")
    assert await_end(db, later) == "completed"
    assert values(db, later) == ["Riga"]


def test_nothing_is_changed_when_the_start_fails(db: Database, flow: Path) -> None:
    db.sql("select df.setvar('place', 'Riga')")
    flow.write_text("'select ' ~>")
    assert command("start", str(flow), "--var", "place=Oslo", "--var", "size=1", "--dsn", db.dsn("app")).returncode == 1
    assert db.rows("select df.getvar('place'), df.getvar('size')") == [("Riga", None)]


def test_what_others_set_meanwhile_is_kept(db: Database, worker: WorkerProcess, flow: Path) -> None:
    db.sql("select df.setvar('place', 'Riga')")
    with db.connect("app", autocommit=False) as other:
        other.execute("select df.setvar('place', 'Bergen')")
        line = [sys.executable, "-m", "pg_durable", "start", str(flow), "--var", "place=Oslo", "--var", "size=1"]
        line += ["--dsn", db.dsn("app")]
        started = subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, text=True)
        wait_until(lambda: db.admin(WAITING) == 1, 30)
        other.commit()
    run = started.communicate(timeout=30)[0].strip()
    assert await_end(db, run) == "completed"
    assert values(db, run) == ["1", "Oslo"]
    assert db.sql("select df.getvar('place')") == "Bergen"
