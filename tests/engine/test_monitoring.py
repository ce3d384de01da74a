"""instance_info, instance_executions, instance_nodes, metrics, the operators' views; who sees what of them."""

from typing import Any

import psycopg
import pytest

from tests.engine.rows import RUN, Node, ident, insert, insert_run, stamp
from tests.support import Database

PER_RUN = ("df.instance_info", "df.instance_executions", "df.instance_nodes")


def finished(name: str, at: str = "run::1", status: str = "completed", **columns: Any) -> Node:
    return Node(name, status=status, stamp=at, columns={"started_at": "now", "completed_at": "now"} | columns)


def add(db: Database, table: str, **row: Any) -> None:
    with db.connect() as conn:
        insert(conn, table, row)


def test_version_and_home_database(db: Database) -> None:
    version = db.admin("select df.version()")
    assert version == db.admin(
        "select version || ' (built ' || split_part(%s, '(built ', 2) from df_engine.release", version
    )
    assert version.endswith(" UTC)")
    assert db.admin("select df.target_database()") == db.name


def test_instance_info(db: Database) -> None:
    insert_run(db, finished("a", result="7"), status="completed", label="x", _generation=3, _version="0.1.0")
    assert db.rows("select * from df.instance_info(%s)", RUN, user=None) == [
        (RUN, "x", "pg_durable::orchestration::execute-function-graph", "0.1.0", 3, "completed", "7")
    ]


@pytest.mark.parametrize("function", PER_RUN)
def test_no_rows_for_null_and_for_the_unknown(db: Database, function: str) -> None:
    assert db.rows(f"select * from {function}(null)", user=None) == []
    assert db.rows(f"select * from {function}('00000000')", user=None) == []


@pytest.mark.parametrize("function", PER_RUN)
def test_no_rows_for_the_runs_of_others(granted: Database, function: str) -> None:
    insert_run(granted, finished("a"), owner="app")
    assert len(granted.rows(f"select * from {function}(%s)", RUN, user="app")) == 1
    assert granted.rows(f"select * from {function}(%s)", RUN, user="other") == []


def test_explain_does_not_find_the_runs_of_others(granted: Database) -> None:
    insert_run(granted, finished("a"), owner="app")
    assert granted.sql("select df.explain(%s)", RUN).startswith(f"Instance: {RUN}")
    assert granted.sql("select df.explain(%s)", RUN, user="other") == f"Instance '{RUN}' not found"


def executions(db: Database, limit: int = 5) -> list[tuple[Any, ...]]:
    return db.rows("select * from df.instance_executions(%s, %s)", RUN, limit, user=None)


@pytest.mark.parametrize(
    ("columns", "shown"),
    [({"status": "pending"}, ("Running", None)), ({"status": "running"}, ("Running", None)),
     ({"status": "completed"}, ("Completed", "7")), ({"status": "failed", "error": "no"}, ("Failed", "no")),
     ({"status": "cancelled", "error": "canceled: x"}, ("Cancelled", "canceled: x"))],
)  # fmt: skip
def test_a_run_that_did_not_iterate_has_one_execution(
    db: Database, columns: dict[str, Any], shown: tuple[str, str | None]
) -> None:
    insert_run(db, finished("a", result="7"), **columns)
    assert [(row[0], row[1], row[4]) for row in executions(db)] == [(1, *shown)]


def test_earlier_iterations_of_a_root_loop_are_history(db: Database) -> None:
    insert_run(db, Node("loop", "LOOP", None, ("a",), "running", "run::4", {"started_at": "now"}),
               finished("a", "run::3"), _generation=4)  # fmt: skip
    for generation in (1, 2, 3):
        add(db, "df_engine.executions", instance_id=RUN, generation=generation, events=10 * generation,
            started_at="2026-01-01 00:00:00+00", finished_at=f"2026-01-01 00:00:0{generation}.2504+00")  # fmt: skip
    newest = (4, "Running", 1, 0, None)
    earlier = [(number, "ContinuedAsNew", 10 * number, 1000 * number + 250, None) for number in (3, 2, 1)]
    assert executions(db) == [newest, *earlier]
    assert executions(db, 2) == [newest, earlier[0]]
    assert executions(db, 1) == [newest]
    assert executions(db, 2_000_000_000) == [newest, *earlier]
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        executions(db, 0)


def test_the_duration_of_a_finished_run_is_that_of_its_last_generation(db: Database) -> None:
    insert_run(db, finished("a", started_at="2026-01-01 00:00:05+00"), status="completed",
               created_at="2026-01-01 00:00:00+00", finished_at="2026-01-01 00:00:07.5+00")  # fmt: skip
    assert executions(db)[0][3] == 2500


def test_events_are_the_status_changes_of_the_current_generation(db: Database) -> None:
    scope = "run::2::join_loop::5"
    insert_run(
        db,
        Node("root", "LOOP", None, ("join",), "running", "run::2", {"started_at": "now"}),  # 1
        Node("join", "JOIN", None, ("a", "join_loop"), "running", "run::2"),  # 1
        finished("a", "run::2::a::1"),  # 2
        Node("join_loop", "LOOP", None, ("b",), "running", scope),  # 1
        Node("b", "THEN", None, ("c", "d"), "running", scope),  # 1
        Node("c", "SLEEP", "1", (), "completed", scope),  # 1, never seen running
        finished("d", "run::2::join_loop::4"),  # counted when generation 4 ended
        finished("e", "run::1"),  # an earlier iteration of the root
        Node("f"),
        _generation=2,
    )
    for name, generation, events in (("a", 1, 0), ("join_loop", 5, 40)):
        add(db, "df_engine.scopes", instance_id=RUN, node_id=ident(name), path=stamp(f"run::2::{name}"),
            generation=generation, events=events)  # fmt: skip
    add(db, "df_engine.scopes", instance_id=RUN, node_id=ident("e"), path=stamp("run::1::e"), events=1000)
    assert executions(db)[0][2] == 47


def test_metrics_count_all_runs(granted: Database) -> None:
    for number, (status, owner) in enumerate(
        [("pending", "app"), ("running", "other"), ("completed", "app"), ("failed", "app"), ("cancelled", "other")]
    ):
        run = f"0000000{number}"
        node = Node(
            "a", status="completed", columns={"started_at": "now", "status_details": f'{{"execution_id":"{run}::3"}}'}
        )
        insert_run(granted, node, id=run, status=status, owner=owner, _generation=3)
        add(
            granted,
            "df_engine.executions",
            instance_id=run,
            generation=1,
            events=100,
            started_at="now",
            finished_at="now",
        )
    assert granted.rows("select * from df.metrics()", user=None) == [(5, 1, 1, 2, 15, 510)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        granted.sql("select df.metrics()")


def test_the_second_instance_nodes_has_the_same_rows(db: Database) -> None:
    insert_run(db, finished("a", result='{"a": 1}', result_name="n"))
    assert db.rows(
        "select execution_id, node_id, node_type, query, result_name, left_node, right_node, status, result "
        "from df.instance_nodes(%s, 7)", RUN, user=None
    ) == [(1, ident("a"), "SQL", "SELECT 'a'", "n", None, None, "completed", '{"a": 1}')]  # fmt: skip


def test_running_steps_are_sessions_and_leases(db: Database) -> None:
    insert_run(db, Node("both", "THEN", None, ("a", "h")), Node("a"), Node("h", "HTTP", "{}"), label="x")
    add(db, "df_engine.ready", lane="http", submitter=db.admin("select 'app'::regrole::oid"), instance_id=RUN,
        node_id=ident("h"), worker=3)  # fmt: skip
    with db.connect("app", application_name=f"pg_durable:{RUN}:{ident('a')}") as conn:
        pid = conn.info.backend_pid
        rows = db.rows(
            "select node_id, label, pid, worker from df.running_steps order by worker nulls first", user=None
        )
    assert rows == [(ident("a"), "x", pid, None), (ident("h"), "x", None, 3)]


def test_failed_steps_are_the_cause_and_not_what_follows_from_it(db: Database) -> None:
    insert_run(db, Node("both", "THEN", None, ("a", "b"), "failed", "run::1", {"error": "because"}),
               finished("a", status="failed", error="because", attempts=3), Node("b"), status="failed")  # fmt: skip
    assert db.rows("select node_id, attempts, error, instance_status from df.failed_steps", user=None) == [
        (ident("a"), 3, "because", "failed")
    ]


def test_waiting_says_for_what(db: Database) -> None:
    insert_run(db, Node("root", "LOOP", None, ("nap",)), Node("nap", "SLEEP", "30"),
               Node("cron", "WAIT_SCHEDULE", '{"cron_expr":"@daily"}'), Node("go", "SIGNAL", "{}"),
               Node("try", columns={"error": "busy"}), wait_reason="no worker can log in")  # fmt: skip
    for name, kind in (("nap", "sleep"), ("cron", "schedule"), ("go", "timeout"), ("try", "retry"), ("root", "pace")):
        add(db, "df_engine.timers", instance_id=RUN, node_id=ident(name), due_at="2026-01-01 00:00+00", kind=kind)
    add(db, "df_engine.waits", instance_id=RUN, node_id=ident("go"), signal_name="go!")
    assert db.rows("select kind, waits_for, due_at is not null from df.waiting order by kind", user=None) == [
        ("blocked", "no worker can log in", False), ("pace", "next iteration", True), ("retry", "busy", True),
        ("schedule", "@daily", True), ("signal", "go!", True), ("sleep", "30 s", True),
    ]  # fmt: skip


def test_throughput_counts_by_the_hour(db: Database) -> None:
    at = {"created_at": "2026-01-01 10:00+00", "finished_at": "2026-01-01 10:20+00"}
    steps = (finished("a", completed_at="2026-01-01 09:59+00"), finished("b", completed_at="2026-01-01 10:01+00"))
    insert_run(db, *steps, status="completed", **at)
    insert_run(
        db, finished("c", completed_at="2026-01-01 10:02+00", status="failed"), id="00000002", status="failed", **at
    )
    rows = db.rows("select runs_completed, runs_failed, runs_cancelled, extract(epoch from median_run)::int, "
                   "steps_completed, steps_failed from df.throughput order by hour", user=None)  # fmt: skip
    assert rows == [(0, 0, 0, None, 1, 0), (1, 1, 0, 1200, 1, 1)]


def test_workers_are_alive_while_they_are_seen(db: Database) -> None:
    db.admin("insert into df._worker_epoch (last_seen_at) values (now()), (now() - interval '16 s')")
    assert db.rows("select alive, leases from df.workers order by alive", user=None) == [(False, 0), (True, 0)]


@pytest.mark.parametrize("view", ["running_steps", "failed_steps", "waiting", "throughput"])
def test_views_show_what_the_reader_may_see(granted: Database, view: str) -> None:
    run = insert_run(granted, finished("a", status="failed"), status="failed", finished_at="now")
    add(granted, "df_engine.timers", instance_id=run, node_id=ident("a"), due_at="now", kind="retry")
    add(granted, "df_engine.ready", lane="http", submitter=granted.admin("select 'app'::regrole::oid"), instance_id=run,
        node_id=ident("a"), worker=1)  # fmt: skip
    seen = {user: len(granted.rows(f"select * from df.{view}", user=user)) for user in ("app", "other", None)}
    assert seen == {"app": 1, "other": 0, None: 1}
