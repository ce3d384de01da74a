"""Steps that hurt: their session dies, the disk fills, the result is too large, a lock is not to be had."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from pg_durable.embedded import EmbeddedServer

from tests.state import (
    LEASED_SCORE,
    LEASED_STEPS,
    QUEUE_LOCKED,
    QUEUE_ROWS,
    QUEUED_NODES,
    RAISE_CRASH_SCORE,
    RUN_LOCKED,
)
from tests.support import Database, Pump, wait_until
from tests.worker.conftest import own_server, spawn, worker  # noqa: F401 - fixtures
from tests.worker.process import WorkerProcess, await_end, error, own_database, start

SESSIONS = 10  # each may meet the step once before the first crash is known
DIED = "SQL execution failed: the session that ran this step died, again and again"
TERMINATES = "pg_terminate_backend(pg_backend_pid())"
IN_A_STEP = "application_name ~ '^pg_durable:[0-9a-f]{8}:'"
DIES = "set_config(''transaction_timeout'', ''50 ms'', true), pg_sleep(60)"


@pytest.fixture
def kills(fx: Database) -> Database:
    """Counts, outside of any transaction, how often a step began."""
    fx.sql("create sequence begun")
    fx.sql("create function fx_kills(text) returns bigint language sql as $$ select nextval('begun') $$")
    return fx


@pytest.mark.parametrize(("end", "counted"), [(TERMINATES, 12), (DIES, 3)], ids=["terminated", "dead"])
def test_a_step_that_kills_its_session_fails_while_others_go_on(
    kills: Database,
    worker: WorkerProcess,  # noqa: F811
    end: str,
    counted: int,
) -> None:
    if end is DIES and kills.admin("show server_version_num") < "170000":
        pytest.skip("a server older than 17 has no transaction_timeout")
    kills.admin("grant pg_signal_backend to app")
    poison = start(
        kills, f"('select {end} from fx_kills(''{{sys_instance_id}}'')') & 'insert into fx values (''side'')'"
    )
    others = [start(kills, "'insert into fx values (''a'')' ~> 'insert into fx values (''b'')'") for _ in range(20)]
    assert [await_end(kills, run) for run in others] == ["completed"] * 20
    assert await_end(kills, poison, 40) == "failed"
    assert error(kills, poison) == f"JOIN branch 1 failed: {DIED}"
    assert counted <= kills.sql("select last_value from begun") <= SESSIONS + counted + 1
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


def test_a_careful_call_says_which_step_it_runs(fx: Database) -> None:
    pump = Pump(fx)
    said: list[str | None] = []
    pump.session.add_notice_handler(lambda notice: said.append(notice.message_primary))
    runs = [pump.start("'select 1' ~> 'select 2'") for _ in range(2)]
    fx.admin("alter role app set client_min_messages = error")
    try:
        steps = fx.rows(QUEUED_NODES, user=None)
        expected = {f"pg_durable:{row}:{node}" for row, node, kind in steps if kind == "SQL"}
        assert pump.work(careful=True) == "empty"
    finally:
        fx.admin("alter role app reset all")
    assert set(said) == expected
    assert len(said) == 4 == 2 * len(runs)


def test_a_crash_counts_against_a_step_only_while_it_is_the_next_one(fx: Database) -> None:
    pump = Pump(fx)
    pump.start("'select 1' ~> df.sleep(0)")
    step = fx.admin("select id from df.nodes where node_type = 'SQL'")
    submitter, row, node, _ = fx.rows(QUEUE_ROWS, user=None)[0]
    with fx.connect(None, autocommit=False) as conn:
        conn.execute(QUEUE_LOCKED)
        assert fx.admin(RAISE_CRASH_SCORE, submitter, row, step) is False
    assert fx.admin(RAISE_CRASH_SCORE, submitter, row, step) is True
    assert fx.rows(QUEUE_ROWS, user=None) == [(submitter, row, node, 4)]
    pump.work()
    assert fx.admin(RAISE_CRASH_SCORE, submitter, row, step) is True


def test_what_a_worker_saw_of_commits_that_were_lost_moves_nothing(fx: Database) -> None:
    """After a fail-over a run can be before the step that a worker has seen it in."""
    pump = Pump(fx)
    run = pump.start("df.loop('select 1' & 'select 2', 'select false')")
    before = fx.rows(QUEUE_ROWS, user=None)
    for (step,) in fx.rows("select id from df.nodes where node_type <> 'LOOP'", user=None):
        assert fx.admin(RAISE_CRASH_SCORE, *before[0][:2], step) is True
        assert pump.fail_stopped(f"interrupted:{before[0][1]}:{run.id}:{step}") is True
    assert fx.rows(QUEUE_ROWS, user=None) == before
    pump.until(run.ended)
    assert run.status == "completed"


LONG = "'select pg_sleep(4)'"
IN_LONG = "select count(*) from pg_stat_activity where state = 'active' and application_name ~ '^pg_durable:{}'"


def harm_again_and_again(db: Database, harm: Callable[[], None], run: str) -> None:
    """Does it seven times, each time while the step runs beside others."""
    for _ in range(7):
        wait_until(lambda: attempt(db, IN_LONG.format(run)), 40, "the step to run")
        harm()
        wait_until(lambda: attempt(db, "select 1"), 20)
        for _ in range(3):
            wait_until(lambda: attempt(db, "select df.start('select pg_sleep(0.2)')", "app"))
    assert await_end(db, run, 60) == "completed", error(db, run)


def attempt(db: Database, query: str, user: str | None = None) -> Any:
    try:
        return db.sql(query, user=user)
    except psycopg.OperationalError:
        return None


def test_an_innocent_long_step_survives_crashes_of_the_server(own_server: EmbeddedServer) -> None:  # noqa: F811
    db = own_database(own_server)
    process = WorkerProcess(db)
    try:
        run = start(db, LONG)

        def crash() -> None:
            own_server.stop("immediate")
            own_server.restart()

        harm_again_and_again(db, crash, run)
        assert "weight=4" not in process.log  # a server that ends without a word to anybody counts for a little
    finally:
        process.kill()


def test_a_step_that_crashes_the_server_fails_and_the_one_beside_it_does_not(own_server: EmbeddedServer) -> None:  # noqa: F811
    db = own_database(own_server)
    db.admin("grant pg_execute_server_program to app")
    process = WorkerProcess(db)
    try:
        innocent = start(db, LONG)
        kill = "do $x$ begin execute format($$copy (select 1) to program 'kill -9 %s'$$, pg_backend_pid()); end $x$"
        poison = str(db.sql("select df.start(df.sql(%s))", kill))
        wait_until(lambda: attempt(db, f"select status = 'failed' from df.instances where id = '{poison}'"), 90)
        assert error(db, poison) == DIED
        assert await_end(db, innocent, 60) == "completed"
    finally:
        process.kill()


def test_an_innocent_long_step_survives_the_termination_of_all_sessions(own_server: EmbeddedServer) -> None:  # noqa: F811
    db = own_database(own_server)
    process = WorkerProcess(db)
    try:
        run = start(db, LONG)
        end = "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename in ('app', 'durable_worker')"
        harm_again_and_again(db, lambda: db.admin(end), run)
        assert "weight=4" not in process.log
    finally:
        process.kill()


def test_an_innocent_step_survives_an_administrator_who_ends_its_session(fx: Database, worker: WorkerProcess) -> None:  # noqa: F811
    run = start(fx, "'insert into fx select ''done'' from pg_sleep(2)'")
    end = f"select pg_terminate_backend(pid) from pg_stat_activity where {IN_A_STEP}"
    for crashes in range(1, 7):
        wait_until(lambda: fx.admin(end), 10, "the step to run")
        wait_until(lambda: worker.log.count("call broken off") == crashes, 10, worker.log)  # noqa: B023
    assert await_end(fx, run, 20) == "completed", error(fx, run)
    assert worker.log.count("weight=1") >= 4, worker.log


def test_the_loss_of_its_workers_connection_does_not_count_against_a_leased_step(
    fx: Database,
    worker: WorkerProcess,  # noqa: F811
) -> None:
    run = start(fx, "'do $$ begin commit; perform pg_sleep(3); end $$'")
    for lost in range(1, 8):
        wait_until(lambda: fx.admin(LEASED_STEPS))
        before = worker.log.count("registered worker")
        fx.admin("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'durable_worker'")
        wait_until(lambda: worker.log.count("registered worker") > before, what=f"registration {lost}")  # noqa: B023
        assert fx.admin(LEASED_SCORE) == 0
    assert await_end(fx, run, 40) == "completed"


def test_a_lock_that_a_role_does_not_wait_for_is_not_a_failed_login(fx: Database, worker: WorkerProcess) -> None:  # noqa: F811
    fx.admin("alter role app set lock_timeout = '20ms'")
    try:
        run = start(fx, "'select pg_sleep(0.5)' ~> 'select 1'")
        wait_until(lambda: fx.admin(f"select count(*) from pg_stat_activity where {IN_A_STEP}"))
        with fx.connect() as conn, conn.transaction():
            conn.execute(RUN_LOCKED, [run])
            worker.logged("call broken off")
        assert await_end(fx, run) == "completed"
        assert "role not reached" not in worker.log
    finally:
        fx.admin("alter role app reset all")
