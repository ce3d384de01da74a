"""What a step costs, in counts: they do not depend on the machine, so a regression shows without a clock."""

from collections import Counter
from typing import Any

import psycopg
import pytest

from tests.oracle.graphs import join, quoted, sql
from tests.support import Database, Pump, wait_until

RUNS = 40
STEP = "'insert into fx values (1)'"
CHAIN = " ~> ".join([STEP] * 5)
NAMED = " ~> ".join(f"({STEP} |=> 's{number}')" for number in range(5))


def counts(pump: Pump) -> dict[str, int]:
    """Rows inserted, updated and deleted so far in the engine's hot tables."""
    query = """
        select relname || ' ' || change, number
        from pg_stat_user_tables,
          lateral (values ('inserted', n_tup_ins), ('updated', n_tup_upd), ('hot', n_tup_hot_upd),
                          ('deleted', n_tup_del)) as v(change, number)
        where relid in ('df.instances'::regclass, 'df.nodes'::regclass, 'df_engine.ready'::regclass,
                        'df_engine.scopes'::regclass, 'df_engine.bindings'::regclass, 'df_engine.timers'::regclass)
        """
    return {name: number for name, number in pump.db.rows(query, user=None) if number}


def lookups(pump: Pump) -> Counter[str]:
    """How often each table was looked up so far, by an index or as a whole: that choice is the planner's."""
    query = "select schemaname || '.' || relname, coalesce(idx_scan, 0) + seq_scan from pg_stat_user_tables"
    return Counter(dict(pump.db.rows(query, user=None)))


@pytest.fixture
def settled(pump: Pump) -> Pump:
    """No ANALYZE comes in between: plans would be made anew, for which the planner looks up the ends of indexes."""
    for table in ("df.instances", "df.nodes", "df_engine.ready", "df_engine.inbox", "df_engine.timers"):
        pump.db.admin(f"alter table {table} set (autovacuum_enabled = off)")
    return pump


def end(pump: Pump, session: psycopg.Connection[Any]) -> None:
    """Ends a session, and waits until it is gone: the last thing that it does is to publish its counts."""
    pid = session.info.backend_pid
    session.close()
    wait_until(lambda: pump.db.admin("select count(*) from pg_stat_activity where pid = %s", pid) == 0)


def start(pump: Pump, flow: str = CHAIN, runs: int = RUNS) -> None:
    """Starts a flow, so many times, in a session that ends."""
    pump.db.rows(f"select df.start({flow}) from generate_series(1, {runs})")
    end(pump, pump.db.connections.pop("app"))
    wait_until(lambda: counts(pump).get("ready inserted") == runs, what="published statistics")


def run_all(pump: Pump) -> None:
    """Runs them to their end in a session that ends."""
    wait_until(lambda: pump.work() == "empty")
    end(pump, pump.session)
    wait_until(lambda: counts(pump).get("ready deleted", 0) >= RUNS, what="published statistics")


def drain(pump: Pump, flow: str = CHAIN) -> dict[str, Any]:
    """Starts and runs a flow; answers counts of all, and the bytes of log of the steps."""
    start(pump, flow)
    began = pump.db.admin("select pg_current_wal_insert_lsn()")
    run_all(pump)
    wal = int(pump.db.admin("select pg_current_wal_insert_lsn() - %s::pg_lsn", began))
    return {"wal": wal, **counts(pump)}


@pytest.mark.parametrize(("flow", "names"), [(CHAIN, {}), (NAMED, {"bindings inserted": 5})])
def test_a_step_writes_a_fixed_number_of_row_versions(pump: Pump, flow: str, names: dict[str, int]) -> None:
    found = drain(pump, flow)
    found.pop("wal")
    hot = found.pop("nodes hot")
    assert {name: number / RUNS for name, number in found.items()} == {
        "instances inserted": 1,
        "instances updated": 1,
        "nodes inserted": 9,
        "nodes updated": 9,
        "ready inserted": 1,
        "ready deleted": 1,
        **names,
    }
    assert hot >= 0.8 * 9 * RUNS


def test_a_turn_of_a_loop_writes_a_fixed_number_of_row_versions(pump: Pump) -> None:
    start(pump, f"df.loop({STEP} ~> {STEP}, 'select count(*) < 2 * {RUNS} from fx')", 1)
    run_all(pump)
    found = counts(pump)
    assert found["ready inserted"] == RUNS
    assert found["ready updated"] == 1  # when the loop is entered
    assert found["nodes updated"] // RUNS == 5  # its body, a sequence of two, its condition and itself


def test_branches_of_an_if_end_it_without_moving_the_queue(pump: Pump) -> None:
    found = drain(pump, f"('select true' ?> ({STEP} ~> {STEP}) !> {STEP}) ~> {STEP}")
    assert found["ready updated"] == 2 * RUNS  # to the condition, and to the branch that it decides for
    assert found["nodes updated"] / RUNS == 7  # four steps, two sequences, the IF


def test_a_wide_join_is_written_once_a_stripe_of_its_branches(pump: Pump) -> None:
    start(pump, quoted(join(*[sql("select 1")] * RUNS)), 1)
    run_all(pump)
    assert counts(pump)["nodes updated"] == RUNS + 16 + 3  # 3: shown as running, opened, ended


def test_a_step_writes_a_bounded_amount_of_log(pump: Pump) -> None:
    assert drain(pump)["wal"] / RUNS < 4800  # 4156, page images not counted: these servers write none


def a_run(found: Counter[str]) -> dict[str, int]:
    """Lookups a run of each table; what is looked up once a call does not count."""
    return {table: number // RUNS for table, number in found.items() if number >= RUNS}


def test_a_start_looks_up_a_fixed_number_of_rows(settled: Pump) -> None:
    before = lookups(settled)
    start(settled)
    # keys of the run, each of its nodes and its root refer to rows of the same transaction; and where it begins
    expected = {"df.instances": 12, "df.nodes": 11, "df.vars": 1, "df._worker_epoch": 1}
    assert a_run(lookups(settled) - before) == expected


def test_a_step_looks_up_a_fixed_number_of_rows(settled: Pump) -> None:
    start(settled)
    before = lookups(settled)
    run_all(settled)
    expected = {"df.nodes": 10, "df.instances": 7, "df_engine.ready": 6, "df_engine.inbox": 1}
    assert a_run(lookups(settled) - before) == expected


def read_as_a_whole(pump: Pump) -> dict[str, int]:
    """How many rows of tables that grow were read without an index."""
    query = (
        "select schemaname || '.' || relname, seq_tup_read from pg_stat_user_tables "
        "where relid = any (%s::regclass[]) and seq_tup_read >= %s"
    )
    return dict(
        pump.db.rows(query, ["df.instances", "df.nodes", "df_engine.ready", "df_engine.inbox"], RUNS, user=None)
    )


def test_plans_made_while_the_queue_was_empty_serve_a_full_one(settled: Pump) -> None:
    settled.db.admin("vacuum analyze df_engine.ready")
    settled.db.rows(f"select df.start({CHAIN})")
    wait_until(lambda: settled.work() == "empty")
    settled.db.rows(f"select df.start({CHAIN}) from generate_series(2, {RUNS})")
    run_all(settled)
    assert read_as_a_whole(settled) == {}


def test_looks_planned_while_all_was_empty_serve_many_runs(settled: Pump) -> None:
    for table in ("df.instances", "df.nodes", "df_engine.ready", "df_engine.inbox"):
        settled.db.admin(f"vacuum analyze {table}")
    settled.tick()
    settled.db.rows(f"select df.signal(df.start({CHAIN}), 'x') from generate_series(1, {RUNS})")
    for _ in range(5):
        settled.tick()
    end(settled, settled.supervisor)
    assert read_as_a_whole(settled) == {}


def test_no_plan_that_was_forced_is_compiled(db: Database) -> None:
    """A plan type that is switched off counts as enormous cost, for which a server with JIT compiles for seconds."""
    forced = db.rows(
        "select proname, proconfig @> '{jit=off}' from pg_proc where proconfig::text ~ 'enable_[a-z]+=off'", user=None
    )
    assert forced
    assert [name for name, compiled_not in forced if not compiled_not] == []


def test_no_function_that_steps_call_is_planned_at_each_call(pump: Pump) -> None:
    """Before version 18 an SQL function that is not inlined is, and that takes longer than what it does."""
    pump.db.admin(f"alter database {pump.db.name} set track_functions = 'all'")
    tracked = Pump(pump.db)
    start(tracked, f"({STEP} & ({STEP} | {STEP})) ~> ('select 1 as x' |=> 'a') ~> ('select $a.x' ?> {STEP} !> {STEP})")
    tracked.start(f"df.loop({STEP}, 'select count(*) < {10 * RUNS} from fx')")
    run_all(tracked)
    query = (
        "select s.funcname from pg_stat_user_functions s join pg_proc p on p.oid = s.funcid "
        "join pg_language l on l.oid = p.prolang where s.schemaname = 'df_engine' and l.lanname = %s and s.calls >= %s"
    )
    assert pump.db.rows(query, "plpgsql", RUNS, user=None) != []
    assert pump.db.rows(query, "sql", RUNS, user=None) == []
    tracked.close()


def test_a_step_and_its_effect_are_one_transaction(pump: Pump) -> None:
    pump.db.rows(f"select df.start({CHAIN}) from generate_series(1, {RUNS})")
    before = pump.db.admin("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    pump.work()
    after = pump.db.admin("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    # one for the step, one for the sub-transaction of its statement; and autovacuum takes a few
    assert after - before <= 2 * 5 * RUNS + 0.1 * 5 * RUNS


def test_a_look_reads_none_of_the_timers_that_are_not_due(pump: Pump) -> None:
    pump.db.rows("select df.start(df.sleep(86400)) from generate_series(1, 100)")
    pump.work()
    pump.tick()
    pump.close()
    query = "select idx_tup_read from pg_stat_user_indexes where indexrelname = 'timers_due_idx'"
    wait_until(lambda: lookups(pump)["df._worker_epoch"] > 1, what="published statistics")
    assert pump.db.admin("select count(*) from df_engine.timers") == 100
    assert pump.db.admin(query) < 10
