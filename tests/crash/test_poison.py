"""Steps that hurt: their session dies, the disk fills, the result is too large, a lock is not to be had."""

import pytest

from tests.support import Database, Pump, wait_until
from tests.worker.conftest import spawn, worker  # noqa: F401 - fixtures
from tests.worker.process import WorkerProcess, await_end, error, start

SESSIONS, COUNTED = 10, 3  # each session may meet the step once before the first death is known
DIED = "SQL execution failed: the session that ran this step died, again and again"
KILL = "'select pg_terminate_backend(pg_backend_pid()) from fx_kills(''{sys_instance_id}'')'"


@pytest.fixture
def kills(fx: Database) -> Database:
    """Counts, outside of any transaction, how often a step began."""
    fx.sql("create sequence begun")
    fx.sql("create function fx_kills(text) returns bigint language sql as $$ select nextval('begun') $$")
    return fx


def test_a_step_that_kills_its_session_fails_while_others_go_on(kills: Database, worker: WorkerProcess) -> None:  # noqa: F811
    kills.admin("grant pg_signal_backend to app")
    poison = start(kills, f"({KILL}) & 'insert into fx values (''side'')'")
    others = [start(kills, "'insert into fx values (''a'')' ~> 'insert into fx values (''b'')'") for _ in range(20)]
    assert [await_end(kills, run) for run in others] == ["completed"] * 20
    assert await_end(kills, poison, 40) == "failed"
    assert error(kills, poison) == f"JOIN branch 1 failed: {DIED}"
    assert kills.sql("select last_value from begun") <= SESSIONS + COUNTED + 1
    assert dict(kills.rows("select t, count(*) from fx group by t")) == {"a": 20, "b": 20, "side": 1}


def test_a_step_that_fills_the_temporary_space_fails(fx: Database, worker: WorkerProcess) -> None:  # noqa: F811
    fx.admin("alter role app set temp_file_limit = '1MB'; alter role app set work_mem = '64kB'")
    try:
        run = start(
            fx, "df.retry('select count(*) from (select i from generate_series(1, 1000000) i order by -i) s', 1)"
        )
        assert await_end(fx, run) == "failed"
        assert "temporary file size exceeds" in error(fx, run)
    finally:
        fx.admin("alter role app reset all")


def test_a_result_over_the_cap_fails_and_leaves_nothing(fx: Database, worker: WorkerProcess) -> None:  # noqa: F811
    fx.admin("select df.set_setting('max_result_bytes', '100000')")
    run = start(fx, "'insert into fx select repeat(''x'', 1000) from generate_series(1, 200) returning t'")
    assert await_end(fx, run) == "failed"
    assert "max_result_bytes" in error(fx, run)
    assert fx.sql("select count(*) from fx") == 0


def test_every_step_is_counted_while_sessions_die(fx: Database) -> None:
    """A careful call goes on to other steps; what each of them does is held against it, and not against the next."""
    pump = Pump(fx)
    runs = [pump.start("'select deaths from df_engine.ready'") for _ in range(3)]
    fx.admin("grant usage on schema df_engine to app; grant select on df_engine.ready to app")
    assert pump.work(careful=True) == "empty"
    assert [sorted(row["deaths"] for row in run.result["rows"]) for run in runs] == [[0, 0, 1], [0, 1], [1]]


def test_a_lock_that_a_role_does_not_wait_for_is_not_a_failed_login(fx: Database, worker: WorkerProcess) -> None:  # noqa: F811
    fx.admin("alter role app set lock_timeout = '20ms'")
    try:
        run = start(fx, "'select pg_sleep(0.5)' ~> 'select 1'")
        wait_until(lambda: fx.admin("select count(*) from df_engine.steps_in_sessions"))
        with fx.connect() as conn, conn.transaction():
            conn.execute("select from df.instances where id = %s for update", [run])
            worker.logged("call broken off")
        assert await_end(fx, run) == "completed"
        assert "role not reached" not in worker.log
    finally:
        fx.admin("alter role app reset all")
