"""instance_info, instance_executions, instance_nodes, metrics, the operators' views; who sees what of them."""

from typing import Any

import psycopg
import pytest

from tests.state import A_WORKER_SEEN, HISTORY, OUTCOME_TIMES, RUN_TIMES, VERSION, WAIT_REASON
from tests.support import Database, Pump, Run

PER_RUN = ("df.instance_info", "df.instance_executions", "df.instance_nodes")
FAILED = "SQL execution failed: division by zero (SQLSTATE 22012)"
ONE = '{"rows": [{"v": 1}], "row_count": 1}'


def test_version_and_home_database(db: Database) -> None:
    version = db.admin("select df.version()")
    assert version.startswith(db.admin(VERSION) + " (built ")
    assert version.endswith(" UTC)")
    assert db.admin("select df.target_database()") == db.name


def test_instance_info(pump: Pump) -> None:
    run = pump.run("df.loop('insert into fx values (1)', 'select count(*) < 3 from fx')", "x")
    version = pump.db.admin(VERSION)
    assert pump.db.rows("select * from df.instance_info(%s)", run.id) == [
        (run.id, "x", "pg_durable::orchestration::execute-function-graph", version, 3, "completed",
         '{"rows": [], "row_count": 0}')
    ]  # fmt: skip


@pytest.mark.parametrize("function", PER_RUN)
def test_no_rows_for_null_and_for_the_unknown(db: Database, function: str) -> None:
    assert db.rows(f"select * from {function}(null)", user=None) == []
    assert db.rows(f"select * from {function}('00000000')", user=None) == []


@pytest.mark.parametrize("function", PER_RUN)
def test_no_rows_for_the_runs_of_others(db: Database, function: str) -> None:
    run = db.sql("select df.start('select 1')")
    assert len(db.rows(f"select * from {function}(%s)", run, user="app")) == 1
    assert db.rows(f"select * from {function}(%s)", run, user="other") == []


def test_explain_does_not_find_the_runs_of_others(db: Database) -> None:
    run = db.sql("select df.start('select 1')")
    assert db.sql("select df.explain(%s)", run).startswith(f"Instance: {run}")
    assert db.sql("select df.explain(%s)", run, user="other") == f"Instance '{run}' not found"


def executions(run: Run, limit: int = 5) -> list[tuple[Any, ...]]:
    return run.db.rows("select * from df.instance_executions(%s, %s)", run.id, limit)


def cancel(run: Run) -> None:
    run.db.sql("select df.cancel(%s, 'x')", run.id)


def test_a_run_that_did_not_iterate_has_one_execution(pump: Pump) -> None:
    runs = {
        "Completed": (pump.run("'select 1 as v'"), ONE),
        "Failed": (pump.run("'select 1/0'"), FAILED),
        "Cancelled": (pump.start("'select 1'"), "canceled: x"),
    }
    cancel(runs["Cancelled"][0])
    waiting = pump.start("df.sleep(60)")
    pump.until(lambda: waiting.status == "running")
    for status, (run, output) in [*runs.items(), ("Running", (waiting, None)), ("Running", (pump.start("'x'"), None))]:
        assert [(row[0], row[1], row[4]) for row in executions(run)] == [(1, status, output)]


TURNS = (
    "@> ('insert into fx values (1) returning (select count(*) = 3 from fx)' |=> 'fourth' ~> "
    "('select $fourth' ?> df.sleep(60) !> 'select 1'))"
)


def test_earlier_iterations_of_a_root_loop_are_history(pump: Pump) -> None:
    pump.db.admin("select df.set_setting('loop_min_interval', '0')")
    run = pump.start(TURNS)
    pump.until(lambda: pump.db.sql("select count(*) from df.waiting") == 1)
    pump.db.admin(HISTORY)
    newest = (4, "Running", 1 + 2 + 2 + 1, 0, None)  # the loop, the insert, the condition, what waits
    earlier = [(number, "ContinuedAsNew", 10 * number, 1000 * number + 250, None) for number in (3, 2, 1)]
    assert executions(run) == [newest, *earlier]
    assert executions(run, 2) == [newest, earlier[0]]
    assert executions(run, 1) == [newest]
    assert executions(run, 2_000_000_000) == [newest, *earlier]
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        executions(run, 0)


def test_the_duration_of_a_finished_run_is_that_of_its_last_generation(pump: Pump) -> None:
    run = pump.run("'select 1'")
    pump.db.admin(RUN_TIMES, "2026-01-01 00:00:00+00", "2026-01-01 00:00:07.5+00", run.id)
    pump.db.admin(OUTCOME_TIMES, "2026-01-01 00:00:05+00", "2026-01-01 00:00:07.5+00", run.id, 1)
    assert executions(run)[0][3] == 2500


def test_events_are_the_status_changes_of_the_current_generation(pump: Pump) -> None:
    inner = "df.loop(df.wait_for_signal('go'), 'select true')"
    run = pump.start(f"df.loop('select 1' & {inner} & df.sleep(60), 'select true')")
    for waits in (1, 2):
        pump.until(lambda: pump.db.sql("select count(*) from df.waiting") == 2)
        # the loop, the JOINs, select 1, the inner loop, the signal and the sleep; then a turn of the inner one
        assert executions(run)[0][2] == {1: 1 + 2 + 2 + 1 + 1 + 1, 2: 1 + 2 + 2 + 1 + 1 + 1 + 4}[waits]
        pump.db.sql("select df.signal(%s, 'go')", run.id)
        pump.tick()


def test_metrics_count_all_runs(pump: Pump) -> None:
    pump.db.admin("select df.set_setting('loop_min_interval', '0')")
    runs = [pump.start(TURNS), pump.start("df.sleep(60) ~> 'select 1'")]
    pump.until(lambda: pump.db.sql("select count(*) from df.waiting") == 2)
    runs += [pump.run("'select 1'"), pump.run("'select 1/0'"), pump.start("'select 1'")]
    cancel(runs[-1])
    other = pump.db.sql("select df.start('select 1')", user="other")
    history = "select * from df.instance_executions(%s, 100)"
    rows = [row for run in [*(run.id for run in runs), other] for row in pump.db.rows(history, run, user=None)]
    events = sum(row[2] for row in rows)
    assert events > 0
    assert pump.db.rows("select * from df.metrics()", user=None) == [(6, 2, 1, 2, len(rows), events)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        pump.db.sql("select df.metrics()")


def test_the_second_instance_nodes_has_the_same_rows(pump: Pump) -> None:
    run = pump.run("'select 1 as v' |=> 'n'")
    node = run.node("SQL")["id"]
    assert pump.db.rows(
        "select execution_id, node_id, node_type, query, result_name, left_node, right_node, status, result "
        "from df.instance_nodes(%s, 7)", run.id
    ) == [(1, node, "SQL", "select 1 as v", "n", None, None, "completed", ONE)]  # fmt: skip


def lease(pump: Pump) -> Run:
    """A run whose HTTP step is leased by the worker."""
    run = pump.start("df.http('https://api.github.com/')", "x")
    pump.work()
    assert pump.supervisor.execute("select df_engine.claim_leased(%s, 'http', 1)", [pump.worker]).fetchone()
    return run


def test_running_steps_are_sessions_and_leases(pump: Pump) -> None:
    http = lease(pump).node("HTTP")["id"]
    run = pump.start("'select 1'", "x")
    node = run.node("SQL")["id"]
    with pump.db.connect("app", application_name=f"pg_durable:{run.id}:{node}") as conn:
        pid = conn.info.backend_pid
        rows = pump.db.rows(
            "select node_id, label, pid, worker from df.running_steps order by worker nulls first", user=None
        )
    assert rows == [(node, "x", pid, None), (http, "x", None, pump.worker)]


def test_failed_steps_are_the_cause_and_not_what_follows_from_it(pump: Pump) -> None:
    run = pump.run("df.retry('select 1/0', max_attempts => 3, initial_delay => '10 ms') ~> 'select 2'")
    assert pump.db.rows("select node_id, attempts, error, instance_status from df.failed_steps") == [
        (run.node("select 1/0")["id"], 3, "division by zero (SQLSTATE 22012)", "failed")
    ]


def test_waiting_says_for_what(pump: Pump) -> None:
    pump.db.admin("select df.set_setting('loop_min_interval', '3600')")
    busy = "'do $do$ begin raise exception ''busy'' using errcode = ''40001''; end $do$'"
    run = pump.start(
        f"df.sleep(30) & df.wait_for_schedule('@daily') & df.wait_for_signal('go!', 60) & {busy} & @> 'select 1'"
    )
    pump.until(lambda: pump.db.sql("select count(*) from df.waiting") == 5)
    ready = pump.start("'select 2'")
    pump.db.admin(WAIT_REASON, "no worker can log in")
    assert pump.db.rows("select kind, waits_for, due_at is not null from df.waiting order by kind") == [
        ("blocked", "no worker can log in", False), ("pace", "next iteration", True),
        ("retry", "busy (SQLSTATE 40001)", True), ("schedule", "@daily", True), ("signal", "go!", True),
        ("sleep", "30 s", True),
    ]  # fmt: skip
    cancel(run)
    cancel(ready)
    assert pump.db.sql("select count(*) from df.waiting") == 0


def test_throughput_counts_by_the_hour(pump: Pump) -> None:
    completed, failed = pump.run("'select 1' ~> 'select 2'"), pump.run("'select 1/0'")
    for run, node, minute in ((completed, 2, "09:59"), (completed, 3, "10:01"), (failed, 1, "10:02")):
        pump.db.admin(RUN_TIMES, "2026-01-01 10:00+00", "2026-01-01 10:20+00", run.id)
        pump.db.admin(OUTCOME_TIMES, "2026-01-01 09:00+00", f"2026-01-01 {minute}+00", run.id, node)
    rows = pump.db.rows("select runs_completed, runs_failed, runs_cancelled, extract(epoch from median_run)::int, "
                        "steps_completed, steps_failed from df.throughput order by hour")  # fmt: skip
    assert rows == [(0, 0, 0, None, 1, 0), (1, 1, 0, 1200, 1, 1)]


def test_workers_are_alive_while_they_are_seen(db: Database) -> None:
    for silent in ("0 s", "16 s"):
        db.admin(A_WORKER_SEEN, silent)
    assert db.rows("select alive, leases from df.workers order by alive") == [(False, 0), (True, 0)]


@pytest.mark.parametrize("view", ["running_steps", "failed_steps", "waiting", "throughput"])
def test_views_show_what_the_reader_may_see(pump: Pump, view: str) -> None:
    pump.run("'select 1/0'")
    pump.start("df.sleep(60)")
    lease(pump)
    seen = {user: pump.db.rows(f"select count(*) from df.{view}", user=user)[0][0] for user in ("app", "other", None)}
    assert seen["app"] == seen[None] > 0
    assert seen["other"] == 0
