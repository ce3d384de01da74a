"""What a step costs, in counts: they do not depend on the machine, so a regression shows without a clock."""

from collections import Counter
from typing import Any

import psycopg
import pytest

from tests.oracle.graphs import join, quoted, sql
from tests.state import HOT_TABLES, LARGE_TABLES, QUEUE, TIMERS, TIMERS_BY_TIME, XIDS
from tests.support import Database, Pump, wait_until

RUNS = 40
STEP = "'insert into fx values (1)'"
CHAIN = " ~> ".join([STEP] * 5)
READ = f"({STEP} |=> 's') ~> {STEP} ~> {STEP} ~> {STEP} ~> 'select $s.i?'"
NAMED = " ~> ".join(f"({STEP} |=> 's{number}')" for number in range(5))


def counts(pump: Pump) -> dict[str, int]:
    """Rows inserted, updated and deleted so far in the engine's hot tables."""
    query = """
        select relname || ' ' || change, number
        from pg_stat_user_tables,
          lateral (values ('inserted', n_tup_ins), ('updated', n_tup_upd), ('hot', n_tup_hot_upd),
                          ('deleted', n_tup_del)) as v(change, number)
        where relid = any (%s::regclass[])
        """
    return {name: number for name, number in pump.db.rows(query, list(HOT_TABLES), user=None) if number}


def lookups(pump: Pump) -> Counter[str]:
    """How often each table was looked up so far, by an index or as a whole: that choice is the planner's."""
    query = "select relname, coalesce(idx_scan, 0) + seq_scan from pg_stat_user_tables"
    return Counter(dict(pump.db.rows(query, user=None)))


@pytest.fixture
def settled(pump: Pump) -> Pump:
    """No ANALYZE comes in between: plans would be made anew, for which the planner looks up the ends of indexes."""
    for table in LARGE_TABLES:
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
    wait_until(lambda: counts(pump).get("queue inserted") == runs, what="published statistics")


def run_all(pump: Pump, runs: int = RUNS) -> None:
    """Runs them to their end in a session that ends."""
    wait_until(lambda: pump.work() == "empty")
    end(pump, pump.session)
    wait_until(lambda: counts(pump).get("queue deleted", 0) >= runs, what="published statistics")


def drain(pump: Pump, flow: str = CHAIN) -> dict[str, Any]:
    """Starts and runs a flow; answers counts of all, and the bytes of log of the steps."""
    start(pump, flow)
    began = pump.db.admin("select pg_current_wal_insert_lsn()")
    run_all(pump)
    wal = int(pump.db.admin("select pg_current_wal_insert_lsn() - %s::pg_lsn", began))
    return {"wal": wal, **counts(pump)}


@pytest.mark.parametrize(("flow", "names"), [(CHAIN, {}), (NAMED, {}), (READ, {"bindings inserted": 1})])
def test_a_step_writes_a_fixed_number_of_row_versions(pump: Pump, flow: str, names: dict[str, int]) -> None:
    """Its outcome, and its value where somebody refers to it; a sequence writes nothing."""
    found = drain(pump, flow)
    found.pop("wal")
    assert {name: number / RUNS for name, number in found.items()} == {
        "instances inserted": 1,
        "instances updated": 1,
        "outcomes inserted": 5,
        "queue inserted": 1,
        "queue deleted": 1,
        **names,
    }


def test_a_turn_of_a_loop_writes_a_fixed_number_of_row_versions(pump: Pump) -> None:
    start(pump, f"df.loop({STEP} ~> {STEP}, 'select count(*) < 2 * {RUNS} from fx')", 1)
    run_all(pump, 1)
    found = counts(pump)
    assert (found["queue inserted"], found["queue deleted"]) == (1, 1)
    assert found["queue updated"] == RUNS  # when the loop is entered, and at each further turn
    assert found["outcomes inserted"] + found["outcomes updated"] == 3 * RUNS + 1  # two steps, the condition; the loop
    assert found["activations updated"] == RUNS - 1  # when it began
    assert found["instances updated"] == RUNS + 1  # the generation; when the run began and ended


def test_branches_of_an_if_end_it_without_moving_the_queue(pump: Pump) -> None:
    found = drain(pump, f"('select true' ?> ({STEP} ~> {STEP}) !> {STEP}) ~> {STEP}")
    assert found["queue updated"] == 2 * RUNS  # to the branch that the condition decides for, and to what follows
    assert found["outcomes inserted"] / RUNS == 4  # the steps; not the sequences, nor the IF
    assert "outcomes updated" not in found


def test_a_wide_join_is_written_once_a_branch(pump: Pump) -> None:
    start(pump, quoted(join(*[sql("select 1")] * RUNS)), 1)
    run_all(pump)
    found = counts(pump)
    assert found["outcomes inserted"] == RUNS + 1
    assert "outcomes updated" not in found
    assert (found["activations inserted"], found["activations updated"]) == (1, RUNS)
    assert found["activations hot"] == RUNS


def test_a_step_writes_a_bounded_amount_of_log(pump: Pump) -> None:
    assert drain(pump)["wal"] / RUNS < 3700  # 3233, page images not counted: these servers write none


def a_run(found: Counter[str]) -> dict[str, int]:
    """Lookups a run of each table; what is looked up once a call does not count."""
    return {table: number // RUNS for table, number in found.items() if number >= RUNS}


def test_a_start_looks_up_a_fixed_number_of_rows(settled: Pump) -> None:
    before = lookups(settled)
    start(settled)
    expected = dict.fromkeys(("graphs", "secret", "role_limits"), 1)  # the graph has been compiled
    assert a_run(lookups(settled) - before) == expected


def test_a_step_looks_up_a_fixed_number_of_rows(settled: Pump) -> None:
    start(settled)
    before = lookups(settled)
    run_all(settled)
    expected = {"outcomes": 2, "graph_nodes": 2, "instances": 7, "queue": 6, "inbox": 1, "paused_roles": 1}
    assert a_run(lookups(settled) - before) == expected


def read_as_a_whole(pump: Pump) -> dict[str, int]:
    """How many rows of tables that grow were read without an index."""
    query = (
        "select schemaname || '.' || relname, seq_tup_read from pg_stat_user_tables "
        "where relid = any (%s::regclass[]) and seq_tup_read >= %s"
    )
    return dict(pump.db.rows(query, list(LARGE_TABLES), RUNS, user=None))


def test_plans_made_while_the_queue_was_empty_serve_a_full_one(settled: Pump) -> None:
    settled.db.admin(f"vacuum analyze {QUEUE}")
    settled.db.rows(f"select df.start({CHAIN})")
    wait_until(lambda: settled.work() == "empty")
    settled.db.rows(f"select df.start({CHAIN}) from generate_series(2, {RUNS})")
    run_all(settled)
    assert read_as_a_whole(settled) == {}


def test_looks_planned_while_all_was_empty_serve_many_runs(settled: Pump) -> None:
    for table in LARGE_TABLES:
        settled.db.admin(f"vacuum analyze {table}")
    settled.tick()
    settled.db.rows(f"select df.signal(df.start({CHAIN}), 'x') from generate_series(1, {RUNS})")
    for _ in range(5):
        settled.tick()
    end(settled, settled.supervisor)
    assert read_as_a_whole(settled) == {}


def read_in_all(pump: Pump) -> int:
    """How many rows and entries of indexes were read so far."""
    query = (
        "select (select sum(seq_tup_read) from pg_stat_user_tables where schemaname = 'df_engine') + "
        "(select sum(idx_tup_read) from pg_stat_user_indexes where schemaname = 'df_engine')"
    )
    return int(pump.db.admin(query))


def test_a_poll_reads_little_of_many_runs(settled: Pump) -> None:
    for flow in ("'select 1'", "'select 1' & 'select 2'"):
        settled.db.rows(f"select df.start({flow}) from generate_series(1, {RUNS})")
        wait_until(lambda: settled.work() == "empty")
    for table in LARGE_TABLES:
        settled.db.admin(f"vacuum analyze {table}")
    settled.tick()  # plans are made now, for few runs
    settled.db.rows("select df.start('select 1') from generate_series(1, 3000)")
    end(settled, settled.db.connections.pop("app"))
    before = read_in_all(settled)
    settled.tick()
    end(settled, settled.supervisor)
    assert read_in_all(settled) - before < 2000


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
    before = pump.db.admin(XIDS)
    pump.work()
    after = pump.db.admin(XIDS)
    # one for the step, one for the sub-transaction of its statement; and autovacuum takes a few
    assert after - before <= 2 * 5 * RUNS + 0.1 * 5 * RUNS


def test_a_look_reads_none_of_the_timers_that_are_not_due(pump: Pump) -> None:
    pump.db.rows("select df.start(df.sleep(86400)) from generate_series(1, 100)")
    pump.work()
    pump.tick()
    pump.close()
    query = f"select idx_tup_read from pg_stat_user_indexes where indexrelname = '{TIMERS_BY_TIME}'"
    wait_until(lambda: lookups(pump)["workers"] > 1, what="published statistics")
    assert pump.db.admin(TIMERS) == 100
    assert pump.db.admin(query) < 10


def test_the_states_of_a_run_are_folded_once_for_all_of_its_nodes(pump: Pump) -> None:
    drain(pump)
    pump.db.admin(f"alter database {pump.db.name} set track_functions = 'all'")
    with pump.db.connect("app") as reader:
        [(nodes,)] = reader.execute(
            "select count(*) from df.nodes where instance_id = (select min(id) from df.instances)"
        )
        end(pump, reader)
    calls = pump.db.admin("select calls from pg_stat_user_functions where funcname = 'fold_states'")
    assert (nodes, calls) == (9, 1)
