"""What a failed step said is shown first and whole, whatever constructs are around the step."""

import re
from pathlib import Path

import pytest

from tests.support import Database, wait_until
from tests.terminal import command, on_a_terminal
from tests.worker.process import WorkerProcess, await_end, start

SAID = (
    "the order of 14 November has no address, and without one neither the invoice nor the parcel can be sent anywhere"
)
STEP = f"'do $a$ begin raise exception ''{SAID}''; end $a$'"
CAUSE = f"{SAID} (SQLSTATE P0001)"
FLOWS = {
    "alone": STEP,
    "in a join": f"'select 1' & {STEP}",
    "in joins": f"'select 1' & ('select 2' & ('select 3' & {STEP}))",
    "in a race": f"df.race({STEP}, df.sleep(60))",
    "in a race, on the right": f"df.race(df.sleep(60), 'select 1' ~> {STEP})",
    "in a race in joins": f"'select 1' & ('select 2' & df.race(df.sleep(60), {STEP})) ~> 'select 4'",
    "in a loop": f"df.loop('select 1' & {STEP}, 'select false')",
}


def column(printed: str, name: str) -> str:
    """What stands under a heading, joined."""
    lines = printed.splitlines()
    head = next(n for n, line in enumerate(lines) if re.search(rf"\b{name}\b", line))
    place = lines[head].index(name)
    return " ".join(" ".join(line[place:].split()) for line in lines[head + 2 :])


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
def test_the_cause_is_first_and_whole(db: Database, worker: WorkerProcess, flow: str) -> None:
    run = start(db, flow, "invoices")
    assert await_end(db, run) == "failed"
    # The contract's text is as it was.
    assert str(db.sql("select error from df.instances where id = %s", run)).endswith(f"SQL execution failed: {CAUSE}")
    assert db.rows("select error from df.failed_steps") == [(CAUSE,)]
    assert f"\nOutput:   {CAUSE}" in db.sql("select df.explain(%s)", run)
    for arguments in (("explain", run), ("show", run), ("top",), ("list",)):
        done = command(*arguments, "--dsn", db.dsn("app"))
        printed = column(done.stdout, "output") if arguments == ("list",) else " ".join(done.stdout.split())
        assert CAUSE in printed, done.stdout


@pytest.mark.parametrize("width", ["200", "80", "40", "20"])
def test_terminals_of_all_widths_show_it_whole(db: Database, worker: WorkerProcess, width: str) -> None:
    run = start(db, FLOWS["in joins"], "invoices")
    assert await_end(db, run) == "failed"
    letters = "".join(CAUSE.split())
    for arguments in (("list",), ("top", "--once"), ("show", run), ("watch", run)):
        with on_a_terminal(*arguments, "--dsn", db.dsn("app"), COLUMNS=width) as terminal:
            terminal.to_its_end()
            shown = column(terminal.shown, "output") if arguments == ("list",) and int(width) > 60 else terminal.shown
            assert letters in "".join(shown.split()), terminal.shown
            assert "branch 2 failed" not in shown and "Traceback" not in shown


def test_waiting_for_a_retry_begins_with_the_cause(db: Database, worker: WorkerProcess) -> None:
    flow = "'do $a$ begin raise exception ''try later'' using errcode = ''40001''; end $a$'"
    run = start(db, f"df.retry({flow}, max_attempts => 5, initial_delay => interval '1 hour')")
    wait_until(lambda: db.sql("select count(*) from df.waiting where kind = 'retry'") == 1)
    assert str(db.sql("select waits_for from df.waiting where instance_id = %s", run)).startswith("try later")


def test_what_a_step_says_itself_is_not_taken_for_a_prefix(db: Database, worker: WorkerProcess) -> None:
    own = "JOIN branch 7 failed: is what the supplier wrote"
    run = start(db, f"'select 1' & 'do $a$ begin raise exception ''{own}''; end $a$'")
    assert await_end(db, run) == "failed"
    assert db.rows("select error from df.failed_steps") == [(f"{own} (SQLSTATE P0001)",)]


def test_start_wait_says_the_cause(db: Database, worker: WorkerProcess, tmp_path: Path) -> None:
    file = tmp_path / "a.flow"
    file.write_text("'select 1' & ('select 2' & 'select 1/0')")
    done = command("start", str(file), "--wait", "--dsn", db.dsn("app"))
    assert (done.returncode, done.stderr) == (1, "failed: division by zero (SQLSTATE 22012)\n")
