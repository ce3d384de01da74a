"""One role cannot take what belongs to all: timers, leases, sessions, wake-ups, the attention of a worker."""

import shutil
import tempfile
from pathlib import Path

import pytest
from pg_durable.embedded import EmbeddedServer
from psycopg import errors

from tests import state
from tests.crash.crew import problems
from tests.support import Database, Pump, Run, wait_until
from tests.worker.conftest import spawn  # noqa: F401
from tests.worker.process import Gate, PatientWorker, SpawnWorker, await_end, own_database, run, start


def started(db: Database, flow: str, user: str) -> Run:
    return Run(db, db.sql(f"select df.start({flow})", user=user))


@pytest.mark.parametrize(("crowd", "single"), [("app", "other"), ("other", "app")])
def test_timers_of_many_runs_do_not_put_off_those_of_another_role(
    db: Database, pumps: tuple[Pump, Pump], crowd: str, single: str
) -> None:
    db.sql("select count(df.start(df.sleep(0))) from generate_series(1, 200)", user=crowd)
    run = started(db, "df.sleep(0)", single)
    for pump in pumps:
        pump.work()
    assert pumps[0].supervisor.execute("select df_engine.fire_due(20)").fetchone() != (0,)
    assert db.sql("select df.status(%s)", run.id, user=single) == "completed"


def test_runs_stopped_with_their_caller_do_not_put_off_another_role(db: Database, pumps: tuple[Pump, Pump]) -> None:
    """A time-out ends what was called, a bounded number of what that has called, and sweeps few at a time."""
    app, _ = pumps
    db.sql("select df.define('wait', df.wait_for_signal('never')), df.define('call', df.call('@wait'))")
    calls = "(select df.all_agg(df.call('@call')) from generate_series(1, 50))"
    caller = started(db, f"df.timeout({calls}, 3600, 'select 1')", "app")
    app.until(lambda: db.admin(state.WAITS) == 150)
    asleep = started(db, "df.sleep(0)", "other")
    pumps[1].work()
    db.admin("select df.set_setting('tick_time', '0'), df.set_setting('max_transition_rows', '70')")
    db.admin(state.TIMEOUT_IS_DUE)
    app.supervisor.execute("select df_engine.fire_due(50)")
    counted = "select count(*) from df.instances where id <> %s and status = 'cancelled'"
    assert 50 <= db.sql(counted, caller.id) <= 90
    assert db.admin(state.WAITS) == 100
    app.supervisor.execute("select df_engine.fire_due(50)")
    assert db.sql("select df.status(%s)", asleep.id, user="other") == "completed"
    assert 95 <= db.admin(state.WAITS) < 100
    assert problems(db) == []
    app.until(lambda: caller.ended() and not db.admin(state.TIMERS), 30)
    assert (db.sql(counted, caller.id), db.admin(state.WAITS)) == (100, 0)
    assert problems(db) == []


def test_leases_go_to_roles_in_turn(db: Database, pumps: tuple[Pump, Pump]) -> None:
    db.sql("select count(df.start('vacuum')) from generate_series(1, 20)")
    started(db, "'vacuum'", "other")
    for pump in pumps:
        pump.work()
    claim = "select role from df_engine.claim_leased(%s, 'direct', 4)"
    roles = [role for (role,) in pumps[0].supervisor.execute(claim, [pumps[0].worker]).fetchall()]
    assert sorted(roles) == ["app", "app", "app", "other"]


BROKEN = """
create function public.broken() returns trigger language plpgsql as $$
begin
  if new.instance = (select instance from df_engine.instances where label = 'broken') then
    raise exception 'cannot be stored' using errcode = 'program_limit_exceeded';
  end if;
  return new;
end $$;
create trigger broken before insert on df_engine.outcomes for each row execute function public.broken()"""


@pytest.mark.parametrize("wait", ["df.sleep(0)", "df.wait_for_signal('go')"])
def test_what_cannot_be_recorded_fails_its_run_and_nothing_else(db: Database, wait: str) -> None:
    pump = Pump(db)
    broken, sound = pump.start(wait, "broken"), pump.start(wait, "sound")
    pump.work()
    for each in (broken, sound):
        db.sql("select df.signal(%s, 'go')", each.id)
    db.admin(BROKEN)
    pump.until(lambda: broken.ended() and sound.ended())
    assert (broken.status, sound.status) == ("failed", "completed")
    assert "could not be" in broken.error and "cannot be stored" in broken.error
    pump.close()


@pytest.mark.parametrize(
    "call",
    [
        "df.start('select 1', repeat('x', 1025))",
        "df.start('select 1', input => to_jsonb(repeat('x', 17000000)))",
        "df.start('select ''' || repeat('x', 1048576) || '''')",
        "df.as('select 1', repeat('x', 64))",
        "df.wait_for_signal(repeat('x', 1025))",
        "df.wait_for_schedule(repeat('1,', 600) || '1 * * * *')",
        "df.setvar(repeat('x', 64), 'y')",
        "df.setvar('y', repeat('x', 17000000))",
    ],
)
def test_texts_have_limits(db: Database, call: str) -> None:
    with pytest.raises(errors.ProgramLimitExceeded):
        db.sql(f"select {call}")


@pytest.mark.parametrize(("name", "data"), [("x" * 1025, "1"), ("go", '"' + "x" * 17_000_000 + '"')])
def test_signals_have_limits(db: Database, name: str, data: str) -> None:
    instance = start(db, "df.wait_for_signal('go')")
    with pytest.raises(errors.ProgramLimitExceeded):
        db.sql("select df.signal(%s, %s, %s)", instance, name, data)


@pytest.mark.parametrize(
    "node",
    [
        '{"node_type": "SQL", "query": "select 1", "result_name": "%s"}' % ("x" * 64),
        '{"node_type": "SIGNAL", "query": "{\\"signal_name\\": \\"%s\\"}"}' % ("x" * 1025),
        '{"node_type": "WAIT_SCHEDULE", "query": "{\\"cron_expr\\": \\"%s 1 * * * *\\"}"}' % ("1," * 600),
    ],
    ids=["name", "signal", "cron"],
)
def test_envelopes_written_by_hand_have_the_same_limits(db: Database, node: str) -> None:
    with pytest.raises(errors.InvalidTextRepresentation, match="are allowed"):
        db.sql("select df.start(%s)", node)


def test_the_value_of_a_join_has_a_limit(db: Database) -> None:
    db.admin("select df.set_setting('max_result_bytes', '1024')")
    pump = Pump(db)
    ended = pump.run("'select repeat(''x'', 600)' & 'select repeat(''y'', 600)'")
    assert (ended.status, "max_result_bytes" in ended.error) == ("failed", True)
    pump.close()


def test_the_lexer_takes_time_that_grows_with_the_text_only(db: Database) -> None:
    db.admin("set statement_timeout = '60s'")  # each region once cost a reading of all that follows
    quotes = "select " + "$a$;$a$," * 6000 + "1"
    assert db.admin("select df_engine.single_statement_problem(%s)", quotes) is None


def test_no_role_gets_all_sessions(db: Database, spawn: SpawnWorker) -> None:  # noqa: F811
    spawn("--sessions", "4")
    gate = Gate(db)
    held = [start(db, f"'{Gate.STEP}'") for _ in range(6)]
    wait_until(lambda: gate.waiting == 2)
    other = start(db, "'select 1'", user="other")
    assert await_end(db, other) == "completed"
    assert gate.waiting == 2, "four sessions less the reserve of two"
    gate.open()
    assert {await_end(db, instance) for instance in held} == {"completed"}


def test_who_waits_for_a_session_is_told_why(db: Database, spawn: SpawnWorker) -> None:  # noqa: F811
    db.admin("select df.set_setting('reserved_connections', '0')")
    spawn("--sessions", "1")
    gate = Gate(db)
    start(db, f"'{Gate.STEP}'")
    wait_until(lambda: gate.waiting)
    other = start(db, "'select 1'", user="other")
    reason = "select wait_reason from df.instances where id = %s"
    wait_until(lambda: db.admin(reason, other) == "all 1 sessions are busy, 0 of them reserved, held by 1 roles", 20)
    gate.open()
    assert await_end(db, other) == "completed"


def test_nobody_learns_the_name_of_the_channel(db: Database) -> None:
    for statement in ("select channel from df_engine.secret", "select df_engine.wake_channel()", state.LISTEN):
        with pytest.raises(errors.InsufficientPrivilege):
            db.sql(statement)


def test_workers_follow_when_the_channel_gets_another_name(db: Database) -> None:
    worker = PatientWorker(db)
    try:
        worker.logged("registered")
        wait_until(lambda: db.admin(state.A_WORKER_IDLES))
        db.admin("select df.rotate_wake_channel()")
        for _ in range(3):
            run(db, "'select 1'")
    finally:
        worker.kill()


def test_only_administrators_rotate_the_channel(db: Database) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        db.sql("select df.rotate_wake_channel()")


FILL = """
do $$ begin
  for i in 1..1000 loop
    exit when pg_notification_queue_usage() > 0.6;
    perform pg_notify('noise', i || repeat('x', 7000));
    commit;
  end loop;
end $$"""


def test_a_start_does_not_need_room_in_the_queue_of_notifications() -> None:
    """A session that listens and does not read fills it; then nothing is sent, and a start does not fail for it."""
    home = Path(tempfile.mkdtemp(prefix="pgd-", dir="/tmp"))
    home.chmod(0o755)
    with EmbeddedServer(home / "data", 18, {"fsync": "off", "max_notify_queue_pages": "64"}) as server:
        db = own_database(server)
        db.admin(state.A_WORKER_IDLE)
        with db.connect() as worker, db.connect(autocommit=False) as idle:
            worker.execute(state.LISTEN)
            idle.execute("listen noise")
            idle.commit()
            idle.execute("select 1")
            db.admin(FILL)
            start(db, "'select 1'")
            db.admin(state.MARK)
            assert [note.payload for note in worker.notifies(timeout=10, stop_after=1)] == ["mark"]
            idle.rollback()
            idle.execute("select 1")
            start(db, "'select 1'")
            assert next(worker.notifies(timeout=10, stop_after=1)).payload.startswith("r ")
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.parametrize("action", ["drop role", "alter role nologin"])
def test_runs_wait_for_a_role_without_login_and_fail_when_it_is_gone(db: Database, action: str) -> None:
    db.admin("create role leaver login; select df.grant_usage('leaver')")
    pump = Pump(db)
    try:
        instance = db.sql("select df.start(df.sleep(3600))", user="leaver")
        db.connections.pop("leaver").close()
        if action == "drop role":
            db.admin("select df.revoke_usage('leaver'); drop role leaver")
            pump.tick()
            row = db.rows("select status, error from df.instances where id = %s", instance, user=None)
            assert row == [("failed", "role leaver does not exist any more")]
        else:
            db.admin("alter role leaver nologin")
            pump.tick()
            row = db.rows("select status, wait_reason from df.instances where id = %s", instance, user=None)
            assert row == [("pending", 'no worker can log in as role "leaver": it has no LOGIN')]
    finally:
        pump.close()
        if db.admin("select exists (select from pg_roles where rolname = 'leaver')"):
            db.admin("drop owned by leaver; drop role leaver")


def test_pokes_that_concern_nobody_do_not_put_off_one_that_does(db: Database, pumps: tuple[Pump, Pump]) -> None:
    pump = pumps[0]
    pump.start("df.wait_for('select false', '1 day', 'mine')")
    pump.until(lambda: db.admin(state.CHECKS_DUE_WITHIN, "2 days") == 1 and db.admin(state.POKED_BY_START) == 0)
    db.admin(state.LAST_CHECK_AGO, "2 s")
    db.sql("select count(df.poke(i::text)) from generate_series(1, 1500) i", user="other")
    db.sql("select df.poke('mine')")
    assert pump.supervisor.execute("select df_engine.fire_due(20)").fetchone() is not None
    assert db.admin(state.CHECKS_DUE_WITHIN, "1 hour") == 1 or db.admin(state.QUEUED_STEPS) == 1
    assert db.admin(state.POKES) == 0
