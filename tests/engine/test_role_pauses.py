"""df.pause_role, df.resume_role and the setting paused: nothing new begins of all runs of a role, or of all roles."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.engine.test_pause import A, B, in_a_step, notes
from tests.state import SCHEDULES_LATE
from tests.support import Database, Pump, Run

SAYS = r'^role "app" is paused by app at .*: the bank is closed$'
LONGER_THAN_IT_IS_BELIEVED = "select pg_sleep(0.06)"  # that a role is not paused
FORBIDDEN = psycopg.errors.InsufficientPrivilege


@pytest.fixture
def others(pump: Pump) -> Iterator[Pump]:
    other = Pump(pump.db, "other")
    yield other
    other.close()


def start_theirs(pump: Pump, flow: str) -> Run:
    return Run(pump.db, pump.db.sql(f"select df.start({flow})", user="other"))


def completed(db: Database, *runs: Run) -> bool:
    """Whether runs of any role are."""
    ids = [run.id for run in runs]
    return bool(db.admin("select bool_and(status = 'completed') from df.instances where id = any (%s)", ids))


def pause(db: Database, reason: str | None = "the bank is closed") -> None:
    assert db.sql("select df.pause_role('app', %s)", reason) == "OK"


def resume(db: Database) -> None:
    assert db.sql("select df.resume_role('app')") == "OK"


def stands_still(pump: Pump, *runs: Run) -> None:
    """Working and ticking move nothing of a paused role, and no worker is kept busy by it."""
    for _ in range(3):
        assert pump.work() == "empty"
        work = pump.tick()
    assert (work["roles"], work["direct"], work["http"], work["next_ms"]) == ([], 0, 0, None)
    assert not any(run.ended() for run in runs)
    assert pump.db.rows("select * from df.check()", user=None) == []


def goes_on(pump: Pump, *runs: Run) -> None:
    resume(pump.db)
    pump.until(lambda: all(run.ended() for run in runs))
    assert {run.status for run in runs} == {"completed"}


def test_runs_of_before_and_of_after_wait_and_say_why(pump: Pump) -> None:
    before = pump.start(A)
    pause(pump.db)
    after = pump.start(B)
    stands_still(pump, before, after)
    assert notes(pump.db) == []
    assert pump.db.sql("select bool_and(wait_reason ~ %s) from df.instances", SAYS)
    assert pump.db.rows("select role::text, paused_by, reason from df.paused_roles") == [
        ("app", "app", "the bank is closed")
    ]
    assert pump.db.sql("select wait_reason ~ %s from df.queue", SAYS)
    goes_on(pump, before, after)
    assert sorted(notes(pump.db)) == ["a", "b"]
    assert pump.db.rows("select * from df.paused_roles") == []
    assert pump.db.sql("select count(wait_reason) from df.instances") == 0


@pytest.mark.parametrize("policy", ["strict", "relaxed"])
@pytest.mark.parametrize("rest", [B, f"({B} & 'select 1')", f"df.sleep(0) ~> {B}"])
def test_the_step_that_runs_is_the_last_one(pump: Pump, policy: str, rest: str) -> None:
    """Whatever follows it: the next of its segment, a construct, a timer. Once in 50 ms a session asks."""
    pump.db.admin("select df.set_setting('commit_policy', %s)", policy)
    run = pump.start(f"{A} ~> {rest}")
    with in_a_step(pump):
        pause(pump.db)  # waits for no step
        pump.db.sql(LONGER_THAN_IT_IS_BELIEVED)
    stands_still(pump, run)
    assert notes(pump.db) == ["a"]
    goes_on(pump, run)
    assert notes(pump.db) == ["a", "b"]


def test_a_step_that_fails_is_recorded(pump: Pump) -> None:
    run = pump.start("'select 1 / count(*) from fx'")
    with in_a_step(pump):
        pause(pump.db)
    assert run.status == "failed"


@pytest.mark.parametrize(
    "flow", ["df.sleep(0)", "df.wait_for_signal('go')", "df.timeout(df.sleep(3600), 0.001, 'select 1')"]
)
def test_timers_and_signals_act_when_it_is_resumed(pump: Pump, flow: str) -> None:
    run = pump.start(flow)
    pump.work()
    pause(pump.db)
    pump.db.sql("select df.signal(%s, 'go')", run.id)
    stands_still(pump, run)
    goes_on(pump, run)


def test_a_leased_step_is_not_leased(pump: Pump) -> None:
    pause(pump.db, None)
    runs = [pump.start("'vacuum fx'"), pump.start("df.http('http://127.0.0.1:9/')")]
    stands_still(pump, *runs)
    resume(pump.db)
    pump.work()
    assert pump.tick()["direct"] == 1
    pause(pump.db, None)
    assert pump.tick()["direct"] == 0
    assert pump.tick()["left"] == []


def test_a_schedule_makes_its_tick_when_its_role_is_resumed(pump: Pump) -> None:
    pump.db.sql("select df.schedule('often', '* * * * *', %s)", "insert into fx (t) values ('a')")
    pause(pump.db)
    pump.db.admin(SCHEDULES_LATE, "2 min")
    pump.db.admin("update df_engine.schedules set due_at = next_at")
    for _ in range(2):
        assert pump.tick()["roles"] == []
        assert pump.work() == "empty"
    assert pump.db.sql("select wait_reason ~ %s from df.schedules", SAYS)
    assert notes(pump.db) == []
    resume(pump.db)
    pump.until(lambda: notes(pump.db))


def test_who_works_for_a_paused_role_is_told(pump: Pump) -> None:
    run = pump.start(A)
    pause(pump.db)
    with pump.db.connect("app") as conn:
        said: list[str] = []
        conn.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
        conn.execute("call df.work()")
    assert len(said) == 1
    assert said[0].startswith('role "app" is paused by app at ')
    assert not run.ended()


def test_a_test_of_a_flow_is_not_paused(db: Database) -> None:
    pause(db)
    assert db.rows("select status from df.test('select 1' ~> df.sleep(60)) where node is null") == [("completed",)]


def test_what_is_paused_by_itself_stays_so(pump: Pump) -> None:
    run = pump.start(A)
    pump.db.sql("select df.pause(%s)", run.id)
    pause(pump.db)
    resume(pump.db)
    stands_still(pump, run)
    pump.db.sql("select df.resume(%s)", run.id)
    pump.until(run.ended)


def test_a_cancel_works(pump: Pump) -> None:
    run = pump.start(A)
    pause(pump.db)
    pump.db.sql("select df.cancel(%s)", run.id)
    assert run.status == "cancelled"


def test_others_go_on_in_the_line_of_a_shared_limit(pump: Pump, others: Pump) -> None:
    """Steps of a paused role leave it, and come back when the role is resumed."""
    pump.db.admin("select df.set_limit('api', 1, shared => true)")
    mine = [pump.start(f"df.within('api', {A})") for _ in range(3)]
    with in_a_step(pump):
        beside = Pump(pump.db)
        assert beside.work() == "empty"
        beside.close()
        theirs = [start_theirs(pump, "df.within('api', 'select 1')") for _ in range(3)]
        assert others.work() == "empty"
        assert pump.db.admin("select waiting from df.limits") == 5
        pause(pump.db)
    others.until(lambda: completed(pump.db, *theirs))
    assert pump.db.admin("select waiting from df.limits") == 0  # of them nothing is left in the way
    assert notes(pump.db) == ["a"]
    goes_on(pump, *mine)


def test_the_whole_database(pump: Pump, others: Pump) -> None:
    runs = [pump.start(f"{A} ~> {B}"), start_theirs(pump, "'select 1'")]
    with in_a_step(pump):
        pump.db.admin("select df.set_setting('paused', 'on')")
        pump.db.sql(LONGER_THAN_IT_IS_BELIEVED)
    assert others.work() == "empty"
    stands_still(pump, *runs)
    assert pump.db.sql("select wait_reason ~ '^this database is paused by .* at ' from df.instances")
    pump.db.admin("select df.set_setting('paused', null)")
    pump.until(runs[0].ended)
    others.until(lambda: completed(pump.db, runs[1]))


def test_a_role_acts_on_itself_and_administrators_on_all(db: Database) -> None:
    for call in ("pause_role('other')", "resume_role('other')"):
        with pytest.raises(FORBIDDEN, match="acts on other roles for administrators only"):
            db.sql(f"select df.{call}")
    db.admin("select df.pause_role('app', 'too much')")
    with pytest.raises(FORBIDDEN, match='role "app" was paused by'):
        db.sql("select df.resume_role('app')")
    with pytest.raises(FORBIDDEN, match="already paused, by an administrator"):
        db.sql("select df.pause_role('app')")
    assert db.admin("select df.resume_role('app')") == "OK"
    pause(db)
    assert db.admin("select df.resume_role('app')") == "OK"


@pytest.mark.parametrize("call", ["pause_role", "resume_role"])
def test_wrong_arguments(db: Database, call: str) -> None:
    with pytest.raises(psycopg.errors.NullValueNotAllowed, match=f"df.{call}: role must not be NULL"):
        db.sql(f"select df.{call}(null)")
    with pytest.raises(psycopg.errors.UndefinedObject, match='role "nobody at all" does not exist'):
        db.sql(f"select df.{call}('nobody at all')")


def test_a_role_that_is_not_paused_is_not_resumed(db: Database) -> None:
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match='role "app" is not paused'):
        db.sql("select df.resume_role('app')")


def test_a_role_sees_its_own_pause(db: Database) -> None:
    pause(db)
    assert db.rows("select role::text from df.paused_roles", user="other") == []
