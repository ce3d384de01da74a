"""What a role may have at a time: sessions, HTTP requests, live instances; and how roles share HTTP requests."""

import pytest
from psycopg import errors

from tests import state
from tests.support import Database, Pump, Run, wait_until
from tests.worker.conftest import spawn  # noqa: F401
from tests.worker.process import Gate, SpawnWorker, await_end, start

REQUEST = "df.http('https://api.github.com/', 'GET')"
REASON = "select wait_reason from df.instances where id = %s"


def limit(db: Database, arguments: str) -> None:
    db.admin(f"select df.set_role_limit('app', {arguments})")


def requests(db: Database, pump: Pump, number: int, user: str = "app") -> list[Run]:
    """HTTP steps that are ready to be leased."""
    runs = [Run(db, start(db, REQUEST, user=user)) for _ in range(number)]
    pump.work()
    return runs


def lease(pump: Pump, lane: str = "http", number: int = 100) -> list[str]:
    """The roles whose steps the worker gets."""
    claim = "select role from df_engine.claim_leased(%s, %s, %s)"
    return [role for (role,) in pump.supervisor.execute(claim, [pump.worker, lane, number]).fetchall()]


@pytest.mark.parametrize("flow", ["'select 1'", "df.sleep(1000)", "df.wait_for_signal('go')", "'vacuum'"])
def test_a_start_beyond_the_limit_of_live_instances_is_refused(db: Database, flow: str) -> None:
    limit(db, "live_instances => 2")
    pump = Pump(db)
    for _ in range(2):
        start(db, flow)
    pump.work()
    if flow != "'select 1'":
        with pytest.raises(errors.ProgramLimitExceeded, match='role "app" may have 2 live instances, and has 2'):
            start(db, flow)
        start(db, flow, user="other")
    else:
        start(db, flow)
    pump.close()


def test_the_threads_of_one_instance_count_once(db: Database) -> None:
    limit(db, "live_instances => 2")
    pump = Pump(db)
    start(db, "df.sleep(1000) & df.sleep(1000) & df.wait_for_signal('go', 1000)")
    pump.work()
    start(db, "df.sleep(1000)")
    pump.close()


COUNTED = "select coalesce(sum(calls), 0) from pg_stat_xact_user_functions where funcname = 'live_runs'"


def test_runs_that_are_resumed_together_are_counted_once(db: Database, pump: Pump) -> None:
    for _ in range(5):
        start(db, "'select 1/0'")
    pump.work()
    limit(db, "live_instances => 5")
    with db.connect("postgres", autocommit=False) as session:
        session.execute("set track_functions = 'all'")
        session.execute("select df.resume(id) from df.instances where status = 'failed'")
        counted = session.execute(COUNTED).fetchone()
        session.commit()
    assert counted == (1,)
    with pytest.raises(errors.ProgramLimitExceeded, match="may have 5 live instances, and has 5"):
        start(db, "'select 1'")


def test_a_role_cannot_say_itself_what_room_it_has(db: Database) -> None:
    limit(db, "live_instances => 2")
    with db.connect("app", autocommit=False) as session:
        session.execute("select df.start('select 1')")
        row = session.execute("select current_setting('df_engine.room')").fetchone()
        assert row is not None
        proof, room, place, run = row[0].split(":", 3)
        session.execute("select df.start('select 1')")
        counts = (f"{room}:{place}:{run}", f"1000:{place}:{run}", f"{room}:1000:{run}")
        for forged in (*(f"{proof}:{count}" for count in counts), f":1000:1:{run}", "::::", ""):
            session.execute("select set_config('df_engine.room', %s, true)", (forged,))
            with pytest.raises(errors.ProgramLimitExceeded), session.transaction():
                session.execute("select df.start('select 1')")
        session.commit()
        session.execute("select df.cancel(id) from df.instances")
        session.commit()
        session.execute("select df.start('select 1') from generate_series(1, 2)")
        session.execute("select set_config('df_engine.room', %s, false)", (row[0],))
        session.commit()
        for forged in (row[0], f"{proof}:1000:{place}:{run}"):
            session.execute("select set_config('df_engine.room', %s, false)", (forged,))
            with pytest.raises(errors.ProgramLimitExceeded), session.transaction():
                session.execute("select df.start('select 1')")


def test_a_transaction_counts_its_own_starts_and_waits_for_no_other(db: Database) -> None:
    limit(db, "live_instances => 2")
    with db.connect("app", autocommit=False) as one, db.connect("app", autocommit=False) as two:
        for session in (one, two):
            session.execute("set lock_timeout = '1s'")
            session.execute("select df.start('select 1'), df.start('select 1')")
            with pytest.raises(errors.ProgramLimitExceeded), session.transaction():
                session.execute("select df.start('select 1')")
            assert session.info.transaction_status.name == "INTRANS"
        one.commit()
        two.commit()
    assert db.admin("select live_instances_in_use from df.role_limits") == 4  # neither saw the other


def test_null_removes_a_limit(db: Database) -> None:
    limit(db, "live_instances => 0, http => 1")
    with pytest.raises(errors.ProgramLimitExceeded):
        start(db, "'select 1'")
    limit(db, "live_instances => null, http => 1")
    start(db, "'select 1'")
    assert db.rows("select role::text, sessions, http, live_instances from df.role_limits", user=None) == [
        ("app", None, 1, None)
    ]
    limit(db, "null")
    assert db.admin("select count(*) from df.role_limits") == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("null", errors.NullValueNotAllowed),
        ("'nobody_at_all', 1", errors.UndefinedObject),
        ("'app', -1", errors.InvalidParameterValue),
    ],
)
def test_what_is_no_limit_is_refused(db: Database, arguments: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        db.admin(f"select df.set_role_limit({arguments})")


def test_only_administrators_set_limits(db: Database) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        db.sql("select df.set_role_limit('app', 1)")


def test_a_role_sees_its_own_limits(db: Database) -> None:
    limit(db, "1, 2, 3")
    db.admin("select df.set_role_limit('other', 4)")
    query = "select role::text, sessions, http, live_instances from df.role_limits order by 2"
    assert db.rows(query) == [("app", 1, 2, 3)]
    assert db.rows(query, user="other") == [("other", 4, None, None)]
    assert len(db.rows(query, user=None)) == 2


def test_a_role_has_as_many_http_requests_as_its_limit(db: Database, pumps: tuple[Pump, Pump]) -> None:
    limit(db, "http => 2")
    runs = requests(db, pumps[0], 4)
    requests(db, pumps[1], 3, "other")
    assert [pumps[0].tick()["http"], pumps[1].tick()["http"]] == [1 + 3, 1 + 3]  # one each of app
    assert sorted(lease(pumps[0])) == ["app", *["other"] * 3]
    assert lease(pumps[1]) == ["app"]
    assert [pump.tick()["http"] for pump in pumps] == [0, 0]
    reasons = [db.admin(REASON, run.id) for run in runs]
    assert reasons[:2] == [None, None]
    assert set(reasons[2:]) == {'role "app" may have 2 HTTP requests under way at a time (df.set_role_limit), and has'}
    assert db.rows("select http, http_in_use from df.role_limits") == [(2, 2)]


def test_the_last_http_requests_are_kept_for_who_has_none(db: Database, pumps: tuple[Pump, Pump]) -> None:
    db.admin("select df.set_setting('max_http_requests', '4'), df.set_setting('reserved_http_requests', '1')")
    pumps[1].supervisor.close()
    runs = requests(db, pumps[0], 5)
    assert pumps[0].tick()["http"] == 4
    assert lease(pumps[0]) == ["app"] * 3
    assert pumps[0].tick()["http"] == 0
    db.admin(state.OTHER_WORKERS_GONE, pumps[0].worker)
    reason = "all 4 HTTP requests of a worker are under way, 1 of them reserved, held by 1 roles"
    assert db.admin(REASON, runs[4].id) == reason
    requests(db, pumps[1], 2, "other")
    assert lease(pumps[0]) == ["other"]
    assert lease(pumps[0]) == []


def test_a_worker_with_one_http_request_serves_all_roles_in_turn(db: Database, pumps: tuple[Pump, Pump]) -> None:
    db.admin("select df.set_setting('max_http_requests', '1')")
    requests(db, pumps[0], 2)
    assert lease(pumps[0]) == ["app"]
    assert lease(pumps[0]) == []


def test_the_limit_of_sessions_is_divided_among_the_workers(db: Database, pumps: tuple[Pump, Pump]) -> None:
    limit(db, "sessions => 3")
    shares = [pump.tick()["limits"]["app"] for pump in pumps]
    assert sorted(shares) == [1, 2]
    pumps[1].supervisor.close()
    wait_until(lambda: pumps[0].tick()["limits"] == {"app": 3})
    limit(db, "null")
    assert pumps[0].tick()["limits"] is None


def test_steps_outside_of_transactions_count_as_sessions(db: Database, pumps: tuple[Pump, Pump]) -> None:
    pumps[1].supervisor.close()
    limit(db, "sessions => 2")
    for _ in range(4):
        start(db, "'vacuum'")
    pumps[0].work()
    wait_until(lambda: pumps[0].tick()["direct"] == 2)
    assert lease(pumps[0], "direct") == ["app", "app"]


def test_a_role_has_as_many_sessions_as_its_limit(db: Database, spawn: SpawnWorker) -> None:  # noqa: F811
    limit(db, "sessions => 1")
    spawn("--sessions", "6")
    gate = Gate(db)
    held = [start(db, f"'{Gate.STEP}'") for _ in range(3)]
    wait_until(lambda: gate.waiting == 1)
    other = [start(db, f"'{Gate.STEP}'", user="other") for _ in range(3)]
    wait_until(lambda: gate.waiting == 1 + len(other))
    reasons = [db.admin(REASON, instance) for instance in held]
    assert reasons.count('role "app" may have 1 sessions at a time (df.set_role_limit), and all of them are busy') == 2
    assert reasons.count(None) == 1
    assert db.rows("select sessions, sessions_in_use from df.role_limits") == [(1, 1)]
    gate.open()
    assert {await_end(db, instance) for instance in held + other} == {"completed"}


def test_statements_and_steps_outside_of_transactions_take_turns_in_one_session(
    db: Database,
    spawn: SpawnWorker,  # noqa: F811
) -> None:
    limit(db, "sessions => 1")
    spawn("--sessions", "6")
    runs = [start(db, flow) for flow in ["'select 1' ~> 'vacuum' ~> 'select 2'", "'vacuum'", "'select 1'"] * 4]
    assert {await_end(db, instance) for instance in runs} == {"completed"}
