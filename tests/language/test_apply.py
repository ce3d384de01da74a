"""`pg-durable apply` and `pg-durable start @name`, as a shell sees them."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.language.test_flow_commands import command
from tests.support import Database, member_of_other

LISTED = "select name, version, flow, comment from df.definitions order by name, version"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    flows = tmp_path / "flows"
    flows.mkdir()
    (flows / "bill.flow").write_text("-- One invoice,\n--  and its lines\n'SELECT $input.n AS n'\n")
    (flows / "pay.flow").write_text("/* Pays. */ call('@bill', input => '{\"n\": 1}')\n")
    (flows / "notes.txt").write_text("no flow")
    return flows


def apply(db: Database, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return command(db, "apply", str(folder), *options)


def test_a_folder_is_defined_once(app: Database, folder: Path) -> None:
    assert apply(app, folder, "--check").returncode == 1
    assert app.rows(LISTED) == []
    done = apply(app, folder)
    assert (done.returncode, done.stdout) == (0, "new      bill:1\nnew      pay:1\n"), done.stderr
    assert app.rows(LISTED) == [
        ("bill", 1, "'SELECT $input.n AS n'", "One invoice,\n and its lines"),
        ("pay", 1, "call('@bill', input => '{\"n\": 1}')", "Pays."),
    ]
    assert apply(app, folder, "--check").returncode == 0


def test_what_has_changed_is_said_and_with_check_not_done(app: Database, folder: Path) -> None:
    apply(app, folder)
    (folder / "bill.flow").write_text("'SELECT 2 AS n'")
    (folder / "pay.flow").write_text((folder / "pay.flow").read_text().replace("Pays.", "Pays it."))
    expected = [{"name": "bill", "version": 2, "change": "changed"}, {"name": "pay", "version": 1, "change": "comment"}]
    for options, code in ((["--check"], 1), ([], 0)):
        done = apply(app, folder, "--json", *options)
        assert (done.returncode, json.loads(done.stdout)) == (code, expected)
    assert [row[1::2] for row in app.rows(LISTED)] == [(1, "One invoice,\n and its lines"), (2, None), (1, "Pays it.")]


def test_all_files_are_defined_or_none(app: Database, folder: Path) -> None:
    (folder / "a.flow").write_text("'SELECT 1' ~>\n")
    (folder / "not a name.flow").write_text("'SELECT 1'\n")
    done = apply(app, folder)
    assert done.returncode == 1
    assert "a.flow: flow syntax error at line 1" in done.stderr and "not a name.flow: invalid name" in done.stderr
    assert "2 of 4 files" in done.stderr and "Traceback" not in done.stderr
    assert app.rows(LISTED) == []


def test_a_folder_without_flows_is_an_error(app: Database, tmp_path: Path) -> None:
    assert "no file" in apply(app, tmp_path).stderr


def test_for_another_role_one_must_be_its_member(app: Database, folder: Path) -> None:
    assert "no member of role" in apply(app, folder, "--owner", "other").stderr
    with member_of_other(app):
        assert apply(app, folder, "--owner", "other").returncode == 0
        assert apply(app, folder, "--owner", "other", "--check").returncode == 0
    assert [row[0] for row in app.rows(LISTED, user="other")] == ["bill", "pay"]


def test_start_takes_a_name_and_all_that_a_start_takes(app: Database, folder: Path, tmp_path: Path) -> None:
    apply(app, folder)
    (tmp_path / "input.json").write_text('{"n": 5}')
    options = ["--input", str(tmp_path / "input.json"), "--key", "k", "--label", "L", "--priority", "4", "--json",
               "--start-at", "2001-01-01 00:00+00", "--database", app.name]  # fmt: skip
    first, second = (command(app, "start", "@bill", *options) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout) == json.loads(second.stdout)
    query = "select id, definition, input, key, label, priority, database, start_at < now() from df.instances"
    assert app.rows(query) == [(json.loads(first.stdout)["id"], "bill:1", {"n": 5}, "k", "L", 4, app.name, True)]
    refused = command(app, "start", "@bill", *options, "--on-conflict", "error")
    assert refused.returncode == 1 and "has the key" in refused.stderr
    assert "there is no definition @nothing" in command(app, "start", "@nothing").stderr
    assert "Traceback" not in command(app, "start", "@bill", "--input", str(folder / "bill.flow")).stderr


def test_start_waits_and_says_how_it_ended(app: Database, folder: Path, tmp_path: Path) -> None:
    """The run has ended already: a start with its key returns its id."""
    apply(app, folder)
    (tmp_path / "input.json").write_text('{"n": 5}')
    run = command(app, "start", "@bill", "--key", "k", "--input", str(tmp_path / "input.json")).stdout.strip()
    app.rows("call df.work()")
    done = command(app, "start", "@bill", "--key", "k", "--wait", "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, said["id"], said["status"], said["result"]["rows"]) == (0, run, "completed", [{"n": 5}])
    failed = command(app, "start", "@bill", "--key", "f")
    app.rows("call df.work()")
    done = command(app, "start", "@bill", "--key", "f", "--wait", "--json")
    assert (done.returncode, json.loads(done.stdout)["status"]) == (1, "failed"), failed.stderr
