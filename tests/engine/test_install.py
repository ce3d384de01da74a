"""Installing: psql, options, refusals, running again, ordinary owners, and the packaging as an extension."""

import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from generator.render import artifacts
from tests.cluster import client
from tests.state import RELEASE, RETENTION_IS_DUE, UPKEEP
from tests.support import Database, Server, install

SCRIPT = artifacts()["dist/pg_durable.sql"]

# All that an installation is made of, in one line each.
OBJECTS = """
select 'function', oid::regprocedure::text, proacl::text
  || md5(case prokind when 'a' then pg_get_function_result(oid) else pg_get_functiondef(oid) end)
from pg_proc where pronamespace in ('df'::regnamespace, 'df_engine'::regnamespace)
union all
select 'relation', oid::regclass::text, concat(relkind, relacl, relrowsecurity, reloptions) from pg_class
where relnamespace in ('df'::regnamespace, 'df_engine'::regnamespace)
union all
select 'column', attrelid::regclass || '.' || attname, concat(format_type(atttypid, atttypmod), attnotnull, attacl)
from pg_attribute join pg_class c on c.oid = attrelid
where relnamespace in ('df'::regnamespace, 'df_engine'::regnamespace) and attnum > 0 and relkind in ('r', 'v')
union all
select 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) from pg_constraint
where connamespace in ('df'::regnamespace, 'df_engine'::regnamespace)
union all
select 'trigger', tgrelid::regclass || '.' || tgname, pg_get_triggerdef(oid) from pg_trigger
where not tgisinternal
union all
select 'operator', oid::regoperator::text, oprcode::text from pg_operator where oprcode::text like 'df.%'
union all
select 'setting', name, value from df.settings
union all
select 'release', version, installed_at::text from df_engine.release
order by 1, 2
"""


@contextmanager
def empty(server: Server, options: str = "encoding 'UTF8'") -> Iterator[Database]:
    """A database without df."""
    database = Database(server, f"empty_{uuid.uuid4().hex[:8]}")
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute(f"create database {database.name} {options} template template0".encode())
    try:
        yield database
    finally:
        database.drop()


@contextmanager
def role(server: Server) -> Iterator[str]:
    """An ordinary role."""
    name = f"role_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute(f"create role {name} login".encode())
        yield name
        conn.execute(f"drop role {name}".encode())


def psql(db: Database, *options: str) -> subprocess.CompletedProcess[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(SCRIPT)
        file.flush()
        command = [str(client("psql")), "-X", "-v", "ON_ERROR_STOP=1", *options, "-f", file.name, db.dsn()]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def test_psql_installs_without_a_word_and_again(server: Server) -> None:
    with empty(server) as db:
        for _ in range(2):
            done = psql(db)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert db.admin("select 'a' ~> 'b'") == db.admin("select df.seq('a', 'b')")


def test_psql_options_choose_operator_schema_and_worker(server: Server) -> None:
    with empty(server) as db, role(server) as worker:
        db.admin('create schema "Odd schema"')
        done = psql(db, "-v", "operator_schema=Odd schema", "-v", f"worker_role={worker}")
        assert done.returncode == 0, done.stderr
        schemas = db.rows(
            "select distinct oprnamespace::regnamespace::text from pg_operator where oid >= 16384", user=None
        )
        assert schemas == [('"Odd schema"',)]
        assert db.admin("select role::text from df_engine.worker_roles") == worker
        db.admin('set search_path = "Odd schema"')
        assert db.admin("select 'a' ~> 'b'") == db.admin("select df.seq('a', 'b')")
        db.admin(f"select df.revoke_worker('{worker}')")


def test_psql_leaves_nothing_behind_when_it_fails(server: Server) -> None:
    with empty(server) as db:
        done = psql(db, "-v", "worker_role=nobody_here")
        assert done.returncode != 0
        assert "nobody_here" in done.stderr
        assert db.admin("select to_regnamespace('df') is null and to_regnamespace('df_engine') is null")


def test_running_again_changes_nothing(db: Database) -> None:
    db.admin("select df.set_setting('retention_days', '7')")
    db.admin("select df.http_disallow('api.github.com')")
    run = db.sql("select df.start('SELECT 1')")
    before = db.rows(OBJECTS, user=None)
    install(db.dsn(), SCRIPT)
    assert db.rows(OBJECTS, user=None) == before
    assert db.admin("select count(*) from df.http_allowlist where pattern = 'api.github.com'") == 0
    assert db.admin(UPKEEP) == 1
    with db.connect("app") as worker:
        worker.execute("call df_engine.work(500, true, null)")
    assert db.sql("select df.status(%s)", run) == "completed"


def test_running_again_gives_users_what_is_new(db: Database) -> None:
    db.admin("revoke execute on function df_engine.insert_instance from app, other")
    install(db.dsn(), SCRIPT)
    assert db.sql("select length(df.start('SELECT 1'))") == 8
    execute = "select has_function_privilege('df_engine.insert_instance'::regproc, 'execute')"
    assert db.sql(execute, user="other")


def test_a_foreign_schema_df_is_refused(server: Server) -> None:
    with empty(server) as db:
        db.admin("create schema df; create table df.mine (x int)")
        with pytest.raises(psycopg.errors.DuplicateSchema, match='"df"'):
            install(db.dsn(), SCRIPT)
        assert db.admin("select to_regnamespace('df_engine') is null")


@pytest.mark.parametrize("schemas", ["df_engine", "df, df_engine"])
def test_schemas_that_somebody_else_made_are_refused(server: Server, schemas: str) -> None:
    with role(server) as squatter, empty(server) as db:
        for schema in schemas.split(", "):
            db.admin(f"create schema {schema} authorization {squatter}")
        db.admin(RELEASE)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=f'belongs to role "{squatter}"'):
            install(db.dsn(), SCRIPT)
        db.admin(f"drop schema {schemas} cascade")


def test_other_encodings_are_refused(server: Server) -> None:
    options = "encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'"
    with empty(server, options) as db, pytest.raises(psycopg.Error, match="UTF8") as caught:
        install(db.dsn(), SCRIPT)
    assert caught.value.sqlstate == "55000"


def test_an_unknown_operator_schema_is_refused(server: Server) -> None:
    with empty(server) as db, pytest.raises(psycopg.errors.InvalidSchemaName, match="nowhere"):
        install(db.dsn(), SCRIPT, operator_schema="nowhere")


@pytest.mark.usefixtures("template")  # it makes the roles
def test_an_ordinary_role_installs_and_administrates(server: Server) -> None:
    with role(server) as owner, empty(server) as db:
        db.admin(
            f"grant create on database {db.name} to {owner}; create schema ops authorization {owner};"
            " grant usage on schema ops to app"
        )
        install(db.dsn(owner), SCRIPT, operator_schema="ops", worker_role="durable_worker")
        db.sql("select df.set_setting('loopback_dsn', 'host=/tmp')", user=owner)
        assert db.sql("select df.setting('loopback_dsn')", user=owner) == "host=/tmp"
        assert db.sql("select count(*) from df.settings where name = 'loopback_dsn'", user=owner) == 1
        db.sql("select df.grant_usage('app', include_http => true)", user=owner)
        run = db.sql("select df.start('SELECT current_user AS u' OPERATOR(ops.~>) 'SELECT 2')")
        assert db.sql("select count(*) from df.instances", user=owner) == 1
        with db.connect("app") as worker:
            worker.execute("call df_engine.work(500, true, null)")
        assert db.sql("select df.status(%s)", run) == "completed"
        db.sql(RETENTION_IS_DUE, user=owner)
        db.sql("select df.set_setting('retention_days', '0')", user=owner)
        assert db.sql("select df_engine.retain()", user="durable_worker") is False
        assert db.sql("select df.status(%s)", run) is None
        db.sql("select df.revoke_usage('app')", user=owner)
        for name in ("app", owner):
            db.connections[name].close()
        db.admin(f"drop owned by {owner} cascade")


def objects_of(db: Database) -> list[tuple[str, ...]]:
    """Kinds and names of what is installed."""
    return [row[:2] for row in db.rows(OBJECTS, user=None)]


def test_the_extension_installs_the_same_objects(server: Server, db: Database) -> None:
    if db.admin("select current_setting('extension_control_path', true)") is None:
        pytest.skip("needs extension_control_path (PostgreSQL 18)")
    share = Path(tempfile.mkdtemp(dir="/tmp"))
    share.chmod(0o755)
    (share / "extension").mkdir()
    for name, text in artifacts().items():
        if name.startswith("dist/extension/"):
            (share / "extension" / Path(name).name).write_text(text)
    with empty(server) as other, other.connect() as conn:
        conn.execute(sql.SQL("set extension_control_path = {}").format(f"{share}:$system"))
        conn.execute("create extension pg_durable")
        assert objects_of(other) == objects_of(db)
        loose = conn.execute(
            """select oid::regprocedure::text from pg_proc p
               where pronamespace in ('df'::regnamespace, 'df_engine'::regnamespace)
                 and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')"""
        ).fetchall()
        assert loose == []
        conn.execute("drop extension pg_durable cascade")
        assert conn.execute("select to_regnamespace('df'), to_regnamespace('df_engine')").fetchone() == (None, None)
    shutil.rmtree(share)
