"""7.8 to 7.10, 7.11: cancel, failure, retries, exactly-once steps and what a step sees."""

import threading
from collections.abc import Iterator

import psycopg
import pytest

from tests.state import FAILED_ATTEMPTS, RAISE_ALL_CRASH_SCORES, STEPS_IN_SESSIONS, TIMERS
from tests.support import Database, Pump, Run, wait_until


def test_cancel_is_undone_by_a_rollback(pump: Pump) -> None:
    run = pump.start("df.sleep(0.2) ~> 'select 1'")
    with pump.db.connect("app") as conn, conn.transaction(force_rollback=True):
        conn.execute("select df.cancel(%s)", [run.id])
    pump.until(run.ended)
    assert run.status == "completed"


def test_a_cancelled_run_does_nothing_more(pump: Pump) -> None:
    run = pump.start("'insert into fx values (1)' ~> df.sleep(60) ~> 'insert into fx values (2)'")
    pump.until(lambda: run.status == "running")
    text = pump.db.sql("select df.cancel(%s, 'superseded')", run.id)
    assert run.id in text
    assert "superseded" in text
    assert (run.status, run.error) == ("cancelled", "canceled: superseded")
    assert pump.db.admin(TIMERS) == 0
    assert pump.db.sql("select array_agg(i) from fx") == [1]
    assert "already" in pump.db.sql("select df.cancel(%s)", run.id)
    assert run.error == "canceled: superseded"


def test_a_running_step_of_a_cancelled_run_leaves_nothing(pump: Pump) -> None:
    run = pump.start("'with w as (insert into fx values (1)) select pg_sleep(0.5)'")
    thread = threading.Thread(target=pump.work)
    thread.start()
    wait_until(lambda: pump.db.admin(STEPS_IN_SESSIONS, run.id))
    pump.db.sql("select df.cancel(%s)", run.id)
    thread.join()
    assert run.status == "cancelled"
    assert pump.db.sql("select count(*) from fx") == 0
    assert pump.tick()["roles"] == []


def test_a_step_may_cancel_its_own_run_and_still_commits(pump: Pump) -> None:
    flow = (
        "'with w as (insert into fx values (1)) select df.cancel(''{sys_instance_id}'')' ~> 'insert into fx values (2)'"
    )
    run = pump.run(flow)
    pump.work()
    assert run.status == "cancelled"
    assert run.node("df.cancel")["status"] == "completed"
    assert pump.db.sql("select array_agg(i) from fx") == [1]


def attempts(run: Run) -> int:
    return int(run.db.admin("select attempts from df.nodes where instance_id = %s", run.id))


def test_a_transient_error_is_retried_with_backoff(pump: Pump) -> None:
    pump.db.sql("create sequence tries")
    pump.db.admin("select df.set_setting('retry_initial_delay', '0.05')")
    code = "begin if nextval(''tries'') < 3 then raise exception ''busy'' using errcode = ''55P03''; end if; end"
    run = pump.run(f"'do $do$ {code} $do$'")
    assert run.status == "completed"
    assert attempts(run) == 3
    assert run.db.rows(FAILED_ATTEMPTS, user=None) == [
        (1, "55P03"),
        (2, "55P03"),
    ]


def test_while_a_retry_is_due_the_node_tells(pump: Pump) -> None:
    pump.db.admin("select df.set_setting('retry_initial_delay', '3600')")
    run = pump.start("'do $do$ begin raise exception ''busy'' using errcode = ''40001''; end $do$'")
    pump.work()
    node = run.node("SQL")
    assert (node["status"], node["attempts"]) == ("running", 1)
    assert "busy (SQLSTATE 40001)" in node["error"]
    assert "retry_at" in node["status_details"]


@pytest.mark.parametrize(
    ("flow", "tries"),
    [
        ("'select 1/0'", 1),
        ("df.retry('select 1/0', max_attempts => 3, initial_delay => '10 ms')", 3),
        ("df.retry('select 1/0', max_attempts => 3, initial_delay => '10 ms', retry_on => '{22012}')", 3),
        ("df.retry('select 1/0', max_attempts => 3, initial_delay => '10 ms', retry_on => '{22}')", 3),
        ("df.retry('select 1/0', max_attempts => 3, initial_delay => '10 ms', retry_on => '{transient}')", 1),
        ("df.retry('select $x' |=> 'y', max_attempts => 3, initial_delay => '10 ms')", 1),
    ],
)
def test_a_policy_says_what_is_retried(pump: Pump, flow: str, tries: int) -> None:
    run = pump.run(flow)
    assert (run.status, attempts(run)) == ("failed", tries)


@pytest.mark.parametrize(
    ("lucky_from", "outcome"), [(9, ("running", 1)), (2, ("completed", 1))], ids=["fails again", "goes well then"]
)
def test_attempts_that_lost_their_race_do_not_count_in_the_next_iteration(
    pump: Pump, lucky_from: int, outcome: tuple[str, int]
) -> None:
    pump.db.sql("create sequence tries")
    step = f"'select 1 / (nextval(''tries'') >= {lucky_from})::int'"
    policy = "max_attempts => 2, initial_delay => '1 hour', max_delay => '1 hour'"
    race = f"df.race(df.retry({step}, {policy}), df.wait_for_signal('go'))"
    run = pump.start(f"df.loop({race}, 'select nextval(''judged'') = 1')")
    pump.db.sql("create sequence judged")
    pump.until(lambda: pump.db.sql("select count(*) from df.waiting") == 2)
    pump.db.sql("select df.signal(%s, 'go')", run.id)
    pump.until(lambda: pump.db.sql("select last_value from tries") == 2)
    node = run.node("tries")
    assert (node["status"], node["attempts"]) == outcome
    assert node["started_at"] >= run.node("RACE")["started_at"]


def test_a_step_runs_as_the_submitter_in_a_workflow_session(pump: Pump) -> None:
    run = pump.run(
        "'select session_user::text = current_user::text as same, current_setting(''application_name'') as name, "
        "current_setting(''df.in_workflow'') as flag, current_setting(''TimeZone'') as zone'"
    )
    node = run.node("SQL")["id"]
    expected = {"same": True, "name": f"pg_durable:{run.id}:{node}", "flag": "true", "zone": "UTC"}
    assert run.result["rows"] == [expected]


@pytest.mark.parametrize(
    ("dirt", "question"),
    [
        ("set work_mem = ''77MB''", "select current_setting(''work_mem'') <> ''77MB''"),
        (
            "select set_config(''my.var'', ''1'', false)",
            "select coalesce(current_setting(''my.var'', true), '''') = ''''",
        ),
        ("create temp table junk (i int)", "select to_regclass(''pg_temp.junk'') is null"),
        ("prepare p as select 1", "select count(*) = 0 from pg_prepared_statements"),
        ("select pg_advisory_lock(7)", "select count(*) = 0 from pg_locks where locktype = ''advisory'' and objid = 7"),
        ("listen somewhere", "select count(*) = 0 from pg_listening_channels()"),
        ("set search_path = pg_temp", "select current_setting(''search_path'') like ''%%public%%''"),
        ("declare c cursor with hold for select 1", "select count(*) = 0 from pg_cursors where name = ''c''"),
    ],
)
def test_a_session_is_reset_between_steps(pump: Pump, dirt: str, question: str) -> None:
    run = pump.run(f"'{dirt}' ~> '{question}'")
    assert (run.status, run.error) == ("completed", "")
    assert run.value() is True


@pytest.mark.parametrize(
    ("statement", "fragment"),
    [
        ("", "no SQL statement"),
        ("-- nothing", "no SQL statement"),
        ("select 1; select 2", "more than one"),
        ("commit", "SQL execution failed"),
        ("copy fx to stdout", "SQL execution failed"),
        ("select pg_cancel_backend(pg_backend_pid())", "57014"),
    ],
)
def test_what_a_step_may_not_hold_fails_it(pump: Pump, statement: str, fragment: str) -> None:
    run = pump.start(f"'{statement}'")
    report = pump.work()
    if report.startswith("interrupted:"):
        pump.fail_stopped(report)
    assert run.status == "failed"
    assert fragment in run.error


def test_a_result_over_the_limit_undoes_the_step(pump: Pump) -> None:
    pump.db.admin("select df.set_setting('max_result_bytes', '2000')")
    run = pump.run("'insert into fx select 1, repeat(''x'', 100) from generate_series(1, 50) returning t'")
    assert run.status == "failed"
    assert "max_result_bytes" in run.error
    assert pump.db.sql("select count(*) from fx") == 0


def test_deferred_constraints_fail_the_step_that_broke_them(pump: Pump) -> None:
    pump.db.sql("create table p (i int primary key)")
    pump.db.sql("create table c (i int references p deferrable initially deferred)")
    run = pump.run("'insert into c values (1)'")
    assert run.status == "failed"
    assert "23503" in run.error


def test_results_keep_column_order_also_without_rows(pump: Pump) -> None:
    run = pump.run("'select 1 as b, 2 as a, 3 as b where false'")
    assert run.node("SQL")["result_columns"] == ["b", "a", "b_2"]
    assert run.result == {"rows": [], "row_count": 0}


def test_starts_and_signals_inside_a_step_belong_to_it(pump: Pump) -> None:
    run = pump.run(
        "'select df.start(''insert into fx values (3)''), 1/0' & 'select df.start(''insert into fx values (4)'')'"
    )
    pump.until(lambda: pump.db.sql("select count(*) from fx") == 1)
    assert run.status == "failed"
    assert pump.db.sql("select array_agg(i) from fx") == [4]


def test_a_step_that_kills_its_session_fails_in_the_end(pump: Pump) -> None:
    run = pump.start("'select pg_terminate_backend(pg_backend_pid())'")
    for _ in range(3):
        with pytest.raises(psycopg.OperationalError):
            pump.work(careful=True)
        pump.session = pump.db.connect("app", prepare_threshold=None, options=pump.OPTIONS)
        assert run.db.admin(RAISE_ALL_CRASH_SCORES) is True
    pump.work(careful=True)
    assert run.status == "failed"
    assert "died" in run.error


@pytest.fixture
def fickle(db: Database) -> Iterator[Pump]:
    """Drives runs of a role whose attributes the test changes."""
    db.admin("create role fickle login")
    db.admin("select df.grant_usage('fickle')")
    pump = Pump(db, "fickle")
    yield pump
    pump.close()
    db.connections.pop("fickle").close()
    db.admin("select df.revoke_usage('fickle')")
    db.admin("drop owned by fickle; drop role fickle")


def test_a_superuser_may_not_submit_any_more_at_pick_up(fickle: Pump) -> None:
    run = fickle.db.sql("select df.start('select 1' ~> 'select 2')", user="fickle")
    fickle.db.admin("alter role fickle superuser")
    assert fickle.work() == "empty"
    status, error = fickle.db.rows("select status, error from df.instances where id = %s", run, user=None)[0]
    assert status == "failed"
    assert "enable_superuser_instances is off" in error


def test_a_role_without_login_waits(fickle: Pump) -> None:
    run = fickle.db.sql("select df.start('select 1')", user="fickle")
    fickle.db.admin("alter role fickle nologin")
    work = fickle.tick()
    assert [role["role"] for role in work["roles"]] == ["fickle"]
    assert fickle.db.admin("select status from df.instances where id = %s", run) == "pending"


@pytest.mark.parametrize("attribute", ["superuser", "nologin"])
def test_the_identity_taken_at_pick_up_stays(fickle: Pump, attribute: str) -> None:
    """The first step ends, and its session; what the role is afterwards is not asked again."""
    run = fickle.db.sql("select df.start('select pg_sleep(0.4)' ~> 'select 2')", user="fickle")
    assert fickle.session.execute("call df_engine.work(300, false, null)").fetchone() == ("budget",)
    assert fickle.db.admin("select count(*) from df.nodes where node_type = 'SQL' and status = 'completed'") == 1
    fickle.db.admin(f"alter role fickle {attribute}")
    assert fickle.work() == "empty"
    assert fickle.db.admin("select status from df.instances where id = %s", run) == "completed"
