"""df.set_limit and df.within: how many steps run at a time, who waits in line, and who is next."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest

from tests.state import KEYS_IN_LINE
from tests.support import Database, Pump, Run, wait_until

LIMITS = "select concurrency, in_use::int, waiting::int from df.limits"


def within(statement: str = "insert into fx (t) values (''a'')", limit: str = "api", key: str | None = None) -> str:
    return f"df.within('{limit}', '{statement}'" + (f", '{key}')" if key else ")")


def note(text: str) -> str:
    return f"insert into fx (t) values (''{text}'')"


def notes(db: Database) -> list[str]:
    return [text for (text,) in db.rows("select t from fx order by ctid")]


@pytest.fixture
def api(pump: Pump) -> Pump:
    """A limit of one step at a time."""
    pump.db.sql("select df.set_limit('api', 1)")
    return pump


class Beside:
    """Sessions that work beside the test, each in a thread."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.pumps: list[Pump] = []
        self.threads: list[threading.Thread] = []

    def more(self, sessions: int) -> None:
        """Starts so many, and waits until each is in a step that waits for fx."""
        for _ in range(sessions):
            pump = Pump(self.db)
            thread = threading.Thread(target=self._work, args=(pump,))
            self.pumps.append(pump)
            self.threads.append(thread)
            thread.start()
            wait_until(lambda: waiting_for_fx(self.db) == len(self.threads))

    def join(self) -> None:
        for thread, pump in zip(self.threads, self.pumps, strict=True):
            thread.join()
            pump.close()

    def _work(self, pump: Pump) -> None:
        with suppress(psycopg.errors.AdminShutdown):  # a test ends this session
            pump.work()


@contextmanager
def running(pump: Pump, sessions: int = 1) -> Iterator[Beside]:
    """Works beside the test in so many sessions; steps that write to fx wait until the end of the block."""
    beside = Beside(pump.db)
    with pump.db.connect("postgres", autocommit=False) as holder:
        holder.execute("set idle_in_transaction_session_timeout = '30 s'")  # a test that fails does not wait for ever
        holder.execute("lock table fx")
        beside.more(sessions)
        yield beside
    beside.join()


def waiting_for_fx(db: Database) -> int:
    return int(db.admin("select count(*) from pg_locks where relation = 'fx'::regclass and not granted"))


def limits(db: Database) -> tuple[int, int, int]:
    ((concurrency, in_use, waiting),) = db.rows(LIMITS)
    return concurrency, in_use, waiting


def all_ended(pump: Pump, runs: list[Run]) -> None:
    pump.until(lambda: all(run.ended() for run in runs))
    assert {run.status for run in runs} == {"completed"}


def test_a_step_waits_in_line_while_no_place_is_free(api: Pump) -> None:
    runs = [api.start(within()) for _ in range(3)]
    with running(api):
        assert api.work() == "empty"  # two have left the queue, and no session waits for them
        assert limits(api.db) == (1, 1, 2)
        assert waiting_for_fx(api.db) == 1
    all_ended(api, runs)
    assert limits(api.db) == (1, 0, 0)
    assert len(notes(api.db)) == 3


def test_the_end_of_a_step_calls_the_next(api: Pump) -> None:
    """No poll is needed: the session goes on with it."""
    runs = [api.start(within(note(str(number)))) for number in range(4)]
    with running(api):
        api.work()
    assert [run.status for run in runs] == ["completed"] * 4
    assert notes(api.db) == ["0", "1", "2", "3"]


def test_a_step_that_fails_calls_the_next(api: Pump) -> None:
    first = api.start(within("with w as (insert into fx (t) values (null) returning t) select 1 / (select 0 from w)"))
    with running(api):
        others = [api.start(within()) for _ in range(2)]
        api.work()
        assert limits(api.db) == (1, 1, 2)
    assert first.status == "failed"
    assert [run.status for run in others] == ["completed", "completed"]


def test_a_step_that_is_tried_again_has_no_place_meanwhile(api: Pump) -> None:
    api.db.admin("create sequence tries; grant all on sequence tries to public")
    flow = "df.within('api', df.retry('select 1 / (nextval(''tries'') - 1)', initial_delay => '1 hour'))"
    run = api.start(flow)
    other = api.start(within())
    api.work()
    assert (run.ended(), other.status) == (False, "completed")
    assert limits(api.db) == (1, 0, 0)


def test_as_many_run_as_there_are_places(pump: Pump) -> None:
    pump.db.sql("select df.set_limit('api', 3)")
    runs = [pump.start(within()) for _ in range(5)]
    with running(pump, 3):
        assert pump.work() == "empty"
        assert limits(pump.db) == (3, 3, 2)
    all_ended(pump, runs)
    assert limits(pump.db) == (3, 0, 0)


def test_a_place_is_free_when_its_session_has_died(api: Pump) -> None:
    runs = [api.start(within()) for _ in range(2)]
    with running(api) as beside:
        api.work()
        assert limits(api.db) == (1, 1, 1)
        pid = beside.pumps[0].session.info.backend_pid
        api.db.admin("select pg_terminate_backend(%s)", pid)
        wait_until(lambda: api.db.admin("select count(*) from pg_stat_activity where pid = %s", pid) == 0)
        assert limits(api.db) == (1, 0, 1)
    api.tick()
    assert limits(api.db) == (1, 0, 0)
    all_ended(api, runs)


def test_who_comes_later_waits_behind_those_in_line(api: Pump) -> None:
    runs = [api.start(within(note(str(number)))) for number in range(2)]
    with running(api) as beside:
        api.work()
        api.db.admin("select pg_terminate_backend(%s)", beside.pumps[0].session.info.backend_pid)
        wait_until(lambda: limits(api.db) == (1, 0, 1))
    runs.append(api.start(within(note("later"))))
    assert api.work() == "empty"
    assert limits(api.db)[2] >= 1
    all_ended(api, runs)
    assert notes(api.db)[-1] == "later"


def test_a_limit_that_is_not_set_limits_nothing(pump: Pump) -> None:
    runs = [pump.start(within()) for _ in range(2)]
    with running(pump, 2):
        assert waiting_for_fx(pump.db) == 2
    all_ended(pump, runs)


def test_what_waits_goes_on_when_the_limit_is_removed(api: Pump) -> None:
    runs = [api.start(within()) for _ in range(3)]
    with running(api) as beside:
        api.work()
        assert limits(api.db) == (1, 1, 2)
        api.db.sql("select df.set_limit('api')")
        assert api.db.rows("select * from df.limits") == []
        beside.more(2)
    all_ended(api, runs)


def test_a_limit_that_is_raised_lets_more_run(api: Pump) -> None:
    runs = [api.start(within()) for _ in range(4)]
    with running(api) as beside:
        api.work()
        api.db.sql("select df.set_limit('api', 3)")
        api.tick()
        beside.more(2)
        assert api.work() == "empty"
        assert limits(api.db) == (3, 3, 1)
    all_ended(api, runs)


def test_a_limit_that_is_lowered_lets_running_steps_end(pump: Pump) -> None:
    """Until there are no more than it says nobody begins; then as many as it says."""
    pump.db.sql("select df.set_limit('api', 3)")
    runs = [pump.start(within()) for _ in range(5)]
    with running(pump, 3):
        pump.db.sql("select df.set_limit('api', 1)")
        pump.work()
        assert limits(pump.db) == (1, 3, 2)
        assert waiting_for_fx(pump.db) == 3
    all_ended(pump, runs)
    assert limits(pump.db) == (1, 0, 0)
    more = [pump.start(within()) for _ in range(2)]
    with running(pump):
        pump.work()
        assert limits(pump.db) == (1, 1, 1)
    all_ended(pump, more)


def test_a_place_below_a_lowered_limit_waits_for_those_above_it(pump: Pump) -> None:
    pump.db.sql("select df.set_limit('api', 2)")
    first = pump.start(within("select pg_advisory_xact_lock(77)"))
    second = pump.start(within())
    with pump.db.connect("postgres", autocommit=False) as gate:
        gate.execute("select pg_advisory_xact_lock(77)")
        other = Pump(pump.db)
        thread = threading.Thread(target=other.work)
        thread.start()
        wait_until(lambda: limits(pump.db)[1] == 1)
        with running(pump):
            pump.db.sql("select df.set_limit('api', 1)")
            gate.rollback()
            thread.join()
            third = pump.start(within())
            assert pump.work() == "empty"
            assert limits(pump.db) == (1, 1, 1)  # the place above the limit is taken
        other.close()
    all_ended(pump, [first, second, third])


def test_with_a_limit_of_zero_all_wait(pump: Pump) -> None:
    pump.db.sql("select df.set_limit('api', 0)")
    run = pump.start(within())
    pump.work()
    pump.tick()
    assert (limits(pump.db), run.ended()) == ((0, 0, 1), False)
    pump.db.sql("select df.set_limit('api', 1)")
    all_ended(pump, [run])


def test_keys_take_turns(api: Pump) -> None:
    """One with many steps does not stall the others."""
    runs = [api.start(within(note("busy"), key="a"))]
    with running(api):
        runs += [api.start(within(note(f"a{number}"), key="a")) for number in range(4)]
        api.work()
        runs += [api.start(within(note(f"b{number}"), key="b")) for number in range(2)]
        runs += [api.start(within(note("c0"), key="c"))]
        api.work()
        assert api.db.rows("select waiting::int, waiting_keys::int from df.limits") == [(7, 3)]
    all_ended(api, runs)
    assert notes(api.db) == ["busy", "a0", "b0", "c0", "a1", "b1", "a2", "a3"]


def test_a_key_may_hold_references(api: Pump) -> None:
    flow = "'select ''x'' as tenant' |=> 'order' ~> " + within(key="$order.tenant")
    first, second = api.start(flow), api.start(flow)
    with running(api):
        api.work()
        assert api.db.rows(KEYS_IN_LINE, user=None) == [("x",)]
    all_ended(api, [first, second])


def test_a_key_that_cannot_be_told_fails_the_step(api: Pump) -> None:
    run = api.run("'select 1 as v' |=> 'order' ~> " + within(key="$order.tenant"))
    assert run.status == "failed"
    error = str(api.db.sql("select error from df.instances"))
    assert error.startswith('the key in the limit "api": ')
    assert "tenant" in error
    assert api.run(within()).status == "completed"


def test_a_step_in_two_limits_takes_both_places_or_none(pump: Pump) -> None:
    pump.db.sql("select df.set_limit('a', 1), df.set_limit('b', 1)")
    both = "df.within('a', df.within('b', 'insert into fx (t) values (''both'')'))"
    alone = pump.start(within(note("alone"), limit="b"))
    with running(pump):
        run = pump.start(both)
        pump.work()
        assert pump.db.rows("select name, in_use::int, waiting::int from df.limits order by 1") == [
            ("a", 0, 0), ("b", 1, 1)]  # fmt: skip
    all_ended(pump, [alone, run])
    assert pump.db.rows("select in_use::int, waiting::int from df.limits") == [(0, 0)] * 2


def test_each_step_of_what_is_inside_takes_its_own_place(api: Pump) -> None:
    """Two branches of one run wait for each other."""
    inside = (
        "df.within('api', ('select 1' ~> 'insert into fx (t) values (''x'')') & 'insert into fx (t) values (''y'')')"
    )
    runs = [api.start(inside)]
    with running(api):
        assert api.work() == "empty"
        assert limits(api.db) == (1, 1, 1)
    all_ended(api, runs)


def test_a_run_that_is_cancelled_leaves_the_line(api: Pump) -> None:
    first, second = api.start(within()), api.start(within())
    with running(api):
        api.work()
        api.db.sql("select df.cancel(%s, 'enough')", second.id)
        assert limits(api.db) == (1, 1, 0)
    all_ended(api, [first])
    assert second.status == "cancelled"


def test_a_run_that_is_paused_leaves_the_line_and_comes_back(api: Pump) -> None:
    first, second = api.start(within()), api.start(within())
    with running(api):
        api.work()
        api.db.sql("select df.pause(%s)", second.id)
        assert limits(api.db) == (1, 1, 0)
    api.until(first.ended)
    assert not second.ended()
    api.db.sql("select df.resume(%s)", second.id)
    all_ended(api, [first, second])


def claimed(pump: Pump) -> list[int]:
    """Leases what there is for a worker outside of transactions."""
    query = "select ticket from df_engine.claim_leased(%s, 'direct', 10)"
    return [ticket for (ticket,) in pump.supervisor.execute(query, [pump.worker]).fetchall()]


def complete(pump: Pump, ticket: int) -> None:
    outcome = '{"rows": [], "row_count": 0, "columns": [], "types": []}'
    row = pump.supervisor.execute(
        "select df_engine.complete_leased(%s, %s, %s)", [pump.worker, ticket, outcome]
    ).fetchone()
    assert row == (True,)


def test_a_leased_step_has_its_place_as_long_as_its_lease(api: Pump) -> None:
    """Steps of all kinds stand in one line."""
    runs = [api.start(within("vacuum fx")) for _ in range(2)]
    api.work()
    (first,) = claimed(api)
    assert claimed(api) == []
    assert limits(api.db) == (1, 1, 1)
    runs.append(api.start(within()))
    assert api.work() == "empty"
    assert limits(api.db) == (1, 1, 2)
    complete(api, first)
    assert limits(api.db) == (1, 0, 1)
    (second,) = claimed(api)
    assert (api.work(), limits(api.db)) == ("empty", (1, 1, 1))
    complete(api, second)
    all_ended(api, runs)
    assert limits(api.db) == (1, 0, 0)


def test_a_leased_step_waits_for_a_session_that_has_the_place(api: Pump) -> None:
    other = api.start(within("vacuum fx"))
    api.work()
    first = api.start(within())
    with running(api):
        assert claimed(api) == []
        assert limits(api.db) == (1, 1, 1)
    (ticket,) = claimed(api)
    complete(api, ticket)
    all_ended(api, [first, other])


def test_the_place_of_a_leased_step_is_free_when_its_run_is_cancelled(api: Pump) -> None:
    first = api.start(within("vacuum fx"))
    api.work()
    assert len(claimed(api)) == 1
    second = api.start(within())
    api.work()
    assert limits(api.db) == (1, 1, 1)
    api.db.sql("select df.cancel(%s)", first.id)
    assert limits(api.db) == (1, 0, 1)
    all_ended(api, [second])


def test_the_place_of_a_leased_step_is_free_when_its_worker_has_gone(api: Pump) -> None:
    runs = [api.start(within("vacuum fx")) for _ in range(2)]
    api.work()
    gone = Pump(api.db)
    assert len(claimed(gone)) == 1
    assert claimed(api) == []
    assert limits(api.db) == (1, 1, 1)
    gone.close()
    for run in range(2):
        wait_until(lambda: api.tick() and limits(api.db)[1] == 0)
        tickets = wait_until(lambda: api.tick() and claimed(api))
        assert (len(tickets), limits(api.db)) == (1, (1, 1, 1 - run))
        complete(api, tickets[0])
    all_ended(api, runs)


def test_operators_see_what_waits_and_why(api: Pump) -> None:
    first, second = api.start(within()), api.start(within())
    reason = 'it waits for a place of the limit "api" (df.limits): 1 of 1 are in use'
    with running(api):
        api.work()
        assert api.db.sql("select wait_reason from df.instances where id = %s", second.id) == reason
        assert api.db.rows("select state, reason from df.stuck('0 s') where instance_id = %s", second.id) == [
            ("limited", reason)]  # fmt: skip
        assert api.db.rows("select lane, ready::int, running::int, limited::int from df.queue") == [("sql", 0, 1, 1)]
    all_ended(api, [first, second])


def test_a_drawing_says_which_limits_a_step_is_in(pump: Pump) -> None:
    flow = "df.within('api', 'select 1' ~> df.within('db', 'select 2', '$order.tenant') ~> df.sleep(0)) ~> 'select 3'"
    drawn = str(pump.db.sql(f"select df.explain({flow})"))
    assert [line.rstrip() for line in drawn.splitlines()] == [
        "SQL: select 1 (within api)",
        "→ SQL: select 2 (within api, db by $order.tenant)",
        "→ SLEEP 0s",
        "→ SQL: select 3",
    ]
    run = pump.run(flow)
    assert "SQL: select 2 (within api, db by $order.tenant) ✓" in str(pump.db.sql("select df.explain(%s)", run.id))


def test_in_a_test_limits_are_ignored(pump: Pump) -> None:
    pump.db.sql("select df.set_limit('api', 0)")
    last = pump.db.rows("select status, node from df.test(" + within() + ")")[-1]
    assert last == ("completed", None)


def test_limits_belong_to_the_role_that_has_set_them(api: Pump) -> None:
    assert api.db.rows("select * from df.limits", user="other") == []
    run = Run(api.db, str(api.db.sql("select df.start(" + within("select 1") + ")", user="other")))
    first = api.start(within())
    with running(api):
        other = Pump(api.db, "other")
        other.work()
        other.close()
        assert api.db.admin("select status from df.instances where id = %s", run.id) == "completed"
    all_ended(api, [first])


def test_all_share_a_limit_that_an_administrator_has_set(pump: Pump) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="for administrators"):
        pump.db.sql("select df.set_limit('api', 1, shared => true)")
    pump.db.admin("select df.set_limit('api', 1, shared => true)")
    first = pump.start(within())
    second = str(pump.db.sql("select df.start(" + within("select 1") + ")", user="other"))
    other = Pump(pump.db, "other")
    with running(pump):
        other.work()
        assert pump.db.rows("select owner is null, shared, in_use::int, waiting::int from df.limits", user="other") == [
            (True, True, 1, 1)]  # fmt: skip
        assert limits(pump.db) == (1, 1, 0)  # how many of others wait is theirs to know
    pump.tick()  # the end of a step of one role calls none of another: a poll does
    other.work()
    assert pump.db.admin("select status from df.instances where id = %s", second) == "completed"
    all_ended(pump, [first])
    other.close()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        ("set_limit('api', -1)", psycopg.errors.InvalidParameterValue, "concurrency must be from 0 to 1000, and is -1"),
        ("set_limit('api', 1001)", psycopg.errors.InvalidParameterValue, "and is 1001"),
        ("set_limit('', 1)", psycopg.errors.InvalidParameterValue, "1 to 1024 bytes, and this one has 0"),
        ("set_limit('a', rate => 0)", psycopg.errors.InvalidParameterValue, "rate must be from 1 to 1000, and is 0"),
        ("set_limit('a', rate => 1001)", psycopg.errors.InvalidParameterValue, "and is 1001"),
        ("set_limit('a', rate => 1, per => '0')", psycopg.errors.InvalidParameterValue, "per must be from 0.1 seconds"),
        ("set_limit('a', 1, per => '32 days')", psycopg.errors.InvalidParameterValue, "to 31 days, and is 32 days"),
        ("set_limit('a', 1, per => null)", psycopg.errors.NullValueNotAllowed, "argument per of df.set_limit is NULL"),
        ("set_limit(null, 1)", psycopg.errors.NullValueNotAllowed, "argument name of df.set_limit is NULL"),
        ("set_limit('none')", psycopg.errors.UndefinedObject, 'there is no limit "none"'),
        ("within('', 'select 1')", psycopg.errors.InvalidParameterValue, "1 to 1024 bytes, and this one has 0"),
        ("within('a', null)", psycopg.errors.NullValueNotAllowed, "argument fut of df.within is NULL"),
        ("within('a', 'select 1', repeat('k', 1025))", psycopg.errors.InvalidParameterValue, "has 1025 bytes"),
    ],
)
def test_what_is_wrong_is_said(db: Database, call: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        db.sql(f"select df.{call}")


@pytest.mark.parametrize(
    ("within", "says"),
    [("7", "within must be an object"), ('{"a": 7}', "must be a string"), ('{"": ""}', "has 1 to 1024 bytes")],
)
def test_an_envelope_that_is_written_by_hand_is_checked(db: Database, within: str, says: str) -> None:
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match=says):
        db.sql("select df.start(%s)", f'{{"node_type":"SQL","query":"select 1","within":{within}}}')


@pytest.mark.parametrize(
    "flow",
    [
        "df.within('api', 'select 1')",
        "df.within('api', df.within('db', 'select 1' ~> 'select 2', key => '$a.b'), 'x')",
        "df.as(df.within('api', 'select 1'), 'a') ~> df.within('api', 'select $a')",
        "df.within('api', 'select 1' ~> 'select 2') ~> 'select 3'",
        "df.within('api', df.retry('select 1', 3))",
        "df.within('api', df.retry(df.wait_for('select 1'), 3), key => 'k')",
        "df.within('api', df.call(df.within('db', 'select 1')))",
        "df.within('api', df.chain('1', '2', '3', '4', '5', '6', '7', '8'))",
    ],
)
def test_flow_text_and_back(db: Database, flow: str) -> None:
    text = db.sql(f"select df.to_flow({flow})")
    assert "within(" in text
    assert db.sql("select df.flow(%s)::jsonb", text) == db.sql(f"select ({flow})::jsonb")
    assert db.sql("select df.to_flow(df.flow(%s))", text) == text


def test_of_two_keys_in_one_limit_the_inner_one_counts(db: Database) -> None:
    for flow in ("df.within('a', df.within('a', 'select 1', 'inner'), 'outer')",
                 """df.flow('within(''a'', within(''a'', ''select 1'', ''inner''), ''outer'')')"""):  # fmt: skip
        assert db.sql(f"select {flow}::jsonb -> 'within'") == {"a": "inner"}
