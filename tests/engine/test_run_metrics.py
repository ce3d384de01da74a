"""What a worker counts for its metrics: each ended run once, and no run that is only kept."""

from typing import Any

from psycopg.types.json import Jsonb

from tests.state import ANALYZE_RUNS, ENDED_BEFORE, ENDED_INDEX, ENDED_TOGETHER, KEPT_RUNS
from tests.support import Pump, wait_until

KEPT = 5000


def metrics(pump: Pump, place: Any = None) -> dict[str, Any]:
    found = pump.supervisor.execute("select df_engine.run_metrics(%s)", [place and Jsonb(place)]).fetchone()
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


def test_each_ended_run_is_counted_once(pump: Pump) -> None:
    place = metrics(pump)["ended"]["place"]
    pump.run("'select 1'")
    pump.run("'select 1'")
    pump.run("'select 1/0'")
    first = metrics(pump, place)["ended"]
    assert (first["completed"], first["failed"], first["place"]) == (0, 0, place), "not in the first seconds"
    age(pump, 6)
    place = [pump.db.admin("select min(finished_at) - interval '1 s' from df.instances").isoformat(), ""]
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
            conn.execute("select df_engine.run_metrics(%s)", [Jsonb(place)])
    wait_until(lambda: pump.db.admin(calls) >= called + 10, what="published statistics")
    assert pump.db.admin(read) - before < KEPT / 10
