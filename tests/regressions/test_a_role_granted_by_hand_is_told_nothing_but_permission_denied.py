"""Every public function tells a role that has only USAGE on df what is missing: df.grant_usage."""

import uuid
from collections.abc import Iterator

import psycopg
import pytest

from tests.support import Database

# Each function that the role may call, with arguments that every check of theirs accepts.
FUNCTIONS = """
select p.oid::regprocedure::text as function, p.proname as name,
       array(select case t.type
               when 'integer'::regtype then '1' when 'boolean'::regtype then 'true' when 'numeric'::regtype then '1'
               when 'interval'::regtype then '1 s' when 'double precision'::regtype then '1'
               when 'timestamptz'::regtype then 'today' when 'jsonb'::regtype then '{}' when 'text[]'::regtype then '{}'
               else case t.name when 'instance_id' then 'ffffffff' when 'instance_id_param' then 'ffffffff'
                                when 'transaction_mode' then 'caller' when 'status_filter' then 'failed'
                                when 'method' then 'GET' when 'url' then 'https://example.com'
                                when 'timezone' then 'UTC' when 'cron_expr' then '@daily' when 'input' then 'select 1'
                                when 'on_conflict' then 'return'
                                when 'after_cursor' then null when 'database' then null else 'x' end
             end
             from unnest(p.proargtypes::oid[], p.proargnames) with ordinality t(type, name, place)
             where t.type is not null order by t.place) as arguments,
       array(select format_type(case t.type when 'anyelement'::regtype then 'text'::regtype else t.type end, null)
             from unnest(p.proargtypes::oid[]) with ordinality t(type, place) order by t.place) as types
from pg_proc p
where p.pronamespace = 'df'::regnamespace and p.prokind = 'f' and not starts_with(p.proname, '_')
  and p.prorettype <> 'trigger'::regtype and has_function_privilege(%s, p.oid, 'execute')
order by 1"""


@pytest.fixture(scope="module")
def onlooker(shared: Database) -> Iterator[str]:
    """A role with USAGE on df, and EXECUTE on what is closed to the public, all granted by hand."""
    role = f"by_hand_{uuid.uuid4().hex[:8]}"
    shared.admin(f"create role {role} login; grant usage on schema df to {role}")
    yield role
    for conn in shared.connections.values():
        conn.close()
    shared.admin(f"drop owned by {role}; drop role {role}")


def outcomes(db: Database, role: str) -> dict[str, psycopg.Error | None]:
    """What calling each of the functions comes to."""
    found: dict[str, psycopg.Error | None] = {}
    for function, name, arguments, types in db.rows(FUNCTIONS, role, user=None):
        values = ", ".join(f"%s::{kind}" for kind in types)
        try:
            db.sql(f'select df."{name}"({values})', *arguments, user=role)
            found[function] = None
        except psycopg.Error as error:
            found[function] = error
    return found


def test_no_function_gives_a_bare_permission_denied(shared: Database, onlooker: str) -> None:
    found = outcomes(shared, onlooker)
    assert len(found) > 40
    bare = {
        name: str(error)
        for name, error in found.items()
        if isinstance(error, psycopg.errors.InsufficientPrivilege)
        and "df.grant_usage" not in str(error.diag.message_hint)
    }
    assert bare == {}


def test_the_ones_that_need_more_than_usage_all_say_so(shared: Database, onlooker: str) -> None:
    told = {
        name.split("(")[0] for name, error in outcomes(shared, onlooker).items() if error and error.diag.message_hint
    }
    assert {f"df.{name}" for name in (
        "start", "signal", "cancel", "status", "result", "await_instance", "setvar", "getvar", "unsetvar", "clearvars",
        "explain", "to_flow", "list_instances", "instance_info", "instance_executions", "instance_nodes",
    )} <= told  # fmt: skip


def test_builders_need_no_more_than_usage(shared: Database, onlooker: str) -> None:
    query = "select df.loop('a' ~> df.sleep(1) & 'b' |=> 'n', 'c') || df.flow(%s) || df.version()"
    assert shared.sql(query, "'a' ~> 'b'", user=onlooker)


def test_a_worker_role_that_is_no_user_is_told_too(shared: Database, onlooker: str) -> None:
    shared.admin(f"select df.grant_worker('{onlooker}')")
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            shared.sql("select df.status('ffffffff')", user=onlooker)
        assert f"df.grant_usage('{onlooker}')" in str(caught.value.diag.message_hint)
    finally:
        shared.admin(f"select df.revoke_worker('{onlooker}'); grant usage on schema df to {onlooker}")


def test_a_user_calls_them_all(shared: Database) -> None:
    denied = [name for name, error in outcomes(shared, "app").items()
              if isinstance(error, psycopg.errors.InsufficientPrivilege) and "denied for" in str(error)]  # fmt: skip
    assert denied == []
