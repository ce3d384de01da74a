"""`pg-durable start`, `fmt` and `explain` as a shell sees them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import Database

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    path = tmp_path / "job.flow"
    path.write_text("'SELECT 1'|=>n\n~>'SELECT $n + {more}'\n")
    return path


def command(db: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "worker")}
    written = [sys.executable, "-m", "pg_durable", *arguments, "--dsn", db.dsn("app")]
    return subprocess.run(written, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_start_starts_the_flow_with_its_variables(app: Database, flow: Path) -> None:
    done = command(app, "start", str(flow), "--label", "job", "--var", "more=2")
    assert done.returncode == 0, done.stderr
    run = done.stdout.strip()
    assert app.rows("select label, status from df.instances where id = %s", run) == [("job", "pending")]
    with app.connect("app") as session:
        session.execute("call df_engine.work(1000, false, null)")
    assert app.sql("select df.result(%s)::json -> 'rows' -> 0 ->> '?column?'", run) == "3"
    assert app.sql("select df.getvar('more')") is None


def test_a_flow_that_is_not_well_formed_starts_nothing(app: Database, flow: Path) -> None:
    flow.write_text("'SELECT 1' ~>\n")
    done = command(app, "start", str(flow), "--var", "more=2")
    assert done.returncode == 1
    assert "flow syntax error at line 1, column 14" in done.stderr and "Traceback" not in done.stderr
    assert app.sql("select df.getvar('more')") is None


def test_fmt_writes_the_canonical_form_once(app: Database, flow: Path) -> None:
    assert command(app, "fmt", str(flow), "--check").returncode == 1
    assert command(app, "fmt", str(flow)).returncode == 0
    assert flow.read_text() == "'SELECT 1' |=> n ~> 'SELECT $n + {more}'\n"
    assert command(app, "fmt", str(flow), "--check").returncode == 0


def test_fmt_says_in_json_what_it_has_done(app: Database, flow: Path) -> None:
    said = [command(app, "fmt", str(flow), "--json", *more).stdout for more in (["--check"], [], [])]
    found = [(each["formatted"], each["written"]) for each in map(json.loads, said)]
    assert found == [(False, False), (False, True), (True, False)]


def test_fmt_keeps_its_hands_off_comments(app: Database, flow: Path) -> None:
    text = "-- why\n'SELECT 1'   ~> 'SELECT ''-- not one'''\n"
    flow.write_text(text)
    assert command(app, "fmt", str(flow)).returncode == 2
    assert flow.read_text() == text
    assert command(app, "fmt", str(flow), "--drop-comments").returncode == 0
    assert flow.read_text() == "'SELECT 1' ~> $$SELECT '-- not one'$$\n"


def test_explain_draws_a_file_and_a_run(app: Database, flow: Path) -> None:
    assert "SELECT 1" in command(app, "explain", str(flow)).stdout
    run = command(app, "start", str(flow), "--var", "more=2").stdout.strip()
    assert "SELECT 1" in command(app, "explain", run).stdout


def test_explain_writes_a_picture_of_a_file_and_of_a_run(app: Database, flow: Path, tmp_path: Path) -> None:
    run = command(app, "start", str(flow), "--var", "more=2").stdout.strip()
    for what in (str(flow), run):
        picture = tmp_path / "picture.svg"
        done = command(app, "explain", what, "--svg", str(picture))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        text = picture.read_text("utf-8")
        assert text.startswith("<svg ") and text.endswith("</svg>\n") and "SELECT 1" in text
        picture.unlink()
    assert command(app, "explain", run, "--svg", "-").stdout == text
    for wrong, said in (
        (("deadbeef", "--svg", "-"), "not found"), (("hello", "--svg", "-"), "nothing to draw"),
        ((run, "--deep", "--svg", "-"), "leave out --deep"),
        ((run, "--svg", str(tmp_path / "no" / "x")), "No such file"),
    ):  # fmt: skip
        failed = command(app, "explain", *wrong)
        assert failed.returncode == 1 and said in failed.stderr and "Traceback" not in failed.stderr, failed.stderr


def test_deep_draws_what_a_run_has_called_too(app: Database, flow: Path) -> None:
    flow.write_text("call('select 1' ~> call('select 2'), label => 'below')")
    run = command(app, "start", str(flow)).stdout.strip()
    app.rows("call df.work()")
    below = app.sql("select id from df.instances where parent_id = %s", run)
    lowest = app.sql("select id from df.instances where parent_id = %s", below)
    shallow = command(app, "explain", run).stdout
    deep = command(app, "explain", run, "--deep").stdout
    assert deep.startswith(shallow)
    assert f"CALL 'select 1' ~> call('select 2') (below) → {below} ✓" in shallow
    assert f"\n    Instance: {below} (below)\n" in deep
    assert f"\n        Instance: {lowest}\n" in deep
    assert "\n        SQL: select 2 ✓" in deep


def test_a_variable_has_a_name(app: Database, flow: Path) -> None:
    assert "K=V" in command(app, "start", str(flow), "--var", "more").stderr
