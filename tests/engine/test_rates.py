"""df.set_limit with a rate: how many steps begin within an interval; and the pause that an answer 429 asks for."""

from typing import Any

import pytest

from tests.engine.test_limits import all_ended, complete, note, notes, running, within
from tests.state import AGE_GRANTS, GRANTED, LOCK_GRANT, PAUSE_IS_OVER
from tests.support import Database, Pump, Run

RATE = "select rate, granted::int, waiting::int from df.limits"
# The most steps that have begun within any time of a length, by their own clocks.
MOST_WITHIN = """
select max(together) from (
  select count(*) over (order by at range between current row and %s::interval following) as together from begun) w"""
BEGUN = "insert into begun (at) values (clock_timestamp())"
ANSWER_429 = '{{"error": "HTTP status 429", "class": "http:429", "retry_after": {}, "sqlstate": null}}'


def rates(db: Database) -> tuple[int, int, int]:
    ((rate, granted, waiting),) = db.rows(RATE)
    return rate, granted, waiting


def paused(db: Database) -> Any:
    """For how many hours from now."""
    (hours,) = db.rows("select round(extract(epoch from paused_until - clock_timestamp()) / 3600) from df.limits")[0]
    return None if hours is None else int(hours)


def waits_for(run: Run) -> str:
    return str(run.db.sql("select wait_reason from df.instances where id = %s", run.id))


def claimed(pump: Pump) -> list[int]:
    """Leases the requests that there are for a worker."""
    query = "select ticket from df_engine.claim_leased(%s, 'http', 10)"
    return [ticket for (ticket,) in pump.supervisor.execute(query, [pump.worker]).fetchall()]


def request(pump: Pump, role: str = "app") -> Run:
    """A run within the limit that is about to send a request."""
    pump.db.admin("select df.http_allow('localhost', allow_private => true)")
    flow = "df.within('api', df.http('http://localhost/', 'GET'))"
    run = Run(pump.db, str(pump.db.sql(f"select df.start({flow})", user=role)))
    pump.work()
    return run


def leased(pump: Pump) -> int:
    """A request that has begun."""
    request(pump)
    (ticket,) = claimed(pump)
    return ticket


def answer(pump: Pump, ticket: int, outcome: str) -> bool:
    query = "select df_engine.complete_leased(%s, %s, %s)"
    row = pump.supervisor.execute(query, [pump.worker, ticket, outcome]).fetchone()
    assert row is not None
    return bool(row[0])


@pytest.fixture
def api(pump: Pump) -> Pump:
    """A limit of two steps an hour."""
    pump.db.sql("select df.set_limit('api', rate => 2, per => '1 hour')")
    return pump


def test_no_more_steps_begin_than_a_rate_says(api: Pump) -> None:
    runs = [api.start(within(note(str(number)))) for number in range(5)]
    assert api.work() == "empty"
    api.tick()
    assert api.work() == "empty"
    assert notes(api.db) == ["0", "1"]
    assert rates(api.db) == (2, 2, 3)
    api.db.admin(AGE_GRANTS, "2 hours")
    api.until(lambda: len(notes(api.db)) == 4)
    assert rates(api.db) == (2, 2, 1)
    api.db.admin(AGE_GRANTS, "2 hours")
    all_ended(api, runs)
    assert notes(api.db) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("statement", [BEGUN, "select 1"])
def test_within_no_interval_more_begin_by_their_own_clocks(pump: Pump, statement: str) -> None:
    db = pump.db
    db.sql("create table begun (at timestamptz)")
    db.sql("select df.set_limit('api', rate => 4, per => '1 second')")
    runs = [pump.start(within(statement) + " ~> " + within(BEGUN)) for _ in range(6)]
    pump.until(lambda: all(run.ended() for run in runs), 60)
    assert {run.status for run in runs} == {"completed"}
    assert db.sql("select count(*) from begun") == (12 if statement == BEGUN else 6)
    assert 1 <= int(str(db.sql(MOST_WITHIN, "1 second"))) <= 4


def test_a_worker_polls_when_the_next_grant_is_due(pump: Pump) -> None:
    pump.db.sql("select df.set_limit('api', rate => 1, per => '1 minute')")
    for _ in range(2):
        pump.start(within())
    pump.work()
    assert 50_000 < pump.tick()["next_ms"] <= 62_000  # a minute, and what a step may be late
    pump.db.sql("select df.set_limit('api', 0)")
    assert pump.tick()["next_ms"] is None


def test_a_step_that_fails_has_spent_its_grant(api: Pump) -> None:
    assert api.run(within("select 1 / 0")).status == "failed"
    assert rates(api.db) == (2, 1, 0)


def test_each_attempt_takes_a_grant(api: Pump) -> None:
    api.db.admin("create sequence tries; grant all on sequence tries to public")
    flow = "df.within('api', df.retry('select 1 / (nextval(''tries'') - 3)', initial_delay => '0.01 s'))"
    run = api.start(flow.replace("- 3)", "/ 9)"))
    api.until(lambda: rates(api.db) == (2, 2, 1))
    assert not run.ended()
    assert api.db.admin("select last_value from tries") == 2


def test_a_grant_is_for_one_step_of_a_run(api: Pump) -> None:
    run = api.start(f"{within(note('1'))} ~> {within(note('2'))} ~> {within(note('3'))}")
    api.work()
    assert notes(api.db) == ["1", "2"]
    assert (rates(api.db), run.ended()) == ((2, 2, 1), False)


@pytest.mark.parametrize(
    ("until", "own", "granted"), [("1 hour", True, 0), ("-1 s", True, 1), ("1 hour", False, 1)], ids=str
)
def test_a_grant_is_no_good_later_or_for_another_session(api: Pump, until: str, own: bool, granted: int) -> None:
    """As when the session that it was given to has died, or was held up before it began."""
    run = api.start(within())
    api.db.admin(GRANTED, until, api.session.info.backend_pid if own else 0)
    api.work()
    assert run.status == "completed"
    assert rates(api.db) == (2, granted, 0)


def test_two_sessions_never_have_the_same_grant(pump: Pump) -> None:
    pump.db.sql("select df.set_limit('api', rate => 1, per => '1 hour')")
    first, second = pump.start(within(note("first"))), pump.start(within(note("second")))
    with running(pump):
        assert pump.work() == "empty"
        assert rates(pump.db) == (1, 1, 1)
    pump.work()
    assert notes(pump.db) == ["first"]
    assert (first.status, second.ended()) == ("completed", False)


def test_a_grant_that_another_session_has_locked_is_passed_over(pump: Pump) -> None:
    pump.db.sql("select df.set_limit('api', rate => 1, per => '1 hour')")
    run = pump.start(within())
    with pump.db.connect("postgres", autocommit=False) as other:
        assert other.execute(LOCK_GRANT).fetchone() == (1,)
        assert pump.work() == "empty"
        assert rates(pump.db) == (1, 0, 1)
    all_ended(pump, [run])


def test_a_limit_may_have_places_and_a_rate(pump: Pump) -> None:
    pump.db.sql("select df.set_limit('api', 1, 2, '1 hour')")
    runs = [pump.start(within()) for _ in range(3)]
    with running(pump):
        assert pump.work() == "empty"
        assert rates(pump.db) == (2, 1, 2)  # who finds no place spends no grant
    pump.until(lambda: rates(pump.db) == (2, 2, 1))
    assert sum(run.ended() for run in runs) == 2


def test_a_step_in_two_limits_takes_both_grants_or_none(pump: Pump) -> None:
    pump.db.sql("select df.set_limit('a', rate => 2, per => '1 hour'), df.set_limit('b', rate => 1, per => '1 hour')")
    both = "df.within('a', df.within('b', 'insert into fx (t) values (''both'')'))"
    first, second = pump.start(both), pump.start(both)
    pump.work()
    assert (first.status, second.ended()) == ("completed", False)
    assert pump.db.rows("select name, granted::int, waiting::int from df.limits order by 1") == [
        ("a", 1, 0), ("b", 1, 1)]  # fmt: skip


def test_what_waits_for_a_grant_goes_on_when_the_limit_is_removed(api: Pump) -> None:
    runs = [api.start(within()) for _ in range(4)]
    api.work()
    assert rates(api.db) == (2, 2, 2)
    api.db.sql("select df.set_limit('api')")
    all_ended(api, runs)


def test_a_rate_that_is_lowered_and_raised_gives_nothing_twice(api: Pump) -> None:
    runs = [api.start(within()) for _ in range(4)]
    api.work()
    for rate in (1, 2):
        api.db.sql("select df.set_limit('api', rate => %s, per => '1 hour')", rate)
        api.tick()
        api.work()
    assert sum(run.ended() for run in runs) == 2
    api.db.sql("select df.set_limit('api', rate => 3, per => '1 hour')")
    api.until(lambda: sum(run.ended() for run in runs) == 3)
    assert rates(api.db) == (3, 3, 1)


def test_an_interval_that_is_shortened_counts_for_what_was_granted_before(api: Pump) -> None:
    runs = [api.start(within()) for _ in range(4)]
    api.work()
    api.db.admin(AGE_GRANTS, "2 minutes")
    api.db.sql("select df.set_limit('api', rate => 2, per => '1 minute')")
    all_ended(api, runs)


def test_a_leased_step_spends_a_grant_with_its_lease(api: Pump) -> None:
    runs = [request(api) for _ in range(3)]
    tickets = claimed(api)
    assert len(tickets) == 2
    assert rates(api.db) == (2, 2, 1)
    for ticket in tickets:
        complete(api, ticket)
    api.tick()
    assert claimed(api) == []
    api.db.admin(AGE_GRANTS, "2 hours")
    api.tick()
    (ticket,) = claimed(api)
    complete(api, ticket)
    all_ended(api, runs)


def test_operators_see_who_waits_for_a_grant(api: Pump) -> None:
    runs = [api.start(within()) for _ in range(3)]
    api.work()
    assert waits_for(runs[2]) == (
        'it waits for the rate of the limit "api" (df.limits): 2 may begin per 01:00:00')  # fmt: skip


def test_an_answer_429_pauses_the_limit(pump: Pump) -> None:
    """What runs goes on, what would begin waits, and the step itself is tried again as without a limit."""
    pump.db.sql("select df.set_limit('api', 3)")
    first = leased(pump)
    second = leased(pump)
    third = pump.start(within())
    assert answer(pump, first, ANSWER_429.format(7200))
    assert paused(pump.db) == 2
    pump.work()
    pump.tick()
    pump.work()
    assert not third.ended()
    assert waits_for(third).startswith('it waits for the limit "api" (df.limits), which an answer 429 has paused')
    assert 7_000_000 < pump.tick()["next_ms"] <= 7_200_000
    complete(pump, second)
    pump.db.admin(PAUSE_IS_OVER)
    pump.until(third.ended)
    assert paused(pump.db) is None


def test_an_answer_to_one_role_pauses_a_shared_limit_for_a_minute_at_most(pump: Pump) -> None:
    pump.db.admin("select df.set_limit('api', 3, shared => true)")
    assert answer(pump, leased(pump), ANSWER_429.format(7200))
    left = "select extract(epoch from paused_until - clock_timestamp()) between 1 and 60 from df.limits"
    assert pump.db.sql(left) is True


def test_a_pause_holds_leased_steps_too(pump: Pump) -> None:
    pump.db.sql("select df.set_limit('api', 3)")
    ticket = leased(pump)
    request(pump)
    answer(pump, ticket, ANSWER_429.format(60))
    assert claimed(pump) == []
    pump.db.admin(PAUSE_IS_OVER)
    pump.tick()
    assert len(claimed(pump)) == 1


def test_of_two_answers_the_longer_pause_counts_and_none_is_longer_than_allowed(pump: Pump) -> None:
    pump.db.sql("select df.set_limit('api', 3)")
    tickets = [leased(pump) for _ in range(3)]
    for ticket, seconds, hours in zip(tickets, (7200, 60, 10_000_000), (2, 2, 24), strict=True):
        answer(pump, ticket, ANSWER_429.format(seconds))
        assert paused(pump.db) == hours


@pytest.mark.parametrize("outcome", [ANSWER_429.format("null"), ANSWER_429.format(0),
                                     ANSWER_429.format(60).replace("http:429", "http:503")])  # fmt: skip
def test_no_other_answer_pauses_a_limit(pump: Pump, outcome: str) -> None:
    pump.db.sql("select df.set_limit('api', 1)")
    assert answer(pump, leased(pump), outcome)
    assert paused(pump.db) is None


def test_setting_a_limit_ends_its_pause(pump: Pump) -> None:
    pump.db.sql("select df.set_limit('api', 1)")
    answer(pump, leased(pump), ANSWER_429.format(7200))
    run = pump.start(within())
    pump.work()
    pump.db.sql("select df.set_limit('api', 1)")
    all_ended(pump, [run])


def test_an_answer_waits_for_nobody_who_sets_the_limit(pump: Pump) -> None:
    pump.db.sql("select df.set_limit('api', 1)")
    ticket = leased(pump)
    with pump.db.connect("app", autocommit=False) as other:
        other.execute("select df.set_limit('api', 2)")
        assert not answer(pump, ticket, ANSWER_429.format(7200))  # not now
    assert answer(pump, ticket, ANSWER_429.format(7200))
    assert paused(pump.db) == 2


def test_an_answer_to_another_role_pauses_nothing_of_ones_own(pump: Pump) -> None:
    for user in ("app", "other"):
        pump.db.sql("select df.set_limit('api', 1)", user=user)
    pump.db.admin("select df.grant_usage('other', include_http => true)")
    other = Pump(pump.db, "other")
    request(other, "other")
    (ticket,) = claimed(other)
    answer(other, ticket, ANSWER_429.format(7200))
    other.close()
    assert paused(pump.db) is None
    assert pump.db.sql("select paused_until is not null from df.limits", user="other") is True
    assert pump.run(within()).status == "completed"
