"""What a worker counts for its metrics: each ended run once, and no run that is only kept."""

from typing import Any

from pg_durable.metrics.metrics import BUCKETS
from psycopg.types.json import Jsonb

from tests.state import ANALYZE_RUNS, ENDED_BEFORE, ENDED_INDEX, ENDED_TOGETHER, KEPT_RUNS, STEP_LASTED
from tests.support import Pump, wait_until

KEPT = 5000


def metrics(pump: Pump, place: Any = None) -> dict[str, Any]:
    values = [place and Jsonb(place), list(BUCKETS)]
    found = pump.supervisor.execute("select df_engine.run_metrics(%s, %s)", values).fetchone()
    assert found is not None
    counted: dict[str, Any] = found[0]
    return counted


def age(pump: Pump, seconds: int) -> None:
    """Makes every run that has ended as much older."""
    pump.db.admin(ENDED_BEFORE, f"{seconds} s")


def keep_runs(pump: Pump) -> None:
    """Runs that ended long ago."""
    pump.db.admin(
        KEPT_RUNS.format(
            """select lpad(to_hex(n), 8, '0'), null, 'completed', now() - interval '1 day', now() - interval '1 day'
               from generate_series(1, %s) n"""
        ),
        KEPT,
    )
    pump.db.admin(ANALYZE_RUNS)


def before_all(pump: Pump) -> list[str]:
    """The place before the first run that has ended."""
    return [pump.db.admin("select min(finished_at) - interval '1 s' from df.instances").isoformat(), ""]


def test_each_ended_run_is_counted_once(pump: Pump) -> None:
    place = metrics(pump)["ended"]["place"]
    pump.run("'select 1'")
    pump.run("'select 1'")
    pump.run("'select 1/0'")
    first = metrics(pump, place)["ended"]
    assert (first["completed"], first["failed"], first["place"]) == (0, 0, place), "not in the first seconds"
    age(pump, 6)
    place = before_all(pump)
    second = metrics(pump, place)["ended"]
    assert (second["completed"], second["failed"], second["cancelled"]) == (2, 1, 0)
    third = metrics(pump, second["place"])["ended"]
    assert (third["completed"], third["failed"]) == (0, 0)
    assert third["place"] == second["place"]


def test_runs_that_end_in_the_same_moment_are_all_counted(pump: Pump) -> None:
    for _ in range(2):
        pump.run("'select 1'")
    pump.db.admin(ENDED_TOGETHER)
    first, second = (row[0] for row in pump.db.rows("select id from df.instances order by id", user=None))
    moment = pump.db.admin("select to_jsonb(min(finished_at)) from df.instances")
    assert metrics(pump, [moment, ""])["ended"]["completed"] == 2
    assert metrics(pump, [moment, first])["ended"] == metrics(pump, [moment, first])["ended"] | {
        "completed": 1,
        "place": [moment, second],
    }


def test_runs_in_progress_are_pending_or_running(pump: Pump) -> None:
    pump.start("df.sleep(1000)")
    assert (metrics(pump)["pending"], metrics(pump)["running"]) == (1, 0)
    pump.until(lambda: metrics(pump)["running"] == 1)
    assert metrics(pump)["pending"] == 0


def test_kept_runs_are_not_read(pump: Pump) -> None:
    keep_runs(pump)
    place = metrics(pump)["ended"]["place"]
    pump.start("df.sleep(1000)")
    pump.close()
    read = """select seq_tup_read + coalesce(idx_tup_fetch, 0) + (
                select coalesce(sum(idx_tup_read), 0) from pg_stat_user_indexes where relname = 'instances')
              from pg_stat_user_tables where relname = 'instances'"""
    calls = f"select coalesce(sum(idx_scan), 0) from pg_stat_user_indexes where indexrelname = '{ENDED_INDEX}'"
    wait_until(lambda: pump.db.admin(calls) >= 1, what="published statistics")
    before, called = pump.db.admin(read), pump.db.admin(calls)
    with pump.db.connect("durable_worker") as conn:
        for _ in range(10):
            conn.execute("select df_engine.run_metrics(%s, %s)", [Jsonb(place), list(BUCKETS)])
    wait_until(lambda: pump.db.admin(calls) >= called + 10, what="published statistics")
    assert pump.db.admin(read) - before < KEPT / 10


def test_steps_of_ended_runs_are_counted_by_kind_and_duration(pump: Pump) -> None:
    pump.run("'select 1' ~> (df.block('select 1', 'select 2') & 'select 3') ~> df.sleep(0)")
    age(pump, 6)
    for lasted, query in (("4.5 s", "select 3"), ("0.5 s", "select 1")):
        pump.db.admin(STEP_LASTED, lasted, query)
    place = before_all(pump)
    ended = metrics(pump, place)["ended"]
    steps = {each["kind"]: each for each in ended["steps"]}
    assert {kind: sum(each["counts"]) for kind, each in steps.items()} == {
        "sql": 2, "block": 1, "http": 0, "http_multipart": 0,
    }  # fmt: skip
    assert [len(each["counts"]) for each in steps.values()] == [len(BUCKETS) + 1] * 4
    assert steps["sql"]["counts"][BUCKETS.index(10)] == 1, "4.5 s is above 3 s and not above 10 s"
    assert steps["sql"]["seconds"] == 5, "what the rows say, and not what it took"
    assert all(sum(each["counts"]) == 0 for each in metrics(pump, ended["place"])["ended"]["steps"])


def test_attempts_that_were_followed_by_another_are_counted(pump: Pump) -> None:
    pump.db.sql("create sequence tries")
    again = "max_attempts => 3, initial_delay => '%s', retry_on => array['22012']"
    pump.run(f"df.retry('select 1 / (nextval(''tries'') / 3)', {again % '10 ms'})")
    failing = pump.start(f"df.retry('select 1/0', {again % '1 h'})")
    pump.until(lambda: metrics(pump)["retries_waiting"] == 1)
    pump.db.sql("select df.cancel(%s)", failing.id)
    age(pump, 6)
    found = metrics(pump, before_all(pump))
    assert (found["ended"]["retries"], found["retries_waiting"]) == (2, 0)


def test_runs_that_could_not_be_undone_are_counted(pump: Pump) -> None:
    pump.run("df.undo('select 1', 'select 2') ~> 'select 1/0'")
    pump.run("df.undo('select 1', 'select 1/0') ~> 'select 1/0'")
    age(pump, 6)
    ended = metrics(pump, before_all(pump))["ended"]
    assert (ended["failed"], ended["undo_failed"]) == (2, 1)
