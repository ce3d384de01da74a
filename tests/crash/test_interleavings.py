"""What happens between two transactions that meet: one case a test, each of them once gone wrong or nearly so."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.crash.crew import Crew, problems
from tests.state import (
    CHECKS_DUE_WITHIN,
    CHECKS_LOCKED,
    CLAIM,
    FAILED_ITEM,
    FAILED_STEP,
    GENERATION,
    HELD,
    HELD_ENDS,
    MOVED_ON,
    ONE_STEP,
    POKED_BY_START,
    POKES,
    POKES_HEARD,
    QUEUE_LOCKED,
    QUEUE_ROWS,
    RACES_LOCKED,
    RESERVED,
    SIGNAL_IS_FRESH,
    TIMEOUT_IS_DUE,
    TIMERS,
    TIMERS_DUE,
    TRY_SIGNAL,
    UNFINISHED,
    WAITS,
    WORK_IS_LEFT,
)
from tests.support import Database, Pump, wait_until


def effect(name: str) -> str:
    """A step that leaves a row; the text is for use inside an SQL string literal's graph expression."""
    return f"'insert into fx values (''{name}'', ''{{sys_instance_id}}'')'"


def effects(fx: Database, run: str) -> dict[str, int]:
    return dict(fx.rows("select t, count(*)::int from fx where run = %s group by t", run))


def start(fx: Database, flow: str) -> str:
    return str(fx.sql(f"select df.start({flow})"))


def test_a_signal_for_both_branches_of_a_race_decides_it(fx: Database) -> None:
    pump = Pump(fx)
    run = pump.start("df.wait_for_signal('s') | df.wait_for_signal('s')")
    pump.until(lambda: fx.admin(WAITS) == 2)
    fx.sql("select df.signal(%s, 's')", run.id)
    pump.until(run.ended)
    assert run.status == "completed"
    assert fx.admin("select cardinality(delivered_to) from df.signals") == 1
    assert problems(fx) == []


def test_a_kept_signal_whose_wait_timed_out_goes_to_one_other_open_wait(fx: Database) -> None:
    pump = Pump(fx)
    run = pump.start("df.wait_for_signal('s') & df.wait_for_signal('s')")
    pump.until(lambda: fx.admin(WAITS) == 2)
    fx.admin(RESERVED, "s", run.id)
    pump.until(lambda: fx.admin("select status = 'delivered' from df.signals"))
    assert fx.admin(WAITS) == 1
    assert problems(fx) == []


def test_a_signal_is_not_kept_while_a_wait_for_it_opens(fx: Database) -> None:
    """The wait is open, but not committed: the supervisor would not see it."""
    pump = Pump(fx)
    run = pump.start("df.sleep(0.01) ~> 'select 1' ~> df.wait_for_signal('s')")
    pump.work()
    wait_until(lambda: pump.tick() and fx.rows(QUEUE_ROWS, user=None), what="the sleep to end")
    with fx.connect("app", autocommit=False) as session:
        session.execute(ONE_STEP)
        fx.sql("select df.signal(%s, 's')", run.id)
        pump.tick()
        assert fx.admin(SIGNAL_IS_FRESH)
        session.commit()
    pump.until(run.ended)
    assert (run.status, problems(fx)) == ("completed", [])


@pytest.mark.parametrize("waits", ["{0} ~> {0}", "{0} ~> 'select 1' ~> {0}", "{0} & {0}"])
@pytest.mark.parametrize("open_first", [True, False])
def test_two_signals_at_once_find_two_waits(fx: Database, waits: str, open_first: bool) -> None:
    pump = Pump(fx)
    run = pump.start(waits.format("df.wait_for_signal('s')") + " ~> 'select 1'")
    if open_first:
        pump.until(lambda: fx.admin(WAITS))
    fx.sql("select df.signal(%s, 's', '1'), df.signal(%s, 's', '2')", run.id, run.id)
    pump.until(run.ended)
    assert (run.status, problems(fx)) == ("completed", [])


def test_a_signal_waits_for_an_older_one(fx: Database) -> None:
    pump = Pump(fx)
    run = pump.start("df.wait_for_signal('s') |=> 'a' ~> df.wait_for_signal('s') |=> 'b' ~> 'select 1'")
    pump.until(lambda: fx.admin(WAITS) == 1)
    fx.sql("select df.signal(%s, 's', '1'), df.signal(%s, 's', '2')", run.id, run.id)
    assert fx.admin(TRY_SIGNAL, "2") is False
    pump.until(run.ended)
    assert fx.admin("select array_agg(signal_data::int order by delivered_at, signal_id) from df.signals") == [
        1,
        2,
    ]
    assert run.status == "completed"


@pytest.mark.parametrize(
    "setting", ["default_transaction_isolation = serializable", "default_transaction_read_only = on"]
)
def test_transaction_defaults_of_a_step_do_not_reach_the_next_transaction(fx: Database, setting: str) -> None:
    run = Pump(fx).run(f"'set {setting}' ~> {effect('a')} ~> 'select current_setting(''transaction_isolation'')'")
    assert (run.status, run.value()) == ("completed", "read committed"), run.error


def test_a_step_in_a_loop_and_the_end_of_its_race_do_not_block_each_other(fx: Database) -> None:
    with Crew(fx, 4) as crew:
        for _ in range(30):
            start(fx, "df.loop('select 1', 'select true') | ('select 1' ~> 'select pg_sleep(0.02)')")
        crew.settled()


def test_a_wait_that_opens_and_the_end_of_its_race_do_not_block_each_other(fx: Database) -> None:
    with Crew(fx, 4) as crew:
        for _ in range(60):
            start(fx, "('select 1' ~> df.wait_for_signal('x')) | ('select 1' ~> 'select 1' ~> 'select 1')")
        crew.settled()


@pytest.mark.parametrize("interrupts", [True, False])
def test_a_loser_does_not_count_in_the_next_iteration(fx: Database, interrupts: bool) -> None:
    flow = (
        f"df.loop(('select pg_sleep(0.2)' ~> {effect('slow')}) | {effect('fast')}, "
        "'select count(*) < 4 from fx where run = ''{sys_instance_id}''')"
    )
    with Crew(fx, 5, interrupts=interrupts) as crew:
        runs = [start(fx, flow) for _ in range(2)]
        crew.settled()
    for run in runs:
        assert effects(fx, run) == {"fast": 4}
        assert fx.admin(GENERATION, run) == 4


def one_step(conn: psycopg.Connection[Any]) -> tuple[int, int, str, str]:
    """What a session does for one plain step: the row of the queue, its version, the step, and the one that follows."""
    row: tuple[int, int, str, str] = conn.execute(ONE_STEP).fetchall()[0]
    conn.commit()
    return row


def test_a_session_does_not_go_on_with_a_run_that_another_has_taken_over(fx: Database) -> None:
    start(fx, " ~> ".join(["'insert into fx values (''a'')'"] * 4))
    with fx.connect("app", autocommit=False) as first, fx.connect("app", autocommit=False) as second:
        queue, version, left, following = one_step(first)
        same, newer, taken, last = one_step(second)
        assert (queue, following) == (same, taken)
        assert len({left, taken, last}) == 3
        assert first.execute(HELD, [queue, version, following]).fetchone() == (False,)
        assert second.execute(HELD, [queue, newer, last]).fetchone() == (True,)


def test_a_session_that_moved_a_run_does_not_go_on_when_another_has_done_a_step_of_it(fx: Database) -> None:
    """The row of the queue stays as it is after a plain step, so the session that takes over has to touch it."""
    start(fx, "df.if('select true', 'select 0', 'select 1' ~> 'select 2')")
    with fx.connect("app", autocommit=False) as first, fx.connect("app", autocommit=False) as second:
        queue, version, following = first.execute(MOVED_ON).fetchall()[0]
        first.commit()
        assert one_step(second)[2] == following
        assert first.execute(HELD, [queue, version, following]).fetchone() == (False,)


def test_a_run_goes_on_where_a_session_that_is_gone_has_left_it(fx: Database) -> None:
    run = start(fx, " ~> ".join(effect(name) for name in "abcd"))
    with fx.connect("app", autocommit=False) as gone:
        one_step(gone), one_step(gone)
    pump = Pump(fx)
    pump.work()
    assert fx.sql("select df.status(%s)", run) == "completed"
    assert effects(fx, run) == {"c": 1, "d": 1}


def fires(supervisor: psycopg.Connection[Any]) -> bool:
    """What is due, and its commit."""
    supervisor.execute("select df_engine.fire_due(50)")
    supervisor.commit()
    return True


@pytest.mark.parametrize("decision", ["commit", "rollback"])
def test_a_step_that_is_just_committing_or_its_time_out_counts(fx: Database, decision: str) -> None:
    """The step has written its end, and its transaction is open, when the time is over: the time-out waits for it."""
    timed = f"df.timeout({effect('in time')}, 0.01, {effect('late')})"
    run = start(fx, f"'select 1' ~> {timed} ~> df.wait_for_signal('go')")
    with fx.connect("app", autocommit=False) as session, fx.connect("durable_worker", autocommit=False) as supervisor:
        one_step(session)
        session.execute(ONE_STEP)
        wait_until(lambda: fx.admin(TIMERS_DUE), what="the time to be over")
        fires(supervisor)
        assert fx.admin(TIMERS_DUE) == 1
        session.execute(decision)
    pump = Pump(fx)
    wait_until(lambda: pump.tick() and not fx.admin(TIMERS), what="the time-out, if it still counts")
    pump.until(lambda: bool(fx.admin(WAITS)))
    fx.sql("select df.signal(%s, 'go')", run)
    pump.until(lambda: fx.sql("select df.status(%s)", run) == "completed")
    late = fx.rows("select 1 from fx where t = 'late'")
    assert len(late) == (decision == "rollback")
    assert problems(fx) == []


STEP_WAITS_FOR = """
select wait_event from pg_stat_activity
where datname = current_database() and usename = 'app' and wait_event_type = 'Lock'"""


@pytest.mark.parametrize("decision", ["commit", "rollback"])
def test_no_step_commits_while_a_cancel_is_undecided(fx: Database, decision: str) -> None:
    """The step has ended when the cancel is made, but for its commit, which waits for what becomes of the cancel."""
    run = start(fx, f"'insert into fx select ''a'' from pg_advisory_lock(7)' ~> {effect('b')}")
    with (
        fx.connect() as holder,
        fx.connect("app", autocommit=False) as canceller,
        Crew(fx, 1, interrupts=False) as crew,
    ):
        holder.execute("select pg_advisory_lock(7)")
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) == "advisory", what="the step to wait")
        canceller.execute("set local statement_timeout = '20s'")  # a cancel does not wait for the step
        canceller.execute("select df.cancel(%s)", [run])
        holder.execute("select pg_advisory_unlock(7)")
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) in ("tuple", "transactionid"), what="its end to wait")
        canceller.execute(decision)
        crew.settled()
    ended = {"commit": ("cancelled", set()), "rollback": ("completed", {"a", "b"})}
    left = {name for (name,) in fx.rows("select t from fx")}
    assert (fx.sql("select df.status(%s)", run), left) == ended[decision]


CAUGHT = f"df.catch(df.undo({effect('a')}, {effect('-a')}) ~> {{}}, {effect('handled')}) ~> {effect('b')}"


@pytest.mark.parametrize("undone", [("-a",), ()])
@pytest.mark.parametrize("decision", ["commit", "rollback"])
def test_no_failure_is_caught_while_a_cancel_is_undecided(fx: Database, decision: str, undone: tuple[str, ...]) -> None:
    """The step has failed when the cancel is made; what its CATCH does waits for what becomes of the cancel."""
    flow = CAUGHT if undone else CAUGHT.replace(f"df.undo({effect('a')}, {effect('-a')})", effect("a"))
    run = start(fx, flow.replace("{}", "'select 1 / (pg_advisory_lock(7)::text <> '''')::int'"))
    with (
        fx.connect() as holder,
        fx.connect("app", autocommit=False) as canceller,
        Crew(fx, 1, interrupts=False) as crew,
    ):
        holder.execute("select pg_advisory_lock(7)")
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) == "advisory", what="the step to wait")
        canceller.execute("set local statement_timeout = '20s'")
        canceller.execute("select df.cancel(%s)", [run])
        holder.execute("select pg_advisory_unlock(7)")
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) in ("tuple", "transactionid"), what="its failure to wait")
        canceller.execute(decision)
        crew.settled()
    caught = dict.fromkeys(("a", *undone, "handled", "b"), 1)
    ended = {"commit": ("cancelled", {"a": 1}), "rollback": ("completed", caught)}
    assert (status(fx, run), effects(fx, run)) == ended[decision]


@pytest.mark.parametrize("undo", [False, True])
@pytest.mark.parametrize("decision", ["commit", "rollback"])
def test_a_cancel_waits_for_a_failure_that_is_just_being_caught(fx: Database, decision: str, undo: bool) -> None:
    """The compensation of the body has begun, or not; a cancel that undoes lets it end, and nothing is undone twice."""
    pump = Pump(fx)
    run = start(fx, CAUGHT.replace("{}", "df.wait_for_signal('go') ~> 'select ''x''::int'"))
    pump.until(lambda: fx.admin(WAITS) == 1)
    fx.sql("select df.signal(%s, 'go')", run)
    wait_until(lambda: pump.tick() and not fx.admin(WAITS), what="the signal")
    with (
        ThreadPoolExecutor(1) as threads,
        fx.connect("app", autocommit=False) as session,
        fx.connect("app") as canceller,
    ):
        session.execute(FAILED_STEP)
        cancel = threads.submit(canceller.execute, "select df.cancel(%s, undo => %s)", [run, undo])
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) in ("tuple", "transactionid"), what="the cancel to wait")
        session.execute(decision)
        cancel.result()
    pump.until(lambda: not fx.admin(UNFINISHED))
    assert (status(fx, run), effects(fx, run)) == ("cancelled", {"a": 1, "-a": 1} if undo else {"a": 1})
    assert problems(fx) == []


@pytest.mark.parametrize(
    "race", ["(df.sleep(0.01) | {})", "df.timeout({}, 0.01, df.sleep(0))", "df.any(df.sleep(0.01), {})"]
)
def test_no_step_of_a_branch_commits_while_its_race_is_undecided(fx: Database, race: str) -> None:
    """The other branch has ended, or its time, in a transaction that is still open, while this one's step ends."""
    loser = "('insert into fx select ''loser'' from pg_advisory_lock(7)' ~> 'select 1')"
    run = start(fx, race.format(loser) + " ~> df.wait_for_signal('go')")
    with fx.connect() as holder, fx.connect("durable_worker", autocommit=False) as decider, Crew(fx, 1, 0) as crew:
        holder.execute("select pg_advisory_lock(7)")
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) == "advisory", what="the step to wait")
        fx.admin(POKES_HEARD)
        wait_until(lambda: decider.execute("select df_engine.fire_due(50)").fetchone() == (1,), what="the sleep to end")
        holder.execute("select pg_advisory_unlock(7)")
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) in ("tuple", "transactionid"), what="its end to wait")
        decider.commit()
        wait_until(lambda: fires(decider) and not fx.admin(WORK_IS_LEFT), what="the loser to be dropped")
        fx.sql("select df.signal(%s, 'go')", run)
        fires(decider)
        crew.settled()
    assert fx.sql("select df.status(%s)", run) == "completed"
    assert fx.rows("select * from fx") == []


@pytest.mark.parametrize("decision", ["cancel", "race"])
def test_no_construct_opens_while_it_is_undecided_whether_its_run_goes_on(fx: Database, decision: str) -> None:
    """The thread at the JOIN is claimed when the decision is made, and is moved on after it."""
    fx.admin("select df.set_setting('loop_min_interval', '0.05')")
    pump = Pump(fx)
    run = pump.start("df.wait_for_signal('s') | @> ('select 1' & 'select 2')")
    pump.work()
    wait_until(lambda: pump.tick() and fx.rows(QUEUE_ROWS, user=None), what="the next turn")
    with (
        ThreadPoolExecutor(1) as threads,
        fx.connect(autocommit=False) as claimer,
        fx.connect("app" if decision == "cancel" else "durable_worker", autocommit=False) as decider,
    ):
        claimer.execute(QUEUE_LOCKED)
        claimer.execute("set session authorization app")
        if decision == "cancel":
            decider.execute("select df.cancel(%s)", [run.id])
        else:
            fx.sql("select df.signal(%s, 's')", run.id)
            decider.execute("select df_engine.fire_due(50)")
        claim = threads.submit(claimer.execute, CLAIM)
        waits = "select wait_event from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
        pid = claimer.info.backend_pid
        wait_until(lambda: claim.done() or fx.admin(waits, pid) in ("tuple", "transactionid"))
        assert not claim.done()
        decider.commit()
        claim.result()
        claimer.commit()
    pump.until(lambda: not fx.admin(WORK_IS_LEFT))
    assert (run.ended(), problems(fx)) == (True, [])


def test_a_step_that_somebody_interrupts_after_its_race_was_lost_writes_nothing(fx: Database) -> None:
    pump = Pump(fx)
    run = pump.start("(df.sleep(0.01) | 'select pg_advisory_lock(7)') ~> df.wait_for_signal('go')")
    with ThreadPoolExecutor(1) as threads, fx.connect() as holder:
        holder.execute("select pg_advisory_lock(7)")
        working = threads.submit(pump.work)
        wait_until(lambda: pump.tick() and fx.admin(WAITS), what="the sleep to end")
        holder.execute("select pg_cancel_backend(%s)", [pump.session.info.backend_pid])
        report = working.result()
    pump.fail_stopped(report)
    assert run.node("pg_advisory_lock")["status"] in ("pending", "running")
    assert problems(fx) == []


def test_a_step_that_ends_while_its_run_is_marked_as_running_stays_ended(fx: Database) -> None:
    """The step has written its end and cannot commit yet; the supervisor finds it running, and waits for nothing."""
    fx.admin(HELD_ENDS)
    pump = Pump(fx)
    run = pump.start("'select 1' ~> df.wait_for_signal('go')")
    pump.supervisor.execute("set statement_timeout = '20s'")
    with ThreadPoolExecutor(1) as threads, fx.connect() as gate:
        gate.execute("select pg_advisory_lock(42)")
        working = threads.submit(pump.work)
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) == "advisory")
        pump.tick()
        assert run.node("select 1")["status"] in ("pending", "running")
        gate.execute("select pg_advisory_unlock(42)")
        working.result()
    assert run.node("select 1")["status"] == "completed"
    assert run.status == "running"
    assert problems(fx) == []


FLAG = "create table flag (v boolean); insert into flag values (false); grant all on flag to public"
DATA_COMES = "update flag set v = true; select df.poke('k')"


def waiting_pump(fx: Database) -> Pump:
    """A worker that nothing is to be heard of any more, and the table that is waited for."""
    fx.sql(FLAG)
    pump = Pump(fx)
    pump.until(lambda: fx.admin(POKED_BY_START) == 0)
    return pump


@pytest.mark.parametrize("where", ["in its statement", "before its commit"])
def test_a_poke_while_a_check_runs_is_followed_by_one_more(fx: Database, where: str) -> None:
    """The check does not see what the poke is about; the next one would be due a day later."""
    pump = waiting_pump(fx)
    lock = 7 if where == "in its statement" else 42
    if lock == 42:
        fx.admin(HELD_ENDS)
    with fx.connect() as holder, ThreadPoolExecutor(1) as pool:
        holder.execute("select pg_advisory_lock(%s)", [lock])
        run = pump.start("df.wait_for('select v from flag where pg_advisory_lock_shared(7) is not null', '1 day', 'k')")
        working = pool.submit(pump.work)
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) == "advisory", what="the check to wait")
        fx.sql(DATA_COMES)
        pump.tick()
        pump.tick()
        assert fx.admin(POKES) == 0
        holder.execute("select pg_advisory_unlock(%s)", [lock])
        working.result()
    assert run.status == "running"
    pump.until(run.ended)
    assert (run.status, problems(fx)) == ("completed", [])


def test_a_poke_that_saw_no_worker_and_commits_after_one_has_started_is_not_lost(fx: Database) -> None:
    fx.sql(FLAG)
    with fx.connect("app", autocommit=False) as conn:
        conn.execute(DATA_COMES)
        assert fx.admin(POKES) == 0
        pump = Pump(fx)
        pump.tick()
        run = pump.start("df.wait_for('select v from flag', '1 day', 'k')")
        pump.until(lambda: fx.admin(CHECKS_DUE_WITHIN, "100 years") == 1)
        pump.tick()
        assert (run.status, fx.admin(CHECKS_DUE_WITHIN, "1 hour")) == ("running", 0)
        conn.commit()
    pump.until(run.ended)
    assert fx.admin(POKED_BY_START) == 0


def test_a_poke_waits_for_nobody_and_is_heard_when_they_are_done(fx: Database) -> None:
    """Another session has locked the timer and the wait itself."""
    pump = waiting_pump(fx)
    run = pump.start("df.wait_for('select v from flag', '1 day', 'k')")
    pump.until(lambda: fx.admin(CHECKS_DUE_WITHIN, "100 years") == 1)
    with fx.connect(autocommit=False) as holder:
        for locks in (RACES_LOCKED, CHECKS_LOCKED):
            holder.execute(locks.encode())
        with fx.connect("app", options="-c statement_timeout=20s") as poker:
            poker.execute(DATA_COMES)
        pump.tick()
        pump.tick()
        assert run.status == "running"
    pump.until(run.ended)
    assert (run.status, problems(fx)) == ("completed", [])


def test_a_time_out_and_a_check_that_is_true_do_not_both_count(fx: Database) -> None:
    """The check is recorded, but not committed, when the time is up: it counts, and the supervisor waits for nobody."""
    pump = waiting_pump(fx)
    fx.admin(HELD_ENDS)
    with fx.connect() as holder, ThreadPoolExecutor(1) as pool:
        holder.execute("select pg_advisory_lock(42)")
        run = pump.start("df.wait_for('select true', timeout => '1 hour') |=> 'w' ~> 'select $w.timed_out'")
        working = pool.submit(pump.work)
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) == "advisory", what="the check to wait")
        fx.admin(TIMEOUT_IS_DUE)
        pump.tick()
        assert run.status == "running"
        holder.execute("select pg_advisory_unlock(42)")
        working.result()
    pump.until(run.ended)
    assert (run.value(), problems(fx)) == (False, [])


def test_waits_and_pokes_by_many_sessions_lose_nothing(fx: Database) -> None:
    """Each run is woken by data that others bring; nothing would be asked again within a day."""
    fx.sql("create table box (run text); grant all on box to public")
    flow = "df.wait_for('select true from box where run = ''{sys_instance_id}''', '1 day', 'box-{sys_instance_id}')"
    with Crew(fx, 4, 2) as crew:
        runs = [start(fx, flow) for _ in range(40)]
        for run in runs:
            fx.sql("insert into box values (%s)", run)
            fx.sql("select df.poke('box-' || %s)", run)
        crew.settled(60)
    assert fx.admin("select count(*) from df.instances where status = 'completed'") == 40


def called(fx: Database, pump: Pump, flow: str) -> tuple[str, str]:
    """A run that has called another: their ids."""
    run = pump.start(flow).id
    child = "select id from df.instances where parent_id = %s"
    wait_until(lambda: pump.tick() is not None and one_step_or_none(pump) is not None and fx.sql(child, run))
    return run, str(fx.sql(child, run))


def one_step_or_none(pump: Pump) -> list[Any]:
    """Claims what is ready, without running any step."""
    return pump.session.execute(CLAIM).fetchall()


def status(fx: Database, run: str) -> str:
    return str(fx.sql("select df.status(%s)", run))


@pytest.mark.parametrize("decision", ["commit", "rollback"])
def test_a_cancel_waits_for_a_called_run_that_is_just_ending(fx: Database, decision: str) -> None:
    """Either the end of the child counts or the cancel, and no CALL is ended after it."""
    pump = Pump(fx)
    run, child = called(fx, pump, f"df.call({effect('a')}) ~> {effect('b')}")
    with (
        ThreadPoolExecutor(1) as threads,
        fx.connect("app", autocommit=False) as session,
        fx.connect("app") as canceller,
    ):
        session.execute(ONE_STEP)
        cancel = threads.submit(canceller.execute, "select df.cancel(%s)", [run])
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) in ("tuple", "transactionid"), what="the cancel to wait")
        session.execute(decision)
        cancel.result()
    pump.until(lambda: not fx.admin(WORK_IS_LEFT) and not fx.admin(TIMERS))
    assert (status(fx, run), status(fx, child)) == ("cancelled", "completed" if decision == "commit" else "cancelled")
    assert effects(fx, run) == {}
    assert problems(fx) == []


@pytest.mark.parametrize("decision", ["commit", "rollback"])
def test_no_step_of_a_called_run_commits_while_a_cancel_of_its_caller_is_undecided(fx: Database, decision: str) -> None:
    pump = Pump(fx)
    run, child = called(fx, pump, f"df.call('insert into fx select ''a'' from pg_advisory_lock(7)') ~> {effect('b')}")
    with (
        ThreadPoolExecutor(1) as threads,
        fx.connect() as holder,
        fx.connect("app", autocommit=False) as canceller,
    ):
        holder.execute("select pg_advisory_lock(7)")
        working = threads.submit(pump.work)
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) == "advisory", what="the step to wait")
        canceller.execute("select df.cancel(%s)", [run])
        holder.execute("select pg_advisory_unlock(7)")
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) in ("tuple", "transactionid"), what="its end to wait")
        canceller.execute(decision)
        working.result()
    pump.until(lambda: not fx.admin(WORK_IS_LEFT) and not fx.admin(TIMERS))
    ended = {"commit": ("cancelled", 0), "rollback": ("completed", 2)}[decision]
    assert (status(fx, run), status(fx, child), fx.sql("select count(*)::int from fx")) == (ended[0], *ended)
    assert problems(fx) == []


@pytest.mark.parametrize("holder", ["the end of its last step", "a cancel of it"])
def test_a_time_out_waits_for_nobody_who_has_locked_a_called_run(fx: Database, holder: str) -> None:
    pump = Pump(fx)
    run, child = called(fx, pump, f"df.timeout(df.call({effect('a')}), 3600, {effect('late')})")
    fx.admin(TIMEOUT_IS_DUE)
    with fx.connect("app", autocommit=False) as session:
        session.execute(*((ONE_STEP,) if holder.startswith("the end") else ("select df.cancel(%s)", [child])))
        pump.supervisor.execute("set statement_timeout = '20s'")
        pump.tick()
        assert (status(fx, run), fx.admin(TIMERS)) == ("running", 1)
        session.rollback()
    wait_until(lambda: pump.tick() and not fx.admin(TIMERS), what="the time-out")
    pump.until(lambda: status(fx, run) == "completed")
    assert (status(fx, child), effects(fx, run)) == ("cancelled", {"late": 1})
    assert problems(fx) == []


def test_a_cancel_that_comes_before_the_caller_is_told_leaves_nothing(fx: Database) -> None:
    """The child has ended, and its note waits for whoever fires timers."""
    pump = Pump(fx)
    run, child = called(fx, pump, f"df.call({effect('a')}) ~> {effect('b')}")
    pump.work()
    assert (status(fx, child), fx.admin(TIMERS), fx.admin(WAITS)) == ("completed", 1, 1)
    fx.sql("select df.cancel(%s)", run)
    pump.until(lambda: not fx.admin(WORK_IS_LEFT))
    assert (status(fx, run), status(fx, child), fx.admin(TIMERS), fx.admin(WAITS)) == ("cancelled", "completed", 0, 0)
    assert problems(fx) == []


def test_the_end_of_a_called_run_and_the_cancel_of_its_caller_do_not_both_count(fx: Database) -> None:
    """The supervisor has ended the CALL, in a transaction that is still open, when the cancel comes: it waits."""
    pump = Pump(fx)
    run, _ = called(fx, pump, f"df.call({effect('a')}) ~> {effect('b')}")
    pump.work()
    with (
        ThreadPoolExecutor(1) as threads,
        fx.connect("durable_worker", autocommit=False) as supervisor,
        fx.connect("app") as canceller,
    ):
        supervisor.execute("select df_engine.fire_due(50)")
        cancel = threads.submit(canceller.execute, "select df.cancel(%s)", [run])
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) in ("tuple", "transactionid"), what="the cancel to wait")
        supervisor.commit()
        cancel.result()
    pump.until(lambda: not fx.admin(WORK_IS_LEFT))
    assert (status(fx, run), effects(fx, run), fx.admin(WAITS)) == ("cancelled", {}, 0)
    assert problems(fx) == []


def test_calls_and_the_ends_of_their_races_do_not_block_each_other(fx: Database) -> None:
    with Crew(fx, 4, 2) as crew:
        for _ in range(40):
            start(fx, "df.call('select 1' ~> 'select 1') | ('select 1' ~> 'select 1' ~> 'select 1')")
            start(fx, "df.timeout(df.call(df.sleep(0.01) ~> 'select 1'), 0.02, 'select 2') ~> 'select 3'")
        crew.settled()


def test_callers_and_what_they_call_are_cancelled_in_any_order(fx: Database) -> None:
    with Crew(fx, 4, 2) as crew:
        runs = [
            start(fx, "df.call(df.call('select 1' ~> df.sleep(0.05)) & 'select 2') | df.sleep(0.1)") for _ in range(40)
        ]
        for run in runs:
            fx.sql(
                "select count(df.cancel(id)) from df.instances where id = %s or parent_id = %s or status = 'failed'",
                run,
                run,
            )
        crew.settled()
    assert {row[0] for row in fx.rows("select status from df.instances where parent_id is null")} <= {
        "cancelled",
        "completed",
        "failed",
    }


def test_whatever_is_lost_of_a_call_it_starts_one_run_and_ends_once(fx: Database) -> None:
    """Each transition is made twice: the first time its transaction is lost."""
    run = start(fx, f"df.call({effect('a')}) ~> {effect('b')}")
    children = "select count(*)::int from df.instances where parent_id is not null"
    seen = []
    with fx.connect("app", autocommit=False) as session, fx.connect("durable_worker", autocommit=False) as supervisor:
        transitions = [
            (session, CLAIM),  # enters the CALL
            (session, ONE_STEP),  # ends the child
            (supervisor, "select df_engine.fire_due(50)"),  # ends the CALL
            (session, ONE_STEP),  # ends the run
        ]
        for conn, transition in transitions:
            for end in ("rollback", "commit"):
                conn.execute(transition)
                conn.execute(end)
                seen.append((fx.sql(children), fx.admin(WAITS), fx.admin(TIMERS), status(fx, run) == "completed"))
    assert seen == [
        *[(0, 0, 0, False), (1, 1, 0, False)],
        *[(1, 1, 0, False), (1, 1, 1, False)],
        *[(1, 1, 1, False), (1, 0, 0, False)],
        *[(1, 0, 0, False), (1, 0, 0, True)],
    ]
    assert problems(fx) == []


@pytest.mark.parametrize("decision", ["commit", "rollback"])
def test_a_step_that_decides_a_race_waits_for_a_called_run_that_is_just_ending(fx: Database, decision: str) -> None:
    pump = Pump(fx)
    run, child = called(fx, pump, f"df.call({effect('a')}) | (df.wait_for_signal('go') ~> {effect('b')})")
    with ThreadPoolExecutor(1) as threads, fx.connect("app", autocommit=False) as session:
        session.execute(ONE_STEP)
        fx.sql("select df.signal(%s, 'go')", run)
        pump.tick()
        working = threads.submit(pump.work)
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) in ("tuple", "transactionid"), what="the step to wait")
        session.execute(decision)
        working.result()
    pump.until(lambda: not fx.admin(WORK_IS_LEFT) and not fx.admin(TIMERS))
    assert (status(fx, run), effects(fx, run)) == ("completed", {"b": 1})
    assert status(fx, child) == ("completed" if decision == "commit" else "cancelled")
    assert problems(fx) == []


def mapped(fx: Database, pump: Pump, body: str, options: str, items: int) -> str:
    """A run of a map of which two items have begun: its id."""
    rows = f"'select g from generate_series(1, {items}) g' |=> 'rows' ~> df.wait_for_signal('go')"
    caught = f"df.catch(df.map('$rows.*', {body}, 2{options}) ~> {effect('after')}, {effect('$error.message')})"
    run = pump.start(f"{rows} ~> {caught}").id
    pump.until(lambda: fx.admin(WAITS) == 1)
    fx.sql("select df.signal(%s, 'go')", run)
    wait_until(lambda: pump.tick() and not fx.admin(WAITS), what="the signal")
    one_step_or_none(pump)
    assert len(fx.rows(QUEUE_ROWS, user=None)) == 2
    return run


def meet(fx: Database, transition: str, earlier: int, decision: str) -> None:
    """Two items make a transition: the earlier one commits it, or does not, when the other one waits for it."""
    with (
        ThreadPoolExecutor(1) as threads,
        fx.connect("app", autocommit=False) as first,
        fx.connect("app", autocommit=False) as second,
    ):
        first.execute(CLAIM)
        second.execute(CLAIM)
        one, other = (first, second) if earlier == 1 else (second, first)
        one.execute(transition)
        meeting = threads.submit(other.execute, transition)
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) in ("tuple", "transactionid"), what="the other item to wait")
        one.execute(decision)
        meeting.result()
        other.commit()


def found_item(error: str) -> int:
    """Which item an error is of."""
    return int(error.partition("item-")[2][0])


@pytest.mark.parametrize("decision", ["commit", "rollback"])
@pytest.mark.parametrize("earlier", [1, 2])
@pytest.mark.parametrize("on_error", ["fail", "stop", "collect"])
def test_two_items_of_a_map_fail_at_once(fx: Database, on_error: str, earlier: int, decision: str) -> None:
    """Of two failures that both count the first in the order of items decides; where one stops the other, that one."""
    pump = Pump(fx)
    body = "'select (''item-'' || $item_no)::int'"
    run = mapped(fx, pump, body, f", '{on_error}'", 3)
    meet(fx, FAILED_ITEM, earlier, decision)
    pump.until(lambda: status(fx, run) in ("completed", "failed"))
    if on_error == "collect":
        failures = [item["error"]["message"] for item in fx.sql("select result from df.nodes where node_type = 'MAP'")]
        assert [found_item(failure) for failure in failures] == [1, 2, 3]
        assert effects(fx, run) == {"after": 1}
    else:
        stopped_by = earlier if decision == "commit" else 3 - earlier
        caught = fx.rows("select t from fx where run = %s", run)
        assert [found_item(error) for (error,) in caught] == [1 if on_error == "fail" else stopped_by]
    assert problems(fx) == []


@pytest.mark.parametrize("decision", ["commit", "rollback"])
@pytest.mark.parametrize("earlier", [1, 2])
@pytest.mark.parametrize("items", [2, 3, 4])
def test_two_items_of_a_map_end_at_once(fx: Database, items: int, earlier: int, decision: str) -> None:
    """Each takes an item that is left, and no other takes it; the last one, and no other, ends the map."""
    pump = Pump(fx)
    run = mapped(fx, pump, effect("$item_no"), "", items)
    meet(fx, ONE_STEP, earlier, decision)
    pump.until(lambda: status(fx, run) in ("completed", "failed"))
    assert status(fx, run) == "completed"
    assert len(fx.sql("select result from df.nodes where node_type = 'MAP'")) == items
    again = [earlier] if decision == "rollback" else []
    assert effects(fx, run) == {"after": 1} | {str(number): 1 for number in [*again, *range(3, items + 1)]}
    assert problems(fx) == []


@pytest.mark.parametrize("on_error", ["fail", "stop", "collect"])
def test_items_of_maps_and_what_stops_them_do_not_block_each_other(fx: Database, on_error: str) -> None:
    inner = f"df.map('select 1 as m from generate_series(1, 3)', 'select 1 / ($item_no - 2)', 2, '{on_error}')"
    with Crew(fx, 4, 2) as crew:
        for _ in range(20):
            start(
                fx, f"df.catch(df.map('select g from generate_series(1, 6) g', {inner}, 3, '{on_error}'), 'select 1')"
            )
            start(
                fx,
                f"df.map('select g from generate_series(1, 6) g', 'select 1' ~> {inner}, 3) | 'select pg_sleep(0.01)'",
            )
        crew.settled(60)
