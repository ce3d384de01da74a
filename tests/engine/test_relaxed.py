"""commit_policy relaxed: short plain steps of a run share a transaction, and nothing else can be told from strict."""

from itertools import pairwise

import pytest

from tests.crash.crew import Crew, problems
from tests.state import TIMEOUT_IS_DUE
from tests.support import Database, Pump, Run, wait_until

ME = "split_part(current_setting('application_name'), ':', 2)"
QUOTED_ME = ME.replace("'", "''")
STEP = f"'insert into fx select pg_current_xact_id()::text::int, {QUOTED_ME}'"
LENGTH = 6
SHORT = "a run whose steps were short, as they are on a machine that is not busy"
CHAIN = " ~> ".join([STEP] * LENGTH)


@pytest.fixture
def relaxed(pump: Pump) -> Pump:
    pump.db.admin("select df.set_setting('commit_policy', 'relaxed')")
    return pump


def transactions(run: Run) -> list[int]:
    """Steps that each transaction of a run has committed, in order."""
    query = "select count(*)::int from fx where t = %s group by i order by min(i)"
    return [count for (count,) in run.db.rows(query, run.id)]


def steps(run: Run) -> list[tuple[str, int]]:
    """Status and attempts of each step, in the order in which they ended."""
    query = "select status, attempts from df.nodes where instance_id = %s and query is not null order by completed_at"
    return [(status, attempts) for status, attempts in run.db.rows(query, run.id)]


def test_short_steps_share_a_transaction(relaxed: Pump) -> None:
    def shared() -> bool:
        run = relaxed.run(CHAIN)
        assert (run.status, sum(transactions(run))) == ("completed", LENGTH)
        assert steps(run) == [("completed", 1)] * LENGTH
        return len(transactions(run)) < LENGTH

    wait_until(shared, 60, SHORT)


def test_steps_in_one_transaction_have_times_of_their_own(relaxed: Pump) -> None:
    run = relaxed.run(f"({STEP} ~> {STEP}) ~> ({STEP} ~> ({STEP} ~> {STEP}))")
    rows = run.db.rows(
        "select n.started_at, n.completed_at, l.started_at, r.completed_at from df.nodes n "
        "left join df.nodes l on l.instance_id = n.instance_id and l.id = n.left_node "
        "left join df.nodes r on r.instance_id = n.instance_id and r.id = n.right_node "
        "where n.instance_id = %s", run.id,
    )  # fmt: skip
    leaves = sorted(row[:2] for row in rows if row[2] is None)
    assert all(ended <= begun for (_, ended), (begun, _) in pairwise(leaves))
    assert [row[:2] for row in rows if row[2]] == [row[2:] for row in rows if row[2]]


def test_a_long_statement_begins_a_transaction(relaxed: Pump) -> None:
    long = STEP[:-1] + " from pg_sleep(0.01)'"
    run = relaxed.run(" ~> ".join([STEP, long, long, long]))
    assert (run.status, transactions(run)) == ("completed", [1] * 4)


def test_of_steps_in_one_transaction_the_last_binds_a_name(relaxed: Pump) -> None:
    step = "'insert into fx select pg_current_xact_id()::text::int, count(*)::text from fx returning t'"

    def shared() -> bool:
        relaxed.db.sql("truncate fx")
        run = relaxed.run(
            f"({step} ~> ({step} |=> 'x') ~> ({step} |=> 'x') ~> ({step} |=> 'y') |=> 'whole') "
            "~> 'select $x.t as x, $y.t as y, $whole.t as whole'"
        )
        assert run.result["rows"] == [{"x": "2", "y": "3", "whole": "3"}]
        return bool(relaxed.db.sql("select count(distinct i) < count(*) from fx"))

    wait_until(shared, 60, SHORT)


def test_what_fails_in_company_runs_again_alone_and_fails_once(relaxed: Pump) -> None:
    bad = STEP.replace("insert into fx select", "insert into fx select 1 / (random() * 0)::int +")
    warm = relaxed.run(CHAIN)
    assert warm.status == "completed"
    run = relaxed.run(f"{STEP} ~> {STEP} ~> {STEP} ~> {bad} ~> {STEP}")
    assert run.status == "failed"
    assert "division by zero" in run.error
    assert sum(transactions(run)) == 3
    assert steps(run) == [*[("completed", 1)] * 3, ("failed", 1), ("pending", 0)]
    assert problems(run.db) == []


def test_a_step_that_fails_because_of_the_steps_before_it_succeeds(relaxed: Pump) -> None:
    """Twice the same transaction time stamp."""
    relaxed.db.sql("create table stamps (at timestamptz primary key default now())")
    run = relaxed.run(" ~> ".join(["'insert into stamps default values'"] * LENGTH))
    assert (run.status, run.error) == ("completed", "")
    assert relaxed.db.sql("select count(*) from stamps") == LENGTH


def test_a_step_that_cancels_its_own_run_ends_it(relaxed: Pump) -> None:
    cancel = f"'select df.cancel({QUOTED_ME}) from pg_sleep(0)'"
    first = relaxed.run(f"{STEP} ~> {STEP} ~> {cancel} ~> {STEP}")
    second = relaxed.run(f"{STEP} ~> {STEP} ~> {cancel} ~> {STEP}")
    for run in (first, second):
        assert (run.status, sum(transactions(run))) == ("cancelled", 2)
    assert problems(relaxed.db) == []


LEAVE = """'do $x$ begin
  create temp table left_over (i int);
  execute ''prepare left_over as select 1'';
  perform set_config(''df.left_over'', ''1'', true), set_config(''search_path'', ''nowhere'', false);
end $x$'"""
LOOK = """'select to_regclass(''pg_temp.left_over'') as temp,
  nullif(current_setting(''df.left_over'', true), '''') as setting,
  current_setting(''search_path'') as path,
  (select count(*) from pg_prepared_statements where name = ''left_over'') as prepared'"""


def test_nothing_of_a_session_reaches_the_next_step_of_its_transaction(relaxed: Pump) -> None:
    run = relaxed.run(" ~> ".join([LEAVE, LOOK] * 4))
    assert run.status == "completed", run.error
    found = run.db.rows(
        "select distinct result -> 'rows' -> 0 from df.nodes where instance_id = %s and starts_with(query, 'select')",
        run.id,
    )
    assert found == [({"temp": None, "setting": None, "path": '"$user", public', "prepared": 0},)]


def test_a_cancel_takes_all_that_has_not_been_committed(relaxed: Pump) -> None:
    """The second step waits for a lock, in the transaction of the first unless that took its time."""
    db = relaxed.db
    db.sql("create table gates (t text, key int)")
    flow = f"{STEP} ~> 'select pg_advisory_xact_lock_shared(key) from gates where t = {QUOTED_ME}' ~> {STEP}"
    with db.connect() as holder:
        holder.execute("select pg_advisory_lock(7)")
        db.sql(f"select df.start({flow}) from generate_series(1, 3)")  # these wait for nothing
        run = Run(db, str(db.sql(f"select df.start({flow})")))
        db.sql("insert into gates values (%s, 7)", run.id)
        with Crew(db, 1) as crew:
            wait_until(lambda: db.admin("select count(*) from pg_stat_activity where wait_event = 'advisory'") == 1)
            committed = transactions(run)
            db.sql("select df.cancel(%s)", run.id)
            crew.settled()
    assert (run.status, transactions(run)) == ("cancelled", committed)


@pytest.mark.parametrize("how", ["time-out", "undo"])
def test_what_stops_a_part_of_a_run_interrupts_its_step_whatever_shares_the_transaction(
    relaxed: Pump, how: str
) -> None:
    """A statement waits for a lock; if all was short before, in the transaction of the step before."""
    db = relaxed.db
    db.sql("create table seen (t text)")
    gate = f"'select pg_advisory_xact_lock_shared(7) where 5 = (select count(*) from fx where t = {QUOTED_ME})'"
    seen = f"'insert into seen select {QUOTED_ME}'"
    steps = " ~> ".join([STEP, gate] * 6)
    flow = f"df.timeout({steps}, 3600, {seen})" if how == "time-out" else f"df.undo('select 1', {seen}) ~> {steps}"
    with db.connect() as holder, Crew(db, 1) as crew:
        holder.execute("select pg_advisory_lock(7)")
        run = Run(db, str(db.sql(f"select df.start({flow})")))
        wait_until(lambda: db.admin("select count(*) from pg_stat_activity where wait_event = 'advisory'") == 1)
        if how == "undo":
            db.sql("set statement_timeout = '20s'")  # a cancel does not wait for the step
            db.sql("select df.cancel(%s, undo => true)", run.id)
        else:
            db.admin(TIMEOUT_IS_DUE)
        crew.settled()
    assert run.status == ("completed" if how == "time-out" else "cancelled")
    assert sum(transactions(run)) <= 5
    assert db.rows("select t from seen") == [(run.id,)]
    assert problems(db) == []


def test_many_sessions_do_every_step_once(relaxed: Pump) -> None:
    db: Database = relaxed.db
    with Crew(db, 4) as crew:
        runs = [db.sql(f"select df.start({CHAIN})") for _ in range(100)]
        crew.settled(60)
    assert db.rows("select count(*)::int, count(distinct t)::int from fx") == [(LENGTH * len(runs), len(runs))]
