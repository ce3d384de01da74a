"""One ordinary role against another: `other` attacks what `app` owns, through every door it can reach."""

from contextlib import nullcontext

import psycopg
import pytest

from generator.model import USER_ROUTINES, USER_VIEWS
from tests.support import Database

REFUSED = psycopg.errors.InsufficientPrivilege

# Definer functions that users can call, and why that is harmless.
DEFINER_FOR_USERS = {
    "df_engine.claim_step(text,bigint,bigint,boolean)": "needs the key of session_user",
    "df_engine.settle_step(text,bigint,character varying,character varying,jsonb,text[],text[],text,text,text,text,"
    "timestamp with time zone)": "needs the key of session_user",
    "df_engine.pass_on(text,bigint,character varying,character varying[],character varying,boolean,jsonb,text[],text[],"
    "timestamp with time zone,character varying,timestamp with time zone)": "needs the key of session_user",
    "df_engine.pass_on_group(text,bigint,character varying,df_engine.outcome[],character varying,boolean,"
    "character varying,timestamp with time zone)": "needs the key of session_user",
    "df_engine.hold_step(bigint,xid,character varying,character varying)": "locks a row of session_user, tells nothing",
    "df_engine.cron_next(text,text,timestamp with time zone)": "computes",
    "df_engine.flow_comments(text)": "computes",
    "df_engine.flow_layout(jsonb)": "computes",
    "df_engine.launch(text,text,text,jsonb)": "needs a proof that only session_user can have written",
    "df_engine.lay_out(text,jsonb)": "needs a run that this transaction inserted; acts for the run's submitter",
    "df_engine.setting(text)": "reads settings, but not loopback_dsn",
}


@pytest.fixture
def victim(db: Database) -> str:
    """A pending run of app."""
    db.sql("select df.setvar('secret', 'xyzzy')")
    return str(db.sql("select df.start('SELECT ''{secret}''' |=> 'x' ~> df.wait_for_signal('go'), 'private')"))


def attack(db: Database, query: str, *args: object) -> object:
    return db.sql(query, *args, user="other")


def snapshot(db: Database, run: str) -> list[tuple[object, ...]]:
    """Everything that is stored of a run."""
    return [
        row
        for table, key in (("df.instances", "id"), ("df.nodes", "instance_id"), ("df_engine.ready", "instance_id"),
                           ("df_engine.inbox", "instance_id"), ("df_engine.timers", "instance_id"))
        for row in db.rows(f"select to_jsonb(t)::text from {table} t where {key} = %s order by 1", run, user=None)
    ]  # fmt: skip


def test_another_role_sees_nothing(db: Database, victim: str) -> None:
    db.sql("select df.signal(%s, 'go')", victim)
    for relation in ("df.instances", "df.nodes", "df.vars", "df.signals", "df_engine.visible_scopes",
                     "df_engine.visible_executions", "df.waiting", "df.running_steps", "df.failed_steps"):  # fmt: skip
        assert attack(db, f"select count(*) from {relation}") == 0, relation
    for call in ("list_instances()", f"instance_nodes('{victim}')", f"instance_info('{victim}')",
                 f"instance_executions('{victim}')"):  # fmt: skip
        assert attack(db, f"select count(*) from df.{call}") == 0, call
    assert attack(db, "select df.status(%s)", victim) is None
    assert attack(db, "select df.result(%s)", victim) is None
    assert attack(db, "select df.getvar('secret')") is None
    assert "not found" in str(attack(db, "select df.explain(%s)", victim))


@pytest.mark.parametrize("call", ["signal(%s, 'go')", "cancel(%s)", "await_instance(%s)"])
def test_another_role_can_neither_signal_nor_cancel_nor_wait(db: Database, victim: str, call: str) -> None:
    before = snapshot(db, victim)
    with pytest.raises(REFUSED, match="not found"):
        attack(db, f"select df.{call}", victim)
    assert snapshot(db, victim) == before


@pytest.mark.parametrize(
    "statement",
    [
        "update df.instances set status = 'completed'",
        "update df.vars set value = 'mine'",
        "delete from df.vars",
        "select df.clearvars()",
        "select df.setvar('secret', 'mine')",
        "select df.unsetvar('secret')",
    ],
)
def test_writes_do_not_reach_other_roles_rows(db: Database, victim: str, statement: str) -> None:
    before = snapshot(db, victim)
    attack(db, statement)
    assert snapshot(db, victim) == before
    assert db.sql("select df.getvar('secret')") == "xyzzy"


@pytest.mark.parametrize(
    "statement",
    [
        "insert into df.instances (id, root_node, submitted_by) values ('00000001', '00000002', 'app'::regrole)",
        "insert into df.nodes (id, instance_id, node_type, query, submitted_by)"
        " values ('00000002', '{victim}', 'SQL', 'SELECT 1', 'app'::regrole)",
        "insert into df.vars (name, value, owner) values ('a', 'b', 'app'::regrole)",
        "insert into df_engine.ready (submitter, instance_id, node_id) values ('other'::regrole, '{victim}', '0')",
        "insert into df_engine.launches (launcher) values ('app'::regrole)",
        "select * from df_engine.inbox",
        "select * from df_engine.bindings",
        "select df_engine.lay_out('{victim}', '{{}}')",
        "select df_engine.launch('SELECT 1', null, null, null)",
    ],
)
def test_forged_rows_are_refused(db: Database, victim: str, statement: str) -> None:
    with pytest.raises(REFUSED):
        attack(db, statement.format(victim=victim))


@pytest.mark.parametrize(
    "statement",
    [
        "insert into df_engine.own_launches (launcher) values ('app'::regrole)",
        "insert into df_engine.visible_inbox (instance_id, signal_name, signal_data, sent_by)"
        " values ('{victim}', 'go', '1', 'other'::regrole)",
        "insert into df_engine.visible_inbox (instance_id, signal_name, signal_data, sent_by)"
        " values ('{victim}', 'go', '1', 'app'::regrole)",
    ],
)
def test_the_views_check_who_writes(db: Database, victim: str, statement: str) -> None:
    with pytest.raises(psycopg.errors.WithCheckOptionViolation):
        attack(db, statement.format(victim=victim))


def test_nodes_cannot_be_added_to_another_roles_run(db: Database, victim: str) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation, match="nodes_instance_identity_fkey"):
        attack(
            db,
            """insert into df.nodes (id, instance_id, node_type, query, submitted_by)
               values ('00000002', %s, 'SQL', 'SELECT 1', 'other'::regrole)""",
            victim,
        )


def test_users_can_execute_exactly_what_is_listed(db: Database) -> None:
    executable = db.rows(
        """select oid::regprocedure::text, prosecdef from pg_proc
           where pronamespace = 'df_engine'::regnamespace and has_function_privilege('other', oid, 'execute')""",
        user=None,
    )
    listed = {db.admin("select %s::regprocedure::text", routine) for routine in USER_ROUTINES}
    assert {name for name, _ in executable} == listed
    assert {name for name, definer in executable if definer} == set(DEFINER_FOR_USERS)


def test_users_can_reach_exactly_the_private_relations_that_are_listed(db: Database) -> None:
    reachable = db.rows(
        """select 'df_engine.' || relname from pg_class
           where relnamespace = 'df_engine'::regnamespace and relkind in ('r', 'v', 'S')
             and case relkind when 'S' then has_sequence_privilege('other', oid, 'usage, select, update')
                 else has_any_column_privilege('other', oid, 'select, insert, update')
                      or has_table_privilege('other', oid, 'delete, truncate') end""",
        user=None,
    )
    assert {name for (name,) in reachable} == {view for view in USER_VIEWS if view.startswith("df_engine.")}


KEY = "(select key from df_engine.own_key)"
NOT_THE_DRIVER = r"only df_engine\.work|invalid transaction termination"
DRIVER_CALLS = (
    "df_engine.claim_step({key}, {ready}, 0, false)",
    "df_engine.settle_step({key}, {ready}, '{run}', '{node}', '\"forged\"', null, null, null, null, null, null, now())",
    "df_engine.pass_on({key}, {ready}, '{run}', '{{{node}}}', '{node}', false, '\"forged\"', null, null, now(), null, "
    "null)",
    "df_engine.pass_on_group({key}, {ready}, '{run}', array[row('{{{node}}}', '\"forged\"', null, null, now(), now())]"
    "::df_engine.outcome[], null, false, null, null)",
)


@pytest.fixture
def driver_calls(db: Database, victim: str) -> list[str]:
    """What the driver calls for the victim's step, with a key as whoever evaluates it can read it."""
    ready, node = db.rows("select id, node_id from df_engine.ready where instance_id = %s", victim, user=None)[0]
    return [call.format(key=KEY, ready=ready, run=victim, node=node) for call in DRIVER_CALLS]


def test_the_drivers_functions_serve_nobody_elses_runs(db: Database, victim: str, driver_calls: list[str]) -> None:
    before = snapshot(db, victim)
    for call in driver_calls:
        db.sql(f"select {call}", user="other")
    assert snapshot(db, victim) == before


def test_acting_for_somebody_in_a_session_of_the_submitter_does_not_help(
    db: Database, victim: str, driver_calls: list[str]
) -> None:
    """The submitter calls a function that has the attacker's rights: the session is the submitter's, the key is not."""
    before = snapshot(db, victim)
    for statement in (*(f"perform {call}" for call in driver_calls), "call df_engine.work(1000, true, r)"):
        db.sql(f"""create or replace function public.trap() returns void language plpgsql security definer
                   as $$ declare r text; begin {statement}; end $$""", user="other")  # fmt: skip
        with nullcontext() if "pass_on" in statement else pytest.raises(psycopg.Error, match=NOT_THE_DRIVER):
            db.sql("select public.trap()")  # pass_on does nothing instead of raising
    assert snapshot(db, victim) == before


@pytest.mark.parametrize("key", ["null", "''", "md5('app')"])
def test_a_key_cannot_be_made_up(db: Database, driver_calls: list[str], key: str) -> None:
    with pytest.raises(REFUSED, match=r"only df_engine\.work"):
        db.sql(f"select {driver_calls[0].replace(KEY, key)}")


def test_a_key_is_its_readers_own(db: Database) -> None:
    keys = {user: db.sql("select key from df_engine.own_key", user=user) for user in ("app", "other")}
    assert len(set(keys.values())) == 2
    db.sql("""create function public.peek() returns text language sql security definer
              as $$ select key from df_engine.own_key $$""", user="other")  # fmt: skip
    assert db.sql("select public.peek()") == keys["other"]
    with pytest.raises(REFUSED):
        attack(db, "select value from df_engine.secret")


def test_a_worker_call_by_a_user_does_nothing_for_others(db: Database, victim: str) -> None:
    before = snapshot(db, victim)
    with db.connect("other") as conn:
        conn.execute("call df_engine.work(200, true, null)")
    assert snapshot(db, victim) == before


def test_only_workers_call_what_workers_call(db: Database) -> None:
    for call in ("df_engine.agenda(1)", "df_engine.retain()", "df_engine.fire_due(1)", "df_engine.register_worker(1)"):
        with pytest.raises(REFUSED):
            attack(db, f"select {call}")


def test_a_definer_function_submits_as_its_owner_and_set_role_as_the_role(db: Database) -> None:
    db.sql("""create function public.submit() returns text language sql security definer
              as $$ select df.start('SELECT current_user') $$""")
    run = attack(db, "select public.submit()")
    assert db.admin("select submitted_by::text from df.instances where id = %s", run) == "app"
    with db.connect() as conn:
        conn.execute("set role other")
        row = conn.execute("select df.start('SELECT 1')").fetchone()
    assert db.admin("select submitted_by::text from df.instances where id = %s", *row or ()) == "other"
