"""A role that leaves a transaction open, with locks on its rows: nobody else's runs wait for it, nor does a worker."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.state import (
    LEASED_BY_NOBODY,
    LIVE_WORKERS,
    MORE_TIMERS,
    NEXT_TRY,
    RETENTION_IS_DUE,
    RUNS_AGED,
    RUNS_HELD,
    TIMERS_DUE,
    WORKER_LOCK,
)
from tests.support import Database, Pump, Run, wait_until

MANY = 60  # more than one poll fires
HOLDS = [*(("", statement) for statement in RUNS_HELD), ("other", "select df.cancel(id) from df.instances")]
CANCELS = HOLDS[-1]


@contextmanager
def held(db: Database, hold: tuple[str, str]) -> Iterator[None]:
    """An open transaction with locks: the attacker's, or an administrator's."""
    user, statement = hold
    with db.connect(user or None, autocommit=False) as conn:
        conn.execute(statement.encode())
        yield
        conn.rollback()


@pytest.fixture
def pumps(db: Database) -> Iterator[tuple[Pump, Pump]]:
    """Sessions of the attacker and of the victim; supervising connections that do not wait for ever."""
    attacker, victim = Pump(db, "other"), Pump(db)
    for pump in (attacker, victim):
        pump.supervisor.execute("set statement_timeout = '5s'")
    yield attacker, victim
    attacker.close()
    victim.close()


def start_many(db: Database, flow: str, count: int = MANY, user: str = "other") -> None:
    db.sql(f"select count(df.start({flow})) from generate_series(1, {count})", user=user)


def due(db: Database) -> int:
    return int(db.admin(TIMERS_DUE))


def all_ended(db: Database) -> bool:
    return not db.admin("select exists (select from df.instances where status in ('pending', 'running'))")


def neither_in_haste_nor_too_late(pump: Pump, before: datetime) -> bool:
    """What could be locked is put off, and where nothing could be there is a pause."""
    pause = pump.tick()["next_ms"]
    again = pump.db.admin(NEXT_TRY)
    return bool(pause <= 500 and (pause > 0 if again is None else again - before >= timedelta(milliseconds=200)))


@pytest.mark.parametrize("hold", HOLDS)
def test_due_timers_of_held_runs_do_not_hold_up_others(
    db: Database, pumps: tuple[Pump, Pump], hold: tuple[str, str]
) -> None:
    attacker, victim = pumps
    start_many(db, "df.sleep(0.3)")
    attacker.work()
    with held(db, hold):
        wait_until(lambda: due(db) == MANY)
        run = victim.start("df.sleep(0)")
        victim.work()
        before = db.admin("select clock_timestamp()")
        assert victim.tick()["next_ms"] is not None
        assert run.status == "completed"
        assert neither_in_haste_nor_too_late(victim, before)
    victim.until(lambda: all_ended(db))
    assert db.admin("select count(*) from df.instances where status = 'completed'") == MANY + 1


@pytest.mark.parametrize("hold", HOLDS)
def test_signals_to_held_runs_do_not_hold_up_others(
    db: Database, pumps: tuple[Pump, Pump], hold: tuple[str, str]
) -> None:
    attacker, victim = pumps
    start_many(db, "df.wait_for_signal('s')")
    attacker.work()
    run = victim.start("df.wait_for_signal('s')")
    victim.work()
    with held(db, hold):
        db.sql("select count(df.signal(id, 's')) from df.instances", user="other")
        db.sql("select df.signal(%s, 's')", run.id)
        before = db.admin("select clock_timestamp()")
        victim.tick()
        assert run.status == "completed"
        assert neither_in_haste_nor_too_late(victim, before)
    victim.until(lambda: all_ended(db))
    assert db.admin("select count(*) from df.instances where status = 'completed'") == MANY + 1


def test_a_look_at_many_held_timers_is_bounded_and_another_role_does_not_wait_behind_them(
    db: Database, pumps: tuple[Pump, Pump]
) -> None:
    attacker, victim = pumps
    run = victim.start("df.sleep(0)")
    attack = str(db.sql("select df.start(df.sleep(3600))", user="other"))
    victim.work(), attacker.work()
    db.admin(MORE_TIMERS, "-1 hour", 2500, attack)
    with held(db, HOLDS[0]):
        assert 0 < poll(victim) <= 50 + 2  # a share a role, rounded up
        assert run.status == "completed"
        for _ in range(3):
            assert 0 < poll(victim) <= 50 + 1


def poll(pump: Pump) -> int:
    """How many timers one poll has taken up; it has read no more of them than it may."""
    with pump.supervisor.transaction():
        before = scanned(pump)
        row = pump.supervisor.execute("select df_engine.fire_due(50)").fetchone()
        assert scanned(pump) - before <= 4 * 50
    assert row is not None
    return int(row[0])


def scanned(pump: Pump) -> int:
    """Timers read through an index by the supervising connection, lately."""
    query = "select coalesce(sum(idx_tup_fetch), 0)::int from pg_stat_xact_user_tables where relname = 'timers'"
    row = pump.supervisor.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def test_a_look_does_not_read_timers_that_are_not_due(db: Database, pumps: tuple[Pump, Pump]) -> None:
    _, victim = pumps
    run = victim.start("df.sleep(3600)")
    victim.work()
    db.admin(MORE_TIMERS, "1 day", 5000, run.id)
    with victim.supervisor.transaction():
        before = scanned(victim)
        victim.supervisor.execute("select df_engine.fire_due(50), df_engine.work_list(1)")
        assert scanned(victim) - before <= 10


@pytest.mark.parametrize("hold", HOLDS)
def test_leased_steps_of_held_runs_do_not_hold_up_others(
    db: Database, pumps: tuple[Pump, Pump], hold: tuple[str, str]
) -> None:
    attacker, victim = pumps
    start_many(db, "'vacuum'")
    attacker.work()
    with held(db, hold):
        run = victim.start("'vacuum'")
        victim.work()
        victim.tick()
        claimed = claim(victim)
        assert [role for _, role in claimed] == ["app"]
        victim.supervisor.execute("select df_engine.complete_leased(%s, %s, %s)", [victim.worker, claimed[0][0], DONE])
        assert run.status == "completed"
    wait_until(lambda: len(claim(victim)) == 10)


DONE = '{"value": 1}'


def claim(pump: Pump) -> list[tuple[Any, ...]]:
    query = "select ticket, role from df_engine.claim_leased(%s, 'direct', 10)"
    return pump.supervisor.execute(query, [pump.worker]).fetchall()


@pytest.fixture
def leased(pumps: tuple[Pump, Pump]) -> tuple[Pump, Run, int]:
    """A leased step of the attacker that is under way."""
    attacker, victim = pumps
    run = Run(victim.db, str(victim.db.sql("select df.start('vacuum')", user="other")))
    attacker.work()
    return victim, run, claim(victim)[0][0]


@pytest.mark.parametrize("hold", HOLDS)
def test_an_outcome_for_a_held_run_is_refused_for_now(leased: tuple[Pump, Run, int], hold: tuple[str, str]) -> None:
    pump, run, ticket = leased
    finish = "select df_engine.complete_leased(%s, %s, %s)"
    with held(pump.db, hold):
        assert pump.supervisor.execute(finish, [pump.worker, ticket, DONE]).fetchone() == (None,)
    assert pump.supervisor.execute(finish, [pump.worker, ticket, DONE]).fetchone() == (True,)
    assert pump.db.admin("select status from df.instances where id = %s", run.id) == "completed"


def test_an_outcome_that_stops_a_called_run_is_refused_while_that_is_held(pumps: tuple[Pump, Pump]) -> None:
    attacker, pump = pumps
    run = Run(pump.db, str(pump.db.sql("select df.start(df.call(df.sleep(3600)) | 'vacuum')", user="other")))
    attacker.work()
    ticket = claim(pump)[0][0]
    child = pump.db.admin("select id from df.instances where parent_id = %s", run.id)
    finish = "select df_engine.complete_leased(%s, %s, %s)"
    with pump.db.connect("other", autocommit=False) as holder:
        holder.execute("select df.cancel(%s)", [child])
        assert pump.supervisor.execute(finish, [pump.worker, ticket, DONE]).fetchone() == (None,)
        holder.rollback()
    assert pump.supervisor.execute(finish, [pump.worker, ticket, DONE]).fetchone() == (True,)
    assert pump.db.admin("select status from df.instances where id = %s", child) == "cancelled"
    assert pump.db.admin("select status from df.instances where id = %s", run.id) == "completed"


def test_leases_of_runs_that_are_being_cancelled_are_given_back_later(leased: tuple[Pump, Run, int]) -> None:
    pump, _, ticket = leased
    release = "select df_engine.release_leased(%s, %s::bigint[])"
    with held(pump.db, CANCELS):
        assert pump.supervisor.execute(release, [pump.worker, [ticket]]).fetchone() == (False,)
        pump.supervisor.execute("select df_engine.unregister_worker(%s)", [pump.worker])
        pump.supervisor.execute("select df_engine.reclaim_leases()")
    pump.supervisor.execute("select df_engine.reclaim_leases()")
    assert pump.db.admin(LEASED_BY_NOBODY)


@pytest.mark.parametrize("hold", HOLDS)
def test_marking_a_held_run_as_running_does_not_keep_others_from_it(
    db: Database, pumps: tuple[Pump, Pump], hold: tuple[str, str]
) -> None:
    _, victim = pumps
    runs = {user: str(db.sql("select df.start('select pg_sleep(20)')", user=user)) for user in ("other", "app")}
    sessions = [db.connect(user, prepare_threshold=None) for user in runs]
    for session in sessions:
        session.pgconn.send_query(b"call df_engine.work(1000, false, null)")
    wait_until(lambda: db.admin("select count(*) from df.running_steps") == 2)
    with held(db, hold):
        query = "select status from df.instances where id = %s"
        wait_until(lambda: [victim.tick(), db.admin(query, runs["app"])][1] == "running", 3)
    for session in sessions:
        session.cancel_safe()
        session.close()


@pytest.mark.parametrize("hold", RUNS_HELD)
def test_held_runs_of_a_role_that_is_gone_are_failed_later(db: Database, pumps: tuple[Pump, Pump], hold: str) -> None:
    _, victim = pumps
    db.admin("create role leaver login")
    db.admin("select df.grant_usage('leaver')")
    start_many(db, "'select 1'", 3, "leaver")
    db.connections["leaver"].close()
    with held(db, ("", hold.replace("other", "leaver"))):
        db.admin("drop owned by leaver; drop role leaver")
        victim.tick()
        assert not all_ended(db)
    victim.tick()
    assert db.admin("select count(*) from df.instances where status = 'failed'") == 3


@pytest.mark.parametrize("hold", HOLDS)
def test_reports_about_a_held_run_wait_for_nobody(
    db: Database, pumps: tuple[Pump, Pump], hold: tuple[str, str]
) -> None:
    """What is said of a role is kept beside its runs; what is said of a step has to come again."""
    attacker, victim = pumps
    run = str(db.sql("select df.start('select 1')", user="other"))
    node = db.admin("select root_node from df.instances")
    report = f"interrupted:{db.admin('select max(id) from df_engine.queue')}:{run}:{node}"
    reason = "select wait_reason from df.instances where id = %s"
    with held(db, hold):
        victim.supervisor.execute("select df_engine.role_unreachable('other', 'x', true)")
        assert db.admin(reason, run) == 'no worker can log in as role "other": x'
        victim.supervisor.execute("select df_engine.role_reachable('other')")
        assert db.admin(reason, run) is None
        assert attacker.fail_stopped(report) is False
    assert attacker.fail_stopped(report) is True
    assert db.admin("select status from df.instances") == "failed"


def test_advisory_locks_of_users_do_not_keep_a_worker_from_registering(db: Database) -> None:
    """Its own has a number that nobody can know before."""
    locks = "select pg_advisory_xact_lock(i), pg_advisory_xact_lock(1346982471, i) from generate_series(0, 500) i"
    with held(db, ("other", locks)):
        pump = Pump(db)
        assert pump.worker < 500
        pump.close()


def test_a_worker_is_alive_while_its_session_is(db: Database, pumps: tuple[Pump, Pump]) -> None:
    """Others may know the number of its lock now, and have it after the worker: they are no workers."""
    _, victim = pumps
    assert (victim.worker,) in db.rows(LIVE_WORKERS, user=None)
    key = db.admin(WORKER_LOCK, victim.worker)
    victim.supervisor.close()
    with held(db, ("other", f"select pg_advisory_xact_lock({key})")):
        assert (victim.worker,) not in db.rows(LIVE_WORKERS, user=None)


@pytest.mark.parametrize("hold", RUNS_HELD)
def test_retention_passes_over_runs_that_are_held(db: Database, pumps: tuple[Pump, Pump], hold: str) -> None:
    _, victim = pumps
    for user in ("other", "app"):
        db.sql("select df.cancel(df.start('select 1'))", user=user)
    db.admin(RUNS_AGED, "1 year")
    db.admin(RETENTION_IS_DUE)
    with held(db, ("", hold)):
        victim.tick()
        assert db.rows("select submitted_by::text from df.instances", user=None) == [("other",)]
    db.admin(RETENTION_IS_DUE)
    victim.tick()
    assert db.admin("select count(*) from df.instances") == 0


def test_users_cannot_lock_what_all_workers_write(db: Database) -> None:
    """Users hold no privilege by which they could lock rows or tables that all workers write."""
    for statement in (
        "select from df._worker_epoch for update",
        "select from df.settings for share",
        "select from df.instances for update",
        "select from df.nodes for update",
        "lock table df_engine.queue in share mode",
        "lock table df.instances in share mode",
        "lock table df.nodes in share mode",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), held(db, ("other", statement)):
            pass
