"""df.grant_usage and df.revoke_usage: exactly the list of the contract, with the caller's own privileges."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.state import WORKER_ROLES
from tests.support import Database

REFUSED = psycopg.errors.InsufficientPrivilege
ODD_NAMES = ['Mixed "Case" role', "semi;colon", "o'clock", "back\\slash", "select"]

# (object, column or '', privilege) that df.grant_usage gives on the tables and schemas of the public interface.
BASIC = {
    ("df", "", "USAGE"),
    *((relation, "", "SELECT") for relation in (
        "instances", "nodes", "vars", "secrets", "signals", "settings", "http_allowlist", "_worker_epoch",
        "definitions", "blocked_steps", "failed_steps", "limits", "paused_roles", "queue", "role_limits",
        "running_steps", "schedules", "schedule_ticks", "throughput", "waiting", "workers")),
}  # fmt: skip
HTTP = {("http", "", "EXECUTE"), ("http_multipart", "", "EXECUTE")}
DELEGATED = {(name, "", "EXECUTE") for name in ("grant_usage", "revoke_usage", "metrics")}

HELD = """
select nspname, '', privilege_type, is_grantable
from pg_namespace, aclexplode(nspacl) where nspname = 'df' and grantee = %(role)s::regrole
union all
select relname, '', privilege_type, is_grantable
from pg_class, aclexplode(relacl) where relnamespace = 'df'::regnamespace and grantee = %(role)s::regrole
union all
select relname, attname, privilege_type, is_grantable
from pg_attribute join pg_class c on c.oid = attrelid, aclexplode(attacl)
where relnamespace = 'df'::regnamespace and grantee = %(role)s::regrole
union all
select proname, '', privilege_type, is_grantable
from pg_proc, aclexplode(proacl) where pronamespace = 'df'::regnamespace and grantee = %(role)s::regrole
"""


@pytest.fixture
def fresh(db: Database) -> Iterator[str]:
    """A role that nobody has granted anything."""
    with new_role(db, f"fresh_{db.name}") as name:
        yield name


class new_role:
    """A LOGIN role for the length of a with block."""

    def __init__(self, db: Database, name: str) -> None:
        self.db, self.name = db, name

    def __enter__(self) -> str:
        self.db.admin(sql.SQL("create role {} login").format(sql.Identifier(self.name)).as_string())
        return self.name

    def __exit__(self, *_: object) -> None:
        for statement in ("drop owned by {} cascade", "drop role {}"):
            self.db.admin(sql.SQL(statement).format(sql.Identifier(self.name)).as_string())


def held(db: Database, role: str) -> dict[tuple[str, str, str], bool]:
    """What a role was granted by name on schema df and its objects -> whether it may pass it on."""
    with db.connect() as conn:
        quoted = sql.Identifier(role).as_string(conn)
        rows = conn.execute(HELD, {"role": quoted}).fetchall()
    return {(a, b, c): d for a, b, c, d in rows}


def test_basic_grants_are_exactly_the_list(db: Database, fresh: str) -> None:
    db.admin("select df.grant_usage(%s)", fresh)
    assert held(db, fresh) == dict.fromkeys(BASIC, False)


def test_http_is_added_on_request_and_kept(db: Database, fresh: str) -> None:
    db.admin("select df.grant_usage(%s, include_http => true)", fresh)
    db.admin("select df.grant_usage(%s)", fresh)
    assert held(db, fresh) == dict.fromkeys(BASIC | HTTP, False)


def test_grant_option_covers_all_and_three_functions(db: Database, fresh: str) -> None:
    db.admin("select df.grant_usage(%s, with_grant => true)", fresh)
    assert held(db, fresh) == dict.fromkeys(BASIC | DELEGATED, True)


def test_http_with_grant_option(db: Database, fresh: str) -> None:
    db.admin("select df.grant_usage(%s, true, true)", fresh)
    assert held(db, fresh) == dict.fromkeys(BASIC | HTTP | DELEGATED, True)


@pytest.mark.parametrize("with_grant", [False, True])
def test_revoke_leaves_nothing(db: Database, fresh: str, with_grant: bool) -> None:
    db.admin("select df.grant_usage(%s, true, %s)", fresh, with_grant)
    db.admin("select df.revoke_usage(%s)", fresh)
    assert held(db, fresh) == {}
    with pytest.raises(REFUSED):
        db.sql("select df.start('SELECT 1')", user=fresh)
    db.admin("drop role " + fresh)  # nothing private is left either
    db.admin("create role " + fresh)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_role_names_can_use_what_they_are_granted(db: Database, name: str) -> None:
    with new_role(db, name):
        db.admin("select df.grant_usage(%s)", name)
        run = db.sql("select df.start('SELECT 1', 'odd')", user=name)
        assert db.sql("select df.status(%s)", run, user=name) == "pending"
        assert db.sql("select df.setvar('a', 'b')", user=name) == "OK"
        assert db.rows("select name, value from df.vars", user=name) == [("a", "b")]
        db.sql("select df.cancel(%s)", run, user=name)
        db.sql("select df.clearvars()", user=name)
        db.admin("select df.revoke_usage(%s)", name)
        db.connections[name].close()


def test_public_is_accepted(db: Database, fresh: str) -> None:
    db.admin("select df.grant_usage('public')")
    assert len(db.sql("select df.start('SELECT 1')", user=fresh)) == 8
    db.admin("select df.revoke_usage('public')")
    with pytest.raises(REFUSED):
        db.sql("select df.start('SELECT 1')", user=fresh)


def test_a_notice_ends_both(db: Database, fresh: str) -> None:
    with db.connect() as conn:
        notices: list[str] = []
        conn.add_notice_handler(lambda d: notices.append(f"{d.severity} {d.message_primary}"))
        conn.execute("select df.grant_usage(%s)", [fresh])
        conn.execute("select df.revoke_usage(%s)", [fresh])
    assert notices == [f"NOTICE granted usage of pg_durable to {fresh}",
                       f"NOTICE revoked usage of pg_durable from {fresh}"]  # fmt: skip


def test_a_delegate_passes_basic_rights_on(db: Database, fresh: str) -> None:
    db.admin("select df.grant_usage('app', with_grant => true)")
    db.sql("select df.grant_usage(%s)", fresh)
    assert held(db, fresh) == dict.fromkeys(BASIC, False)
    assert len(db.sql("select df.start('SELECT 1')", user=fresh)) == 8
    db.sql("select df.revoke_usage(%s)", fresh)
    assert held(db, fresh) == {}


@pytest.mark.parametrize("http_held", [False, True])
def test_a_delegate_without_http_to_pass_on_grants_nothing(db: Database, fresh: str, http_held: bool) -> None:
    db.admin(
        "select df.grant_usage('other', with_grant => true), df.grant_usage('other', include_http => %s)", http_held
    )
    with pytest.raises(REFUSED):
        db.sql("select df.grant_usage(%s, include_http => true)", fresh, user="other")
    assert held(db, fresh) == {}
    db.admin("select df.revoke_usage('other')")


def test_revoking_a_delegate_takes_what_it_passed_on(db: Database, fresh: str) -> None:
    db.admin("select df.grant_usage('app', with_grant => true)")
    db.sql("select df.grant_usage(%s)", fresh)
    db.admin("select df.revoke_usage('app')")
    assert held(db, fresh) == {}


def test_a_delegate_that_revokes_itself_changes_nothing(db: Database) -> None:
    db.admin("select df.grant_usage('app', with_grant => true)")
    before = held(db, "app")
    db.sql("select df.revoke_usage('app')")
    assert held(db, "app") == before


def test_only_those_with_the_privilege_may_call_them(db: Database) -> None:
    calls = ("df.grant_usage('other')", "df.revoke_usage('other')", "df.grant_worker('app')", "df.revoke_worker('app')",
             "df.http_allow('a.example')", "df.http_disallow('a.example')", "df.metrics()")  # fmt: skip
    for call in calls:
        with pytest.raises(REFUSED):
            db.sql(f"select {call}")


@pytest.mark.parametrize("call", ["grant_usage(null)", "grant_usage('app', null)", "grant_usage('app', true, null)",
                                  "revoke_usage(null)", "grant_worker(null)", "revoke_worker(null)"])  # fmt: skip
def test_null_arguments_are_refused(db: Database, call: str) -> None:
    with pytest.raises(psycopg.errors.NullValueNotAllowed):
        db.admin(f"select df.{call}")


def test_unknown_roles_are_refused(db: Database) -> None:
    for function in ("grant_usage", "revoke_usage", "grant_worker", "revoke_worker"):
        with pytest.raises(psycopg.errors.UndefinedObject, match="nobody_here"):
            db.admin(f"select df.{function}('nobody_here')")


@pytest.mark.parametrize(
    "statement",
    [
        "delete from df.instances",
        "delete from df.nodes",
        "update df.instances set status = 'completed'",
        "update df.nodes set status = 'completed'",
        "insert into df.instances (id, submitted_by) values ('00000001', current_user::regrole)",
        "insert into df.nodes (id, instance_id) values ('00000002', '00000001')",
        "insert into df.vars values ('a', 'b', current_user::regrole)",
        "update df.vars set value = 'b'",
        "delete from df.vars",
        "insert into df.settings values ('x', 'y', 'z')",
        "insert into df.http_allowlist values ('example.com')",
        "insert into df._worker_epoch values (gen_random_uuid())",
        "select from df.instances for update",
        "begin; lock table df.instances in share mode",
    ],
)
def test_what_is_not_granted_is_refused(db: Database, statement: str) -> None:
    with pytest.raises(REFUSED):
        db.sql(statement)


def test_a_worker_role_gets_no_tables(db: Database) -> None:
    readable = db.rows(
        """select relname from pg_class
           where relnamespace in ('df'::regnamespace, 'df_engine'::regnamespace) and relkind in ('r', 'v')
             and has_any_column_privilege('durable_worker', oid, 'select, insert, update')""",
        user=None,
    )
    assert readable == []


def test_revoke_worker_takes_everything_back(db: Database, fresh: str) -> None:
    db.admin("select df.grant_worker(%s)", fresh)
    assert db.admin(WORKER_ROLES + " where role = %s::regrole", fresh) == 1
    db.admin("select df.revoke_worker(%s)", fresh)
    assert db.admin(WORKER_ROLES + " where role = %s::regrole", fresh) == 0
    db.admin("drop role " + fresh)
    db.admin("create role " + fresh)
