"""What happens between two transactions that meet: one case a test, each of them once gone wrong or nearly so."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.crash.crew import Crew, problems
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
    pump.until(lambda: fx.admin("select count(*) from df_engine.waits") == 2)
    fx.sql("select df.signal(%s, 's')", run.id)
    pump.until(run.ended)
    assert run.status == "completed"
    assert fx.admin("select cardinality(delivered_to) from df_engine.inbox") == 1
    assert problems(fx) == []


def test_a_kept_signal_whose_wait_timed_out_goes_to_one_other_open_wait(fx: Database) -> None:
    pump = Pump(fx)
    run = pump.start("df.wait_for_signal('s') & df.wait_for_signal('s')")
    pump.until(lambda: fx.admin("select count(*) from df_engine.waits") == 2)
    fx.admin(
        "insert into df_engine.inbox (instance_id, signal_name, signal_data, sent_by, delivered_to) "
        "values (%s, 's', '1', 'app'::regrole, '{00000000}')",
        run.id,
    )
    pump.until(lambda: fx.admin("select status = 'delivered' from df_engine.inbox"))
    assert fx.admin("select count(*) from df_engine.waits") == 1
    assert problems(fx) == []


def test_a_signal_is_not_kept_while_a_wait_for_it_opens(fx: Database) -> None:
    """The wait is open, but not committed: the supervisor would not see it."""
    pump = Pump(fx)
    run = pump.start("df.sleep(0.01) ~> 'select 1' ~> df.wait_for_signal('s')")
    pump.work()
    wait_until(lambda: pump.tick() and fx.admin("select count(*) from df_engine.ready"), what="the sleep to end")
    with fx.connect("app", autocommit=False) as session:
        one_step(session)
        session.execute(CLAIM)
        fx.sql("select df.signal(%s, 's')", run.id)
        pump.tick()
        assert fx.admin("select fresh from df_engine.inbox")
        session.commit()
    pump.until(run.ended)
    assert (run.status, problems(fx)) == ("completed", [])


@pytest.mark.parametrize("waits", ["{0} ~> {0}", "{0} ~> 'select 1' ~> {0}", "{0} & {0}"])
@pytest.mark.parametrize("open_first", [True, False])
def test_two_signals_at_once_find_two_waits(fx: Database, waits: str, open_first: bool) -> None:
    pump = Pump(fx)
    run = pump.start(waits.format("df.wait_for_signal('s')") + " ~> 'select 1'")
    if open_first:
        pump.until(lambda: fx.admin("select count(*) from df_engine.waits"))
    fx.sql("select df.signal(%s, 's', '1'), df.signal(%s, 's', '2')", run.id, run.id)
    pump.until(run.ended)
    assert (run.status, problems(fx)) == ("completed", [])


def test_a_signal_waits_for_an_older_one(fx: Database) -> None:
    pump = Pump(fx)
    run = pump.start("df.wait_for_signal('s') |=> 'a' ~> df.wait_for_signal('s') |=> 'b' ~> 'select 1'")
    pump.until(lambda: fx.admin("select count(*) from df_engine.waits") == 1)
    fx.sql("select df.signal(%s, 's', '1'), df.signal(%s, 's', '2')", run.id, run.id)
    later = "select df_engine.try_signal(s) from df_engine.inbox s where s.signal_data = '2'"
    assert fx.admin(later) is False
    pump.until(run.ended)
    assert fx.admin("select array_agg(signal_data::int order by delivered_at, signal_id) from df_engine.inbox") == [
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
        assert fx.admin("select _generation from df.instances where id = %s", run) == 4


CLAIM = """
select c.p_ready, c.p_version, c.p_instance, (c.p_steps[1]).node, (c.p_steps[1]).ends, (c.p_steps[1]).next
from df_engine.claim_step((select key from df_engine.own_key), null, 0, false) c"""
PASS_ON = """
select df_engine.pass_on(
  (select key from df_engine.own_key), %s, %s, %s, %s, false, '1', null, null, now(), null, null)"""
HOLD = "select df_engine.hold_step(%s, %s, %s, %s)"


def one_step(conn: psycopg.Connection[Any]) -> tuple[tuple[Any, ...], str]:
    """What a session does for one plain step; answers what hold_step wants to know then, and the step."""
    ready, version, run, node, ends, following = conn.execute(CLAIM).fetchall()[0]
    assert conn.execute(PASS_ON, [ready, run, ends, following]).fetchone() == (True,)
    conn.commit()
    return (ready, version, run, following), node


def test_a_session_does_not_go_on_with_a_run_that_another_has_taken_over(fx: Database) -> None:
    start(fx, " ~> ".join(["'insert into fx values (''a'')'"] * 4))
    with fx.connect("app", autocommit=False) as first, fx.connect("app", autocommit=False) as second:
        left, node = one_step(first)
        taken, following = one_step(second)
        assert node != left[3] == following != taken[3]
        assert first.execute(HOLD, left).fetchone() == (False,)
        assert second.execute(HOLD, taken).fetchone() == (True,)


STEP_WAITS_FOR = "select wait_event from pg_stat_activity where application_name like %s and wait_event_type = 'Lock'"


@pytest.mark.parametrize("decision", ["commit", "rollback"])
def test_no_step_commits_while_a_cancel_is_undecided(fx: Database, decision: str) -> None:
    """The step has ended when the cancel is made, but for its commit, which waits for what becomes of the cancel."""
    run = start(fx, f"'insert into fx select ''a'' from pg_advisory_lock(7)' ~> {effect('b')}")
    step = f"pg_durable:{run}:%"
    with (
        fx.connect() as holder,
        fx.connect("app", autocommit=False) as canceller,
        Crew(fx, 1, interrupts=False) as crew,
    ):
        holder.execute("select pg_advisory_lock(7)")
        wait_until(lambda: fx.admin(STEP_WAITS_FOR, step) == "advisory", what="the step to wait")
        canceller.execute("select df.cancel(%s)", [run])
        holder.execute("select pg_advisory_unlock(7)")
        wait_until(lambda: fx.admin(STEP_WAITS_FOR, step) in ("tuple", "transactionid"), what="its end to wait")
        canceller.execute(decision)
        crew.settled()
    ended = {"commit": ("cancelled", set()), "rollback": ("completed", {"a", "b"})}
    left = {name for (name,) in fx.rows("select t from fx")}
    assert (fx.sql("select df.status(%s)", run), left) == ended[decision]


def test_no_step_of_a_branch_commits_while_its_race_is_undecided(fx: Database) -> None:
    """The other branch has ended in a transaction that is still open, while this one's step ends."""
    run = start(fx, "df.sleep(0.01) | ('insert into fx select ''loser'' from pg_advisory_lock(7)' ~> 'select 1')")
    step = f"pg_durable:{run}:%"
    with fx.connect() as holder, fx.connect("durable_worker", autocommit=False) as decider, Crew(fx, 1, 0) as crew:
        holder.execute("select pg_advisory_lock(7)")
        wait_until(lambda: fx.admin(STEP_WAITS_FOR, step) == "advisory", what="the step to wait")
        wait_until(lambda: decider.execute("select df_engine.fire_due(50)").fetchone() == (1,), what="the sleep to end")
        holder.execute("select pg_advisory_unlock(7)")
        wait_until(lambda: fx.admin(STEP_WAITS_FOR, step) in ("tuple", "transactionid"), what="its end to wait")
        decider.commit()
        crew.settled()
    assert fx.sql("select df.status(%s)", run) == "completed"
    assert fx.rows("select * from fx") == []


def test_a_step_that_somebody_interrupts_after_its_race_was_lost_writes_nothing(fx: Database) -> None:
    pump = Pump(fx)
    run = pump.start("(df.sleep(0.01) | 'select pg_advisory_lock(7)') ~> df.wait_for_signal('go')")
    lost = "select count(*) from df_engine.scopes where outcome = 'lost'"
    with ThreadPoolExecutor(1) as threads, fx.connect() as holder:
        holder.execute("select pg_advisory_lock(7)")
        working = threads.submit(pump.work)
        wait_until(lambda: pump.tick() and fx.admin(lost), what="the sleep to end")
        holder.execute("select pg_cancel_backend(%s)", [pump.session.info.backend_pid])
        _, instance, node = working.result().split(":")
    pump.supervisor.execute("select df_engine.fail_interrupted(%s, %s)", [instance, node])
    assert run.node("pg_advisory_lock")["status"] in ("pending", "running")
    assert problems(fx) == []


def test_a_long_step_that_ends_while_it_is_marked_as_running_stays_ended(fx: Database) -> None:
    """The step has written its end and cannot commit yet; the supervisor finds it running and waits for its row."""
    fx.admin(HELD_END)
    fx.admin("alter function df_engine.mark_long_steps() set lock_timeout = '30s'")
    pump = Pump(fx)
    run = pump.start("'select pg_sleep(0.5)' ~> df.wait_for_signal('go')")
    pump.tick()
    with ThreadPoolExecutor(2) as threads, fx.connect() as gate:
        gate.execute("select pg_advisory_lock(42)")
        working = threads.submit(pump.work)
        wait_until(lambda: fx.admin("select count(*) from df_engine.steps_in_sessions"))
        pump.supervisor.execute("select set_config('df_engine.seen', %s, false)", [fx.admin(SEEN)])
        wait_until(lambda: fx.admin(WAITS, "advisory"))
        ticking = threads.submit(pump.tick)
        wait_until(lambda: fx.admin(WAITS, "transactionid"))
        gate.execute("select pg_advisory_unlock(42)")
        working.result()
        ticking.result()
    node = run.node("pg_sleep")
    assert node["status"] == "completed"
    assert node["result"]["row_count"] == 1
    assert problems(fx) == []


HELD_END = """
create function hold() returns trigger language plpgsql as $$
begin
  perform pg_advisory_xact_lock_shared(42);
  return new;
end
$$;
create trigger hold after update on df.nodes
  for each row when (new.query like '%pg_sleep%' and new.status = 'completed') execute function hold();"""
SEEN = """
select jsonb_build_object('at', 0, 'steps', jsonb_agg(pid || step))::text from df_engine.steps_in_sessions"""
WAITS = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and wait_event = %s"
