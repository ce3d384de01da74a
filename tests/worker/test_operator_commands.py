"""The operator's commands, as processes."""

import json
from typing import Any

import psycopg
import pytest

from tests import state
from tests.support import Database, Pump, wait_until
from tests.terminal import command, on_a_terminal
from tests.worker.process import WorkerProcess, await_end, start

FLOW = "'select 7 as number' |=> 'n' ~> (df.wait_for_signal('go') & 'select $n')"


def asked(db: Database, *arguments: str) -> str:
    """What a command prints that must succeed, as the role app."""
    done = command(*arguments, "--dsn", db.dsn("app"))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def as_json(db: Database, *arguments: str) -> Any:
    return json.loads(asked(db, *arguments, "--json"))


def test_list_shows_the_newest_runs_and_filters(db: Database) -> None:
    runs = [start(db, "'select 1'", label) for label in ("first", "second", "second")]
    assert {row["instance_id"] for row in as_json(db, "list")} == set(runs)
    assert {row["instance_id"] for row in as_json(db, "list", "--label", "second")} == set(runs[1:])
    assert as_json(db, "list", "--status", "failed") == []
    assert len(as_json(db, "list", "--limit", "1")) == 1
    assert all(run in asked(db, "list") for run in runs)


def test_list_asks_for_a_time_a_role_and_all(db: Database) -> None:
    runs = [start(db, "'select 1'") for _ in range(25)]
    others = start(db, "'select 1'", user="other")
    db.admin(state.STARTED_AGO, "2 h", runs[0])
    assert len(as_json(db, "list")) == 20
    assert {row["instance_id"] for row in as_json(db, "list", "--all")} == set(runs)
    assert {row["instance_id"] for row in as_json(db, "list", "--all", "--since", "1 hour")} == set(runs[1:])
    (hour_ago,) = db.rows("select (now() - interval '1 h')::text")[0]
    assert {row["instance_id"] for row in as_json(db, "list", "--all", "--since", hour_ago)} == set(runs[1:])
    done = command("list", "--role", "other", "--json", "--dsn", db.dsn())
    assert [(row["instance_id"], row["role"]) for row in json.loads(done.stdout)] == [(others, "other")]
    assert as_json(db, "list", "--role", "other") == []
    done = command("list", "--since", "yesteryear", "--dsn", db.dsn("app"))
    assert (done.returncode, done.stdout) == (1, "") and "yesteryear" in done.stderr
    done = command("list", "--limit", "1001", "--dsn", db.dsn("app"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "exceeds list_instances_max_limit (1000)\nRead them all with --all" in done.stderr
    done = command("list", "--all", "--limit", "3", "--dsn", db.dsn("app"))
    assert done.returncode == 2 and "not allowed with" in done.stderr


def test_colours_are_for_terminals(db: Database) -> None:
    start(db, "'select 1'")
    assert "\x1b[" not in asked(db, "list")
    for variables, coloured in (({"NO_COLOR": ""}, True), ({"NO_COLOR": "1", "TERM": "dumb"}, False)):
        with on_a_terminal("list", "--dsn", db.dsn("app"), **({"TERM": "xterm"} | variables)) as terminal:
            assert terminal.process.wait(15) == 0
            wait_until(lambda: "pending" in terminal.shown, 15)
            assert terminal.colours == coloured


def test_another_roles_runs_are_not_there(db: Database) -> None:
    run = start(db, "'select 1'", user="other")
    assert as_json(db, "list") == []
    done = command("show", run, "--dsn", db.dsn("app"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"pg-durable: run '{run}' not found, or not visible to role app\n"


def test_show_has_tree_steps_and_signals(db: Database, worker: WorkerProcess) -> None:
    run = start(db, FLOW, "shown")
    asked(db, "signal", run, "go", '{"by": "kim"}')
    await_end(db, run)
    shown = asked(db, "show", run)
    assert f"Instance: {run} (shown)" in shown
    assert "→ JOIN (2) ✓" in shown
    assert '{"rows": [{"number": 7}], "row_count": 1}' in shown
    found = as_json(db, "show", run)
    assert found["run"]["status"] == "completed"
    assert [step["attempts"] for step in found["steps"] if step["node_type"] == "SQL"] == [1, 1]
    assert [(s["signal_name"], s["status"], s["signal_data"]) for s in found["signals"]] == [
        ("go", "delivered", {"by": "kim"})
    ]


def test_a_block_is_shown_as_its_statements(db: Database, worker: WorkerProcess) -> None:
    run = start(db, "df.block('select 1', 'select 1/0')")
    await_end(db, run)
    shown = asked(db, "show", run)
    assert "BLOCK (2): select 1; select 1/0 ✗" in shown
    assert "\nselect 1; select 1/0\n" in shown
    assert [step["node_type"] for step in as_json(db, "show", run)["steps"]] == ["BLOCK"]


def test_markup_in_a_label_is_text(db: Database) -> None:
    start(db, "'select ''[bold]'''", "[red]alert[/red]")
    assert "[red]alert[/red]" in asked(db, "list")


@pytest.mark.parametrize(("flow", "code"), [("'select 1'", 0), ("'select 1/0'", 1)])
def test_watch_ends_with_the_run(db: Database, worker: WorkerProcess, flow: str, code: int) -> None:
    run = start(db, f"df.sleep(0.3) ~> {flow}")
    done = command("watch", run, "--interval", "0.1", "--dsn", db.dsn("app"))
    assert (done.returncode, done.stderr) == (code, "")
    assert ("SQL: select 1 ✓" if code == 0 else "SQL: select 1/0 ✗") in done.stdout


def test_watch_ends_when_the_run_is_cancelled(db: Database) -> None:
    run = start(db, "'select 1'")
    assert asked(db, "cancel", run, "--reason", "not today") == f"Instance {run} cancelled: not today\n"
    done = command("watch", run, "--json", "--dsn", db.dsn("app"))
    assert done.returncode == 1
    assert json.loads(done.stdout)["output"] == "canceled: not today"


def test_a_run_can_be_cancelled_and_undone(db: Database) -> None:
    run = start(db, "df.undo('select 1', 'select 2')")
    assert asked(db, "cancel", run, "--undo") == f"Instance {run} cancelled: Cancelled by user\n"
    assert asked(db, "cancel", run, "--undo").startswith(f"Instance {run} is already cancelled; nothing to cancel")


def test_a_run_is_paused_resumed_run_again_and_forgotten(db: Database) -> None:
    run = start(db, "'select 1'")
    assert asked(db, "pause", run, "--reason", "not now") == "OK\n"
    assert db.sql("select wait_reason from df.instances where id = %s", run).endswith(": not now")
    assert as_json(db, "resume", run) == {"answer": "OK"}
    again = asked(db, "rerun", run).strip()
    assert db.sql("select status from df.instances where id = %s", again) == "pending"
    refused = command("forget", run, "--dsn", db.dsn("app"))
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (1, f"pg-durable: instance {run} is pending")
    asked(db, "cancel", run)
    assert asked(db, "resume", run) == "OK\n"
    assert db.sql("select status from df.instances where id = %s", run) == "running"
    asked(db, "cancel", run)
    assert asked(db, "forget", run) == "OK\n"
    refused = command("resume", run, "--dsn", db.dsn("app"))
    assert refused.returncode == 1 and "df.start" in refused.stderr


def test_a_node_is_skipped(db: Database) -> None:
    run = start(db, "'select 1' |=> 'n' ~> 'select $n'")
    first = db.sql("select id from df.nodes where instance_id = %s and result_name = 'n'", run)
    refused = command("skip", run, "00000000", "1", "--dsn", db.dsn("app"))
    assert refused.returncode == 1 and "no such node" in refused.stderr
    assert asked(db, "skip", run, first, '{"a": 1}') == "OK\n"
    assert db.sql("select result from df.nodes where id = %s", first) == {"a": 1}


def test_schedules_are_shown_paused_resumed_and_triggered(db: Database) -> None:
    assert (asked(db, "schedules"), as_json(db, "schedules")) == ("none\n", [])
    db.sql("select df.schedule('nightly', '0 3 * * *', 'select 1')")
    assert "nightly" in asked(db, "schedules")
    assert asked(db, "schedules", "pause", "nightly", "--reason", "not now") == "OK\n"
    assert as_json(db, "schedules")[0]["reason"].endswith(": not now")
    assert asked(db, "schedules", "resume", "nightly").startswith("20")
    run = asked(db, "schedules", "trigger", "nightly").strip()
    (schedule,) = as_json(db, "schedules")
    assert (schedule["last_status"], schedule["last_instance_id"]) == ("pending", run)
    assert [tick["instance_id"] for tick in as_json(db, "schedules", "ticks", "nightly")] == [run]
    administrator = ("--owner", "app", "--dsn", db.dsn())
    assert command("schedules", "pause", "nightly", *administrator).stdout == "OK\n"
    assert command("schedules", *administrator).stdout == asked(db, "schedules")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["trigger"], "schedules trigger needs the name"), (["pause", "none"], 'there is no schedule "none"')],
)
def test_a_schedule_that_is_not_there(db: Database, arguments: list[str], said: str) -> None:
    done = command("schedules", *arguments, "--dsn", db.dsn("app"))
    assert (done.returncode, done.stdout) == (1, "") and said in done.stderr


def test_top_shows_what_goes_on(db: Database, worker: WorkerProcess) -> None:
    start(db, "df.wait_for_signal('yes')")
    slow = start(db, "'select pg_sleep(60)'")
    await_end(db, start(db, "'select 1'"))
    wait_until(lambda: db.sql("select count(*) from df.instances where status = 'running'") == 2)
    found = as_json(db, "top")
    assert {row["status"]: row["runs"] for row in found["runs"]} == {"completed": 1, "running": 2}
    assert found["done in the last 10 s"][0]["steps"] == 1
    assert [row["instance_id"] for row in found["longest running steps"]] == [slow]
    assert [(row["kind"], row["waits_for"]) for row in found["waiting"]] == [("signal", "yes")]
    assert [row["alive"] for row in found["workers"]] == [True]
    printed = asked(db, "top")
    assert all(text in printed for text in ("select pg_sleep(60)", "1 alive", "signal", "1 completed · 2 running"))
    asked(db, "cancel", slow)


def test_libpq_variables_say_where(db: Database) -> None:
    run = start(db, "'select 1'")
    info = psycopg.conninfo.conninfo_to_dict(db.dsn("app"))
    done = command("list", PGHOST=str(info["host"]), PGUSER="app", PGDATABASE=db.name, PGPORT=str(info.get("port", "")))
    assert (done.returncode, done.stderr) == (0, "")
    assert run in done.stdout


def test_a_role_is_paused_and_resumed(db: Database) -> None:
    run = start(db, "'select 1'")
    assert asked(db, "pause", "--role", "app", "--reason", "not now") == "OK\n"
    assert db.sql("select wait_reason from df.instances where id = %s", run).endswith(": not now")
    assert asked(db, "resume", "--role", "app") == "OK\n"
    assert db.sql("select wait_reason from df.instances where id = %s", run) is None
    for arguments in (["pause"], ["pause", run, "--role", "app"], ["resume"]):
        assert command(*arguments, "--dsn", db.dsn("app")).returncode == 2


def test_check_finds_nothing_or_says_what(db: Database) -> None:
    run = start(db, "'select 1'")
    done = command("check", "--dsn", db.dsn())
    assert (done.returncode, done.stdout) == (0, "no problems\n")
    db.admin(state.LOSE_THE_QUEUE)
    done = command("check", "--json", "--dsn", db.dsn())
    assert done.returncode == 1
    assert [problem["instance_id"] for problem in json.loads(done.stdout)] == [run]


def test_check_is_for_administrators(db: Database) -> None:
    done = command("check", "--dsn", db.dsn("app"))
    assert (done.returncode, done.stderr) == (1, "pg-durable: permission denied for function check\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["signal", "deadbeef", "go"],
        ["skip", "deadbeef", "00000000", "1"],
        *([act, "deadbeef"] for act in ("cancel", "pause", "resume", "rerun", "forget")),
    ],
)
def test_an_unknown_run_is_said_with_a_hint(db: Database, arguments: list[str]) -> None:
    done = command(*arguments, "--dsn", db.dsn("app"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "pg-durable: Instance 'deadbeef' not found or access denied\n"
        "A role sees its own runs, once their start has been committed.\n"
    )


def test_queue_and_stuck_say_what_does_not_move(db: Database) -> None:
    done = command("stuck", "--dsn", db.dsn("app"))
    assert (done.returncode, done.stdout) == (0, "none\n")
    run = start(db, "'select 1'", "a label")
    asked(db, "pause", start(db, "'select 1'", "another"), "--reason", "not now")
    found = as_json(db, "queue")[0]
    assert 0 <= found.pop("oldest") < 60
    assert found == {"role": "app", "lane": "sql", "ready": 1, "running": 0, "slots": 0, "paused": 1,
                     "limited": 0, "wait_reason": "no worker is running"}  # fmt: skip
    done = command("stuck", "--for", "0 s", "--json", "--dsn", db.dsn("app"))
    assert done.returncode == 1
    assert {(row["label"], row["state"], row["query"]) for row in json.loads(done.stdout)} == {
        ("a label", "ready", "select 1"), ("another", "paused", None)
    }  # fmt: skip
    lines = ((["queue"], "no worker is running"), (["stuck", "--for", "0 s"], run), (["list"], "paused"))
    for arguments, text in lines:
        with on_a_terminal(*arguments, "--dsn", db.dsn("app"), COLUMNS="80") as terminal:
            terminal.process.wait(15)
            wait_until(lambda: text in terminal.shown, 15)  # noqa: B023
            assert max(len(line.rstrip()) for line in terminal.shown.splitlines()) <= 80


def test_limits_show_what_runs_and_what_waits(pump: Pump) -> None:
    db = pump.db
    db.sql("select df.set_limit('api', 0)")
    db.admin("select df.set_limit('all', 7, shared => true)")
    start(db, "df.within('api', 'select 1')", "a label")
    pump.work()
    shared, own = as_json(db, "limits")
    assert 0 <= own.pop("oldest") < 60
    assert own == {"name": "api", "owner": "app", "concurrency": 0, "in_use": 0, "waiting": 1, "keys": 1,
                   **dict.fromkeys(("rate", "per", "granted", "paused_until"))}  # fmt: skip
    assert shared == {"name": "all", "owner": "shared", "concurrency": 7, "in_use": 0, "waiting": 0, "keys": None,
                      "oldest": None, **dict.fromkeys(("rate", "per", "granted", "paused_until"))}  # fmt: skip
    assert as_json(db, "queue")[0]["limited"] == 1
    done = command("limits", "--dsn", db.dsn("app"))
    assert (done.returncode, done.stdout.split()[:3]) == (0, ["name", "owner", "concurrency"])


def test_timeline_shows_what_has_happened_and_who_did_it(db: Database) -> None:
    run = start(db, "'select 1'", "a label")
    asked(db, "pause", run, "--reason", "not now")
    asked(db, "cancel", run)
    found = as_json(db, "timeline", run)
    assert [(row["event"], row["by"], row["detail"]) for row in found] == [
        ("run started", "app", None),
        ("paused", "app", "not now"),
        ("cancel asked", "app", "Cancelled by user"),
        ("run cancelled", None, "canceled: Cancelled by user"),
    ]
    assert len(as_json(db, "timeline", run, "--limit", "1")) == 1
    with on_a_terminal("timeline", run, "--dsn", db.dsn("app"), COLUMNS="80") as terminal:
        terminal.process.wait(15)
        wait_until(lambda: "canceled: Cancelled by user" in terminal.shown, 15)
        assert max(len(line.rstrip()) for line in terminal.shown.splitlines()) <= 80
    asked(db, "forget", run)
    assert "Forgotten: by app at " in asked(db, "show", run)


def test_list_says_of_a_paused_run_who_has_paused_it(db: Database) -> None:
    run = start(db, "'select 1'")
    asked(db, "pause", run, "--reason", "not now")
    assert as_json(db, "list")[0]["wait_reason"].endswith(": not now")
    assert "not now" in asked(db, "list")


@pytest.mark.parametrize("text", ["0", "-1", "nan", "soon"])
def test_an_interval_that_is_none(text: str) -> None:
    done = command("top", "--interval", text)
    assert done.returncode == 2
    assert "argument --interval" in done.stderr


def test_a_server_that_is_not_there() -> None:
    done = command("top", "--dsn", "host=/nowhere user=nobody")
    assert done.returncode == 1
    assert done.stderr.startswith("pg-durable: ")
    assert "Traceback" not in done.stderr


def test_a_database_without_pg_durable(db: Database) -> None:
    done = command("list", "--dsn", db.server.dsn_for("template1"))
    assert done.returncode == 1
    assert "Is pg_durable installed in this database?" in done.stderr


def test_watch_redraws_on_a_terminal(db: Database, worker: WorkerProcess) -> None:
    run = start(db, "df.wait_for_signal('go') ~> 'select 1'")
    with on_a_terminal("watch", run, "--interval", "0.1", "--dsn", db.dsn("app")) as terminal:
        wait_until(lambda: "SIGNAL 'go' ⏳" in terminal.shown, 15)
        db.sql("select df.signal(%s, 'go')", run)
        wait_until(lambda: "SQL: select 1 ✓" in terminal.shown, 15)
        assert terminal.process.wait(15) == 0


def test_top_goes_on_until_it_is_interrupted(db: Database) -> None:
    start(db, "'select 1'")
    with on_a_terminal("top", "--interval", "0.1", "--dsn", db.dsn("app")) as terminal:
        wait_until(lambda: "pending" in terminal.shown, 15)
        start(db, "df.wait_for_signal('x')", "a second one")
        terminal.interrupt()
        assert terminal.process.wait(15) == 130
        assert "Traceback" not in terminal.shown


def test_show_has_the_whole_error_and_steps_without_their_json(db: Database, worker: WorkerProcess) -> None:
    run = start(db, "df.wait_for_signal('go', 60) & df.sleep(90) & 'select (repeat(''long '', 60) || ''end'')::int'")
    wait_until(lambda: db.sql("select count(*) from df.failed_steps") == 1)
    shown = asked(db, "show", run)
    assert '"' + "long " * 60 + 'end"' in shown.replace("\n", " ").replace("  ", " ")
    assert sorted(line.split()[:3] for line in shown.splitlines() if line.split()[:1] in (["SIGNAL"], ["SLEEP"])) == [
        ["SIGNAL", "go", "running"],
        ["SLEEP", "90", "s"],
    ]


def test_a_narrow_terminal_leaves_room_for_what_matters(db: Database) -> None:
    start(db, "'select 1'", "a label of thirty characters..")
    with on_a_terminal("list", "--dsn", db.dsn("app"), COLUMNS="80") as terminal:
        assert terminal.process.wait(15) == 0
        wait_until(lambda: "a label of thirty characters.." in terminal.shown, 15)
        assert "iter" not in terminal.shown


def test_of_a_tall_tree_the_part_is_shown_where_the_run_is(db: Database, worker: WorkerProcess) -> None:
    flow = " ~> ".join([*(f"'select {n}'" for n in range(100)), "df.wait_for_signal('go')", "'select 100'"])
    run = start(db, flow)
    with on_a_terminal("watch", run, "--interval", "0.1", "--dsn", db.dsn("app"), LINES="20") as terminal:
        wait_until(lambda: "SIGNAL 'go' ⏳" in terminal.shown, 15)
        assert "lines" in terminal.shown and "SQL: select 0 ✓" not in terminal.shown
        db.sql("select df.signal(%s, 'go')", run)
        wait_until(lambda: "SQL: select 0 ✓" in terminal.shown, 15)
        assert terminal.process.wait(15) == 0


def test_top_says_when_no_worker_is_alive(db: Database) -> None:
    assert "none is alive: nothing goes on" in asked(db, "top")
