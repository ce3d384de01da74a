"""`pg-durable test`, as a shell sees it."""

import json
from pathlib import Path

import pytest

from tests.support import Database, wait_until
from tests.terminal import command, on_a_terminal

FLOW = """
'insert into fx (t) values (''begun'')'
~> sleep(3600)
~> wait_for_signal('approve') |=> 'approval'
~> if('SELECT $approval.data.ok', 'select $input.n * 2 as n', 'select 1/0')
"""


@pytest.fixture
def files(db: Database, tmp_path: Path) -> Path:
    db.sql("create table fx (t text)")
    (tmp_path / "approve.flow").write_text(FLOW)
    (tmp_path / "input.json").write_text('{"n": 21}')
    (tmp_path / "yes.json").write_text('{"signals": {"approve": {"ok": true}}}')
    (tmp_path / "no.json").write_text('{"signals": {"approve": {"ok": false}}}')
    return tmp_path


def arguments(db: Database, files: Path, mocks: str) -> tuple[str, ...]:
    given = ("--input", str(files / "input.json"), "--mocks", str(files / mocks))
    return ("test", str(files / "approve.flow"), *given, "--dsn", db.dsn("app"))


def test_a_flow_that_completes(db: Database, files: Path) -> None:
    done = command(*arguments(db, files, "yes.json"), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)
    assert rows[-1]["status"] == "completed"
    assert rows[-1]["value"] == {"rows": [{"n": 42}], "row_count": 1}
    assert [row["node"] for row in rows if row["node"]][-3:-2] == ["approval"]
    assert db.sql("select count(*) from fx") == 0
    assert db.sql("select count(*) from df.instances") == 0


def test_a_flow_that_fails(db: Database, files: Path) -> None:
    done = command(*arguments(db, files, "no.json"))
    assert done.returncode == 1
    assert done.stderr.startswith("failed: SQL execution failed: division by zero (SQLSTATE 22012)")
    assert "approval" in done.stdout
    assert command(*arguments(db, files, "no.json"), "--json").returncode == 1


def test_a_flow_that_does_not_end(db: Database, tmp_path: Path) -> None:
    (tmp_path / "endless.flow").write_text("loop('select 1')")
    done = command("test", str(tmp_path / "endless.flow"), "--steps", "20", "--dsn", db.dsn("app"))
    assert (done.returncode, done.stderr) == (1, "running: after 20 moves\n")


def test_a_definition(db: Database) -> None:
    db.sql("select df.define('twice', df.flow('''select $input.n * 2 as n'''))")
    done = command("test", "@twice", "--input", "-", "--json", "--dsn", db.dsn("app"), given='{"n": 4}')
    assert json.loads(done.stdout)[-1]["value"]["rows"] == [{"n": 8}]


def test_a_mock_that_means_nothing_is_refused(db: Database, files: Path) -> None:
    (files / "wrong.json").write_text('{"signal": {}}')
    done = command(*arguments(db, files, "wrong.json"))
    assert (done.returncode, done.stdout) == (1, "")
    assert 'mocks has an unknown key "signal"' in done.stderr


def test_eighty_columns(db: Database, files: Path) -> None:
    with on_a_terminal(*arguments(db, files, "no.json"), COLUMNS="80") as terminal:
        terminal.process.wait(15)
        wait_until(lambda: "failed: SQL execution failed" in terminal.shown, 15)
        lines = terminal.shown.partition("failed: SQL")[0].splitlines()
        assert max(len(line.rstrip()) for line in lines) <= 80
        assert all(text in terminal.shown for text in ("approval", "1:00:00", "the run"))
