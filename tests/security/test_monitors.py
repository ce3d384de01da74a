"""A monitor sees the runs of all roles, and changes nothing of them, whatever function it calls."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.state import ALL_STATE
from tests.support import Database, Pump

REFUSED = psycopg.errors.InsufficientPrivilege
SECRET = "xyzzy"


@pytest.fixture
def watched(pump: Pump) -> Iterator[Database]:
    """`other` is a monitor; app has runs in several states, variables, a secret and a definition."""
    db = pump.db
    db.admin("select df.grant_monitor('other')")
    db.sql("select df.setvar('who', 'kim')")
    db.sql("select df.set_secret('token', %s)", SECRET)
    db.sql("select df.define('bill', 'select 1')")
    pump.run("'select 42 as answer'", "done")
    pump.run("'select 1/0'", "broken")
    pump.start("df.wait_for_signal('go')", "waits")
    pump.work()
    db.sql("select df.pause(df.start('select 1', 'paused', input => '{\"n\": 7}'), 'wait')")
    db.sql("select df.start('select 1', 'queued')")
    db.sql("select df.signal(id, 'later', '1') from df.instances where label = 'queued'")
    yield db
    db.admin("select df.revoke_monitor('other')")


def run(db: Database, label: str) -> str:
    return str(db.sql("select id from df.instances where label = %s", label))


def test_a_monitor_sees_what_all_roles_have(watched: Database) -> None:
    def seen(query: str) -> object:
        return watched.sql(query, user="other")

    assert seen("select count(*) from df.instances where submitted_by = 'app'::regrole") == 5
    assert seen("select input ->> 'n' from df.instances where label = 'paused'") == "7"
    assert seen("select value from df.vars where name = 'who'") == "kim"
    assert seen("select count(*) from df.nodes where query = 'select 1/0'") == 1
    assert seen("select flow from df.definitions") == "'select 1'"
    assert seen("select signal_data from df.signals") == 1
    assert seen("select error from df.failed_steps") == "division by zero (SQLSTATE 22012)"
    assert seen("select count(*) from df.waiting where kind in ('signal', 'paused')") == 2
    assert seen("select ready from df.queue where role = 'app'::regrole") == 1
    assert seen("select count(*) from df.stuck('0 s')") == 3
    assert seen("select count(*) from df.list_instances()") == 5
    done = run(watched, "done")
    assert "42" in str(seen(f"select df.result('{done}')"))
    assert "select 42" in str(seen(f"select df.explain('{done}')"))
    assert "select 42" in str(seen(f"select df.svg('{done}')"))
    assert "select 42" in str(seen(f"select df.mermaid('{done}')"))
    assert seen(f"select df.status('{done}')") == "completed"
    assert seen(f"select df.await_instance('{done}')") == "completed"
    for call in ("instance_info", "instance_nodes", "instance_executions", "node_activations", "timeline"):
        assert int(str(seen(f"select count(*) from df.{call}('{done}')"))) > 0, call


def test_a_monitor_sees_no_secret(watched: Database) -> None:
    watched.admin("select df.set_setting('loopback_dsn', 'host=/nowhere')")
    assert watched.rows("select * from df.secrets", user="other") == []
    assert watched.rows("select * from df.settings where name = 'loopback_dsn'", user="other") == []
    assert watched.sql("select df.setting('loopback_dsn')", user="other") is None
    views = watched.rows(
        "select c.oid::regclass::text from pg_class c where c.relkind = 'v' "
        "and has_table_privilege('other', c.oid, 'select') "
        "and c.relnamespace in ('df'::regnamespace, 'df_engine'::regnamespace)",
        user=None,
    )
    assert len(views) > 20
    for (view,) in views:
        assert SECRET not in str(watched.rows(f"select to_jsonb(v) from {view} v", user="other")), view


FUNCTIONS = """
select p.proname, p.oid::regprocedure::text, p.prokind::text,
       array(select format_type(t, null) from unnest(p.proargtypes::oid[]) t)
from pg_proc p
where p.pronamespace in ('df'::regnamespace, 'df_engine'::regnamespace)
  and has_function_privilege('other', p.oid, 'execute')
  and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype) and not p.provariadic > 0
order by 2"""
# What a monitor may do for itself, like any user: these concern its own runs, variables, secrets and definitions.
OWN = ("start", "setvar", "clearvars", "unsetvar", "set_secret", "unset_secret", "define", "undefine")


def everything(db: Database) -> object:
    return [db.rows(query, user=None) for query in ALL_STATE]


def test_no_function_changes_anything_of_others(watched: Database) -> None:
    """Every function that a monitor can call, with the id of each run and everything else plausible."""
    labels = ("done", "broken", "waits", "paused", "queued")
    runs = {label: run(watched, label) for label in labels}
    before = everything(watched)
    called = set()
    for name, signature, kind, types in watched.rows(FUNCTIONS, user=None):
        for label in labels:
            values = ", ".join(value(of, place, runs[label]) for place, of in enumerate(types))
            call = f"{'call' if kind == 'p' else 'select'} {signature.split('(')[0]}({values})"
            with watched.connect("other", autocommit=False) as conn:
                conn.execute("set statement_timeout = '500 ms'")
                try:
                    conn.execute(call.encode())
                    called.add(name)
                    if name not in OWN:
                        conn.commit()
                except psycopg.Error:
                    conn.rollback()
                else:
                    conn.rollback()
    assert {"status", "result", "explain", "instance_nodes"} <= called
    assert not {"cancel", "signal", "pause", "resume", "skip", "forget", "rerun", "notify_end"} & called
    assert everything(watched) == before


def value(of: str, place: int, run_id: str) -> str:
    """An argument: the first text is the id of a run."""
    if of in ("text", "character varying"):
        return f"'{run_id}'::{of}" if place == 0 else "'x'"
    plain = {
        "integer": "1", "bigint": "1", "boolean": "true", "jsonb": "'{}'::jsonb", "json": "'{}'::json",
        "oid": "'app'::regrole::oid", "regrole": "'app'::regrole",
        "interval": "interval '1 s'", "timestamp with time zone": "now()", "numeric": "1",
    }  # fmt: skip
    return plain.get(of, f"null::{of}")


@pytest.mark.parametrize(
    "call",
    ["cancel(%s)", "signal(%s, 'go')", "pause(%s)", "resume(%s)", "rerun(%s)",
     "skip(%s, '00000000', null)", "forget(%s)", "notify_end(%s, 'c')", "cancel(%s, 'x', true)"],
)  # fmt: skip
@pytest.mark.parametrize("label", ["done", "waits", "paused"])
def test_what_changes_raises_as_for_a_stranger(watched: Database, call: str, label: str) -> None:
    before = everything(watched)
    with pytest.raises(REFUSED, match="the run belongs to another role"):
        watched.sql(f"select df.{call}", run(watched, label), user="other")
    assert everything(watched) == before


@pytest.mark.parametrize(
    "call",
    ["set_setting('timezone', 'UTC')", "set_role_limit('app', 0)", "grant_monitor('app')", "revoke_monitor('other')",
     "grant_worker('other')", "check()", "metrics()", "define('bill', 'select 2', owner => 'app'::regrole)",
     "pause_role('app')", "resume_role('app')",
     "undefine('bill', owner => 'app'::regrole)", "http_allow('example.org')", "rotate_wake_channel()"],
)  # fmt: skip
def test_a_monitor_administrates_nothing(watched: Database, call: str) -> None:
    with pytest.raises(REFUSED):
        watched.sql(f"select df.{call}", user="other")


def test_members_of_a_monitor_see_what_it_sees(watched: Database) -> None:
    watched.admin("create role watcher login in role other")
    try:
        assert watched.sql("select count(*) from df.instances", user="watcher") == 5
        watched.connections.pop("watcher").close()
    finally:
        watched.admin("drop role watcher")


def test_who_may_change_settings_sees_all(watched: Database) -> None:
    watched.admin("select df.revoke_monitor('other')")
    watched.admin("grant execute on function df.set_setting(text, text) to other")
    assert watched.sql("select count(*) from df.instances where submitted_by = 'app'::regrole", user="other") == 5


def test_who_is_no_monitor_any_more_sees_its_own(watched: Database) -> None:
    watched.admin("select df.revoke_monitor('other')")
    assert watched.sql("select count(*) from df.instances", user="other") == 0
    assert watched.sql("select df.status(df.start('select 1'))", user="other") == "pending"
    watched.admin("select df.grant_monitor('other')")
    assert watched.sql("select count(*) from df.instances", user="other") == 6
    watched.admin("select df.revoke_usage('other')")
    watched.admin("select df.grant_usage('other')")
    assert watched.sql("select count(*) from df.instances", user="other") == 1


@pytest.mark.parametrize("call", ["grant_monitor(null)", "revoke_monitor(null)"])
def test_a_role_must_be_named(db: Database, call: str) -> None:
    with pytest.raises(psycopg.errors.NullValueNotAllowed):
        db.admin(f"select df.{call}")


@pytest.mark.parametrize("role", ["public", "nobody_there"])
def test_everybody_is_no_role(db: Database, role: str) -> None:
    with pytest.raises(psycopg.errors.UndefinedObject):
        db.admin("select df.grant_monitor(%s)", role)


def test_a_stranger_can_be_made_a_monitor(db: Database) -> None:
    db.admin("create role watcher login")
    try:
        db.admin("select df.grant_monitor('watcher')")
        db.sql("select df.start('select 1')")
        assert db.sql("select count(*) from df.instances", user="watcher") == 1
        db.connections.pop("watcher").close()
    finally:
        db.admin("drop owned by watcher; drop role watcher")
