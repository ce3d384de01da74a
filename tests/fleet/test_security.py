"""Everything is done as the caller: here as its own role, in the cell as that of its user mapping."""

import subprocess

import psycopg
import pytest
from pglast.parser import split
from pgspot.state import State
from pgspot.visitors import visit_sql
from psycopg import errors

from generator.render import ROOT
from tests.cluster import Cluster, client
from tests.fleet.conftest import CELL, FLEET, STRANGE, Fleet, made
from tests.security.test_pgspot import EXCEPTED, SEARCH_PATH, Findings
from tests.support import Database, Server, install

OURS = "pronamespace = 'fleet'::regnamespace"


@pytest.fixture(scope="module")
def users(fleet: Fleet) -> Fleet:
    """other may use the fleet, and has no user mapping."""
    fleet.owner("grant usage on schema fleet to other")
    return fleet


def test_without_a_user_mapping_nothing_is_started(users: Fleet) -> None:
    with pytest.raises(errors.UndefinedObject, match="user mapping not found"):
        users.sql("select fleet.start('of other', 'select 1')", user="other")
    rows = users.rows("select reachable, sqlstate from fleet.cell_status", user="other")
    assert rows == [(False, "42704"), (False, "42704")]
    assert users.rows("table fleet.instances", user="other") == []


def test_without_usage_of_the_schema_nothing_is_seen(site: tuple[Cluster, Server]) -> None:
    with made(site, "c1") as fleet:
        for query in ("select fleet.start('a', 'select 1')", "table fleet.instances", "table fleet.cells",
                      "update fleet.cell_1 set verb = 'queue'"):  # fmt: skip
            with pytest.raises(errors.InsufficientPrivilege, match="schema fleet"):
                fleet.sql(query, user="other")


@pytest.mark.parametrize("call", [
    "fleet.add_cell('c9', 'to c1')", "fleet.drain('c1')", "fleet.undrain('c1')", "fleet.rebalance()",
    "fleet.move_buckets('c1', '{1}')", "fleet.remove_cell('c1')", "fleet._move_bucket(1, 1)",
])  # fmt: skip
def test_cells_are_the_owners(fleet: Fleet, call: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege, match="permission denied for function"):
        fleet.sql(f"select {call}")


@pytest.mark.parametrize("statement", [
    "update fleet.cells set state = 'drained'", "delete from fleet.places", "insert into fleet.places values (4000, 1)",
])  # fmt: skip
def test_tables_are_the_owners(fleet: Fleet, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege, match="permission denied for table"):
        fleet.sql(statement)


def test_the_submitter_is_the_role_of_the_mapping(users: Fleet) -> None:
    run = users.start("of app", label="of app")
    assert users.cell_of(run).admin("select submitted_by::text from df.instances where label = 'of app'") == "app"
    for server in ("to c1", f"to {STRANGE}"):
        quoted = server.replace('"', '""')
        users.front.admin(
            f"""create user mapping for other server "{quoted}" options (user 'other', password_required 'false')"""
        )
    assert users.rows("select id from fleet.instances", user="other") == []
    assert users.sql("select fleet.status(%s)", run, user="other") is None
    with pytest.raises(errors.InsufficientPrivilege, match="not found or access denied"):
        users.sql("select fleet.cancel(%s)", run, user="other")
    for server in ("to c1", f"to {STRANGE}"):
        quoted = server.replace('"', '""')
        users.front.admin(f'drop user mapping for other server "{quoted}"')


def test_who_may_not_use_pg_durable_in_a_cell_may_not_through_the_fleet(site: tuple[Cluster, Server]) -> None:
    with made(site, "c1") as fleet:
        fleet.cells["c1"].admin("select df.revoke_usage('app')")
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied for schema df"):
            fleet.start("order 1")


def test_unknown_verbs_do_nothing(fleet: Fleet) -> None:
    assert fleet.rows("update fleet.cell_1 set verb = 'drop', arguments = '{}' returning answer") == [(None,)]


def test_texts_are_never_sql(fleet: Fleet) -> None:
    evil = "x'; drop schema fleet_cell cascade; --"
    run = fleet.start(evil, "select 1", label=evil)
    fleet.sql("select fleet.signal(%s, %s, %s)", run, evil, evil)
    fleet.sql("select fleet.cancel(%s, %s)", run, evil)
    assert fleet.rows("select key, label, error from fleet.list_instances(label_filter => %s)", evil) == [
        (evil, evil, f"canceled: {evil}")
    ]


TRAPS = """
create function {0}.trap() returns boolean language plpgsql as $$ begin raise exception 'hijacked'; end $$;
create function {0}.bucket(text) returns int language sql as 'select {0}.trap()::int';
create function {0}.sha256(bytea) returns bytea language sql as 'select {0}.trap()::text::bytea';
create function {0}.format(text, int) returns text language sql as 'select {0}.trap()::text';
create table {0}.cells (number int, name text, server text, state text);
create table {0}.places (place int, cell int, is_current boolean);
create function {0}.equal(text, text) returns boolean language sql as 'select {0}.trap()';
create operator {0}.= (leftarg = text, rightarg = text, function = {0}.equal)"""


def test_names_in_the_callers_search_path_are_not_used(fleet: Fleet) -> None:
    fleet.front.admin("create schema evil authorization app")
    with fleet.front.connect("app") as conn:
        conn.execute(TRAPS.format("evil").encode())
        conn.execute("create temp table cells (number int); create temp table places (place int)")
        for path in ("evil, fleet, pg_catalog", "pg_temp, evil, pg_catalog, fleet", ""):
            conn.execute("select set_config('search_path', %s, false)", [path])
            run = conn.execute("select fleet.start('trapped', 'select 1')").fetchone()
            assert run is not None
            conn.execute("select fleet.status(%s), fleet.bucket('a'), fleet.cell_of('a')", run)
            for view in ("instances", "failed_steps", "queue", "cell_status", "buckets"):
                conn.execute(f"select * from fleet.{view}".encode())


def test_no_function_has_other_rights_than_its_callers_and_all_are_pinned(fleet: Fleet) -> None:
    for db, schema in ((fleet.front, "fleet"), (fleet.cells["c1"], "fleet_cell")):
        loose = db.rows(
            """select proname from pg_proc where pronamespace = %s::regnamespace
               and (prosecdef or not 'search_path=pg_catalog, pg_temp' = any (coalesce(proconfig, '{}')))""",
            schema,
            user=None,
        )
        assert loose == []


def test_everything_has_a_comment(fleet: Fleet) -> None:
    for db, schema in ((fleet.front, "fleet"), (fleet.cells["c1"], "fleet_cell")):
        bare = db.rows(
            """select oid::regprocedure::text from pg_proc where pronamespace = %s::regnamespace
               and obj_description(oid, 'pg_proc') is null
               union all select oid::regclass::text from pg_class where relnamespace = %s::regnamespace
               and relkind in ('r', 'v', 'f') and obj_description(oid, 'pg_class') is null""",
            schema,
            schema,
            user=None,
        )
        assert bare == []


def test_bodies_compile(fleet: Fleet) -> None:
    for db, schema in ((fleet.front, "fleet"), (fleet.cells["c1"], "fleet_cell")):
        db.admin(
            """select case l.lanname when 'sql' then fmgr_sql_validator(p.oid) else plpgsql_validator(p.oid) end
               from pg_proc p join pg_language l on l.oid = p.prolang where pronamespace = %s::regnamespace""",
            schema,
        )


def test_run_again_the_installers_change_nothing(fleet: Fleet) -> None:
    run = fleet.start("stays")
    fleet.front.admin(f"grant create on database {fleet.front.name} to owner")
    install(fleet.front.dsn("owner"), FLEET)
    install(fleet.cells["c1"].dsn(), CELL)
    assert fleet.sql("select fleet.status(%s)", run) == "pending"
    assert fleet.start("stays") == run


def test_a_schema_of_somebody_else_is_refused(site: tuple[Cluster, Server]) -> None:
    for name, script, words in (
        ("fleet", FLEET, 'schema "fleet" belongs to role "other"'),
        ("fleet_cell", CELL, 'schema "fleet_cell" belongs to role "other"'),
    ):
        db = Database.clone(site[1], "cell" if script is CELL else "template1")
        db.admin(f"drop schema if exists {name} cascade; create schema {name} authorization other")
        with pytest.raises(errors.InsufficientPrivilege, match=words):
            install(db.dsn(), script)
        db.drop()


def test_a_cell_is_a_database_with_pg_durable_and_its_owners(site: tuple[Cluster, Server]) -> None:
    db = Database.clone(site[1], "template1")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="pg_durable is not installed") as raised:
        install(db.dsn(), CELL)
    assert "dist/pg_durable.sql" in str(raised.value.diag.message_hint)
    db.drop()
    db = Database.clone(site[1], "cell")
    db.admin(f"grant create on database {db.name} to owner; drop schema fleet_cell cascade")
    with pytest.raises(errors.InsufficientPrivilege, match='schema "df" belongs to role "postgres"'):
        install(db.dsn("owner"), CELL)
    db.drop()


def test_psql_installs_both_files(site: tuple[Cluster, Server]) -> None:
    db = Database.clone(site[1], "cell")
    for file in ("pg_durable_fleet.sql", "pg_durable_fleet_cell.sql"):
        line = [str(client("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", f"{ROOT}/dist/{file}", db.dsn()]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert db.admin("select to_regclass('fleet.places') is not null")
    db.drop()


def test_a_password_is_asked_of_those_who_are_no_superusers(site: tuple[Cluster, Server]) -> None:
    """postgres_fdw lets nobody in for whom the server of the cell trusts the machine of the fleet."""
    with made(site, "c1") as fleet:
        fleet.front.admin("create user mapping for other server \"to c1\" options (user 'app')")
        fleet.owner("grant usage on schema fleet to other")
        with pytest.raises(psycopg.Error, match="password"):
            fleet.sql("select fleet.start('a', 'select 1')", user="other")


@pytest.mark.parametrize("script", [FLEET, CELL], ids=["fleet", "cell"])
def test_pgspot_finds_nothing(script: str) -> None:
    body = script.split("\n-- body\n", 1)[1].rsplit("commit;", 1)[0]
    found = {}
    for statement in map(str, split(body)):
        findings = Findings()
        state = State(findings)
        state.created_schemas = ["fleet", "fleet_cell"]
        visit_sql(state, f"{SEARCH_PATH}{statement};", toplevel=True)
        if codes := findings.codes - set(EXCEPTED):
            found[statement[:60]] = codes
    assert found == {}


LINT = """
select p.proname, c.level, c.message
from pg_proc p join pg_language l on l.oid = p.prolang
cross join lateral lint.plpgsql_check_function_tb(
  p.oid, coalesce((select t.tgrelid from pg_trigger t where t.tgfoid = p.oid limit 1), 0::oid), fatal_errors => false,
  other_warnings => true, extra_warnings => true, security_warnings => true, performance_warnings => false) c
where l.lanname = 'plpgsql' and p.pronamespace in ('fleet'::regnamespace, 'fleet_cell'::regnamespace)"""


def test_plpgsql_check_finds_nothing(site: tuple[Cluster, Server]) -> None:
    db = Database.clone(site[1], "cell")
    if not db.admin("select count(*) from pg_available_extensions where name = 'plpgsql_check'"):
        db.drop()
        pytest.skip("plpgsql_check is not installed (apt-get install postgresql-15-plpgsql-check)")
    install(db.dsn(), FLEET)
    db.admin("create schema lint; create extension plpgsql_check schema lint")
    found = db.rows(LINT, user=None)
    db.drop()
    assert found == []
