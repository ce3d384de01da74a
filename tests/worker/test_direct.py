"""Steps that cannot be in a transaction, or are in another database."""

from collections.abc import Iterator

import pytest
from psycopg import sql

from tests.support import Database
from tests.worker.process import await_end, error, run, start

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture
def elsewhere(db: Database) -> Iterator[Database]:
    """Another database, in which df is not installed."""
    name = f"{db.name}_b"
    db.admin(sql.SQL("create database {} template template0").format(sql.Identifier(name)).as_string())
    other = Database(db.server, name)
    other.admin("create table there (i int); grant all on there to app")
    yield other
    other.drop()


def test_vacuum(db: Database) -> None:
    db.sql("create table t (i int)")
    assert run(db, "'vacuum t'") == {"rows": [], "row_count": 0}


def test_create_index_concurrently_between_other_steps(db: Database) -> None:
    db.sql("create table t (i int)")
    run(db, "'insert into t values (1)' ~> 'create index concurrently t_i on t (i)' ~> 'insert into t values (2)'")
    assert db.sql("select indisvalid from pg_index where indexrelid = 't_i'::regclass")


def test_a_procedure_that_commits_and_returns_values(db: Database) -> None:
    db.sql("create table t (i int)")
    db.sql("""
        create procedure work(inout n numeric, inout at timestamptz, inout missing text) language plpgsql as $$
        begin insert into t values (1); commit; n := n + 0.50; end $$""")
    instance = start(db, "'call work(1.00, ''2026-05-01 12:00+02'', null)'")
    assert await_end(db, instance) == "completed", error(db, instance)
    text = db.admin("select result::text from df.nodes where instance_id = %s", instance)
    expected = '{"rows": [{"n": 1.50, "at": "2026-05-01T10:00:00+00:00", "missing": null}], "row_count": 1}'
    assert db.admin("select %s::jsonb = %s::jsonb and %s like '%%1.50%%'", text, expected, text)
    assert db.admin("select result_columns from df.nodes where instance_id = %s", instance) == ["n", "at", "missing"]


def test_an_error_outside_a_transaction_is_the_servers(db: Database) -> None:
    instance = start(db, "'vacuum nowhere'")
    assert await_end(db, instance) == "failed"
    assert error(db, instance) == 'SQL execution failed: relation "nowhere" does not exist (SQLSTATE 42P01)'


def test_a_session_is_reset_after_a_step_outside_a_transaction(db: Database) -> None:
    db.sql("""
        create procedure leave() language plpgsql as $$
        begin commit; set search_path to nowhere; create temporary table scratch (i int); end $$""")
    run(db, "'call leave()'")
    left = run(db, "'select to_regclass(''pg_temp.scratch'') as t, current_setting(''search_path'') as p'")
    assert left["rows"] == [{"t": None, "p": '"$user", public'}]


def test_a_run_in_another_database(db: Database, elsewhere: Database) -> None:
    flow = (
        "'insert into there values (1) returning i' ~> 'vacuum there' ~> 'select session_user, current_database() as d'"
    )
    result = run(db, flow, database=elsewhere.name)
    assert result["rows"] == [{"session_user": "app", "d": elsewhere.name}]
    assert elsewhere.admin("select count(*) from there") == 1


def test_no_session_stays_in_another_database(db: Database, elsewhere: Database) -> None:
    run(db, "'select 1'", database=elsewhere.name)
    others = "select count(*) from pg_stat_activity where datname = %s and usename = 'app'"
    assert db.admin(others, elsewhere.name) == 0


def test_a_failed_statement_in_another_database_keeps_nothing(db: Database, elsewhere: Database) -> None:
    instance = start(db, "'insert into there select 1 / (2 - i) from generate_series(1, 2) i'", database=elsewhere.name)
    assert await_end(db, instance) == "failed"
    assert "SQLSTATE 22012" in error(db, instance)
    assert elsewhere.admin("select count(*) from there") == 0


def test_a_database_that_is_gone_fails_the_step_at_once(db: Database, elsewhere: Database) -> None:
    instance = start(db, "df.sleep(1) ~> 'select 1'", database=elsewhere.name)
    name = elsewhere.name
    for conn in elsewhere.connections.values():
        conn.close()
    db.admin(f"alter database {name} rename to {name}_gone")
    try:
        assert await_end(db, instance, 5) == "failed"
    finally:
        db.admin(f"alter database {name}_gone rename to {name}")
    assert f'database "{name}" does not exist' in error(db, instance)


@pytest.fixture
def small(db: Database) -> None:
    """Results have 2 kB at most."""
    db.admin("select df.set_setting('max_result_bytes', '2048')")
    db.sql("create table done (at timestamptz default clock_timestamp())")


LARGE = """
create procedure work(inout text text) language plpgsql as $$
begin insert into public.done default values; commit; text := repeat({}, {}); end $$"""


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("character", "times"), [("'x'", 5000), ("e'\\x01'", 500), ("'x'", 2040)])
def test_a_committed_step_whose_result_is_too_large_is_not_run_again(db: Database, character: str, times: int) -> None:
    db.sql(LARGE.format(character, times))
    instance = start(db, "df.retry('call work('''')', 5, '10 ms')")
    assert await_end(db, instance) == "failed"
    assert "max_result_bytes allows" in error(db, instance)
    assert db.sql("select count(*) from done") == 1
    assert db.admin("select attempts from df.nodes where instance_id = %s", instance) == 1


@pytest.mark.usefixtures("small")
def test_a_result_of_another_database_that_is_too_large_is_not_retried(db: Database, elsewhere: Database) -> None:
    elsewhere.admin("create sequence tries; grant usage on tries to app")
    step = "with t as (insert into there select nextval(''tries'') returning i) select repeat(''x'', 5000), i from t"
    instance = start(db, f"df.retry('{step}', 5, '10 ms')", database=elsewhere.name)
    assert await_end(db, instance) == "failed"
    assert "max_result_bytes allows" in error(db, instance)
    assert elsewhere.admin("select last_value from tries") == 1
    assert db.admin("select attempts from df.nodes where instance_id = %s", instance) == 1


@pytest.mark.usefixtures("small")
def test_a_committed_step_of_another_database_whose_result_is_too_large_is_not_run_again(
    db: Database, elsewhere: Database
) -> None:
    elsewhere.admin("create table done (i int default 1); grant all on done to app")
    elsewhere.admin("grant create on schema public to app")
    elsewhere.sql(LARGE.format("'x'", 5000))
    instance = start(db, "df.retry('call work('''')', 5, '10 ms')", database=elsewhere.name)
    assert await_end(db, instance) == "failed"
    assert "max_result_bytes allows" in error(db, instance)
    assert elsewhere.admin("select count(*) from done") == 1
    assert db.admin("select attempts from df.nodes where instance_id = %s", instance) == 1


def test_a_block_in_another_database_is_one_transaction(db: Database, elsewhere: Database) -> None:
    flow = (
        "'select 3 as n' |=> 'a' ~> df.block('insert into there values ($a.n)', "
        "'insert into there values (4)', 'select sum(i) as s, date ''2026-01-02'' as d from there') |=> 'b' "
        "~> 'select $b.s as s, pg_typeof($b.d)::text as t'"
    )
    assert run(db, flow, database=elsewhere.name)["rows"] == [{"s": 7, "t": "date"}]
    assert elsewhere.admin("select count(*) from there") == 2


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("select 1/0", "statement 2 of 2: division by zero (SQLSTATE 22012)"),
        ("vacuum there", "HINT: A block is one transaction. Make this statement, which cannot be in one, a step of"),
        ("commit", "statement 2 of 2: transaction control, here COMMIT"),
        ("select $a.nope", "statement 2 of 2: "),
    ],
)
def test_a_block_that_fails_in_another_database_keeps_nothing(
    db: Database, elsewhere: Database, statement: str, message: str
) -> None:
    flow = f"'select 1 as n' |=> 'a' ~> df.block('insert into there values (1)', '{statement}')"
    instance = start(db, flow, database=elsewhere.name)
    assert await_end(db, instance) == "failed"
    assert message in error(db, instance)
    assert elsewhere.admin("select count(*) from there") == 0
