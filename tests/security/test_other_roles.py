"""One ordinary role against another: `other` attacks what `app` owns, through every door it can reach."""

from contextlib import nullcontext, suppress
from itertools import product

import psycopg
import pytest

from generator.render import granted
from tests.state import PRIVATE_TABLES, QUEUED, RACES_LOCKED, STORED, WAITING
from tests.support import Database, Pump

REFUSED = psycopg.errors.InsufficientPrivilege

NEEDS_THE_KEY = "needs the key of the role that it acts for"

# Definer functions that users can call, and why that is harmless.
DEFINER_FOR_USERS = {
    "df_engine.claim_step": NEEDS_THE_KEY,
    "df_engine.prepare_step": NEEDS_THE_KEY,
    "df_engine.record_step": NEEDS_THE_KEY,
    "df_engine.fail_step": NEEDS_THE_KEY,
    "df_engine.insert_instance": NEEDS_THE_KEY,
    "df_engine.changed_runs": NEEDS_THE_KEY,
    "df_engine.ended_runs": NEEDS_THE_KEY,
    "df_engine.start_keyed": NEEDS_THE_KEY,
    "df_engine.define_flow": NEEDS_THE_KEY,
    "df_engine.hide_definition": NEEDS_THE_KEY,
    "df_engine.put_limit": NEEDS_THE_KEY,
    "df_engine.put_schedule": NEEDS_THE_KEY,
    "df_engine.remove_schedule": NEEDS_THE_KEY,
    "df_engine.pause_schedule": NEEDS_THE_KEY,
    "df_engine.resume_schedule": NEEDS_THE_KEY,
    "df_engine.trigger_schedule": NEEDS_THE_KEY,
    "df_engine.backfill": NEEDS_THE_KEY,
    "df_engine.change_vars": NEEDS_THE_KEY,
    "df_engine.change_secret": NEEDS_THE_KEY,
    "df_engine.cancel_run": NEEDS_THE_KEY,
    "df_engine.pause_run": NEEDS_THE_KEY,
    "df_engine.pause_runs_of": NEEDS_THE_KEY,
    "df_engine.resume_runs_of": NEEDS_THE_KEY,
    "df_engine.resume_run": NEEDS_THE_KEY,
    "df_engine.rerun": NEEDS_THE_KEY,
    "df_engine.skip": NEEDS_THE_KEY,
    "df_engine.forget_run": NEEDS_THE_KEY,
    "df_engine.send_signal": NEEDS_THE_KEY,
    "df_engine.add_end_channel": NEEDS_THE_KEY,
    "df_engine.launch": NEEDS_THE_KEY,
    "df_engine.page_of_instances": NEEDS_THE_KEY,
    "df_engine.fire_own": NEEDS_THE_KEY,
    "df_engine.begin_test": NEEDS_THE_KEY,
    "df_engine.next_in_test": NEEDS_THE_KEY,
    "df_engine.end_step_in_test": NEEDS_THE_KEY,
    "df_engine.end_test": NEEDS_THE_KEY,
    "df_engine.now_in_test": "tells the time of the test that this transaction runs",
    "df_engine.deferred_constraints": "tells names of the catalog that everybody reads",
    "df_engine.claim_next": "locks a row of session_user, tells nothing",
    "df_engine.lock_own_run": "locks a run of session_user, tells whether it goes on",
    "df_engine.wake_idle_workers": "notifies workers that say they are idle",
    "df_engine.group_limit": "tells how many steps may share a transaction",
    "df_engine.cron_next": "computes",
    "df_engine.flow_comments": "computes",
    "df_engine.flow_layout": "computes",
    "df_engine.setting": "reads settings, but not loopback_dsn",
}


@pytest.fixture
def victim(db: Database) -> str:
    """A pending run of app."""
    db.sql("select df.setvar('secret', 'xyzzy')")
    return str(db.sql("select df.start('SELECT ''{secret}''' |=> 'x' ~> df.wait_for_signal('go'), 'private')"))


def attack(db: Database, query: str, *args: object) -> object:
    return db.sql(query, *args, user="other")


def snapshot(db: Database, run: str) -> list[tuple[object, ...]]:
    return db.rows(STORED, run, user=None)


def test_another_role_sees_nothing(db: Database, victim: str) -> None:
    db.sql("select df.signal(%s, 'go'), df.define('private', 'select 1')", victim)
    db.sql("select df.schedule('private', '* * * * *', 'select 1'), df.trigger_schedule('private')")
    db.sql("select df.set_limit('private', 1, 5, '1 minute')")
    views = [f"df_engine.{view}" for view in granted()["granted_views"]["users"] if view.startswith("visible_")]
    assert len(views) >= 4
    for relation in (*views, "df.instances", "df.nodes", "df.vars", "df.signals", "df.waiting", "df.running_steps",
                     "df.failed_steps", "df.definitions", "df.schedules", "df.schedule_ticks",
                     "df.queue", "df.blocked_steps", "df.limits"):  # fmt: skip
        assert attack(db, f"select count(*) from {relation}") == 0, relation
    for call in ("list_instances()", f"instance_nodes('{victim}')", f"instance_info('{victim}')",
                 f"instance_executions('{victim}')"):  # fmt: skip
        assert attack(db, f"select count(*) from df.{call}") == 0, call
    assert attack(db, "select count(*) from df.stuck('0 s')") == 0
    assert attack(db, "select count(instance_id) from df.changes((select mark from df.changes()))") == 0
    assert attack(db, "select df.status(%s)", victim) is None
    assert attack(db, "select df.result(%s)", victim) is None
    assert attack(db, "select df.getvar('secret')") is None
    assert "not found" in str(attack(db, "select df.explain(%s)", victim))


@pytest.mark.parametrize(
    "call",
    [
        "signal(%s, 'go')",
        "cancel(%s)",
        "await_instance(%s)",
        "timeline(%s)",
        "notify_end(%s, 'c')",
        "svg(%s)",
        "mermaid(%s)",
    ],
)
def test_another_role_can_neither_signal_nor_cancel_nor_wait(db: Database, victim: str, call: str) -> None:
    before = snapshot(db, victim)
    with pytest.raises(REFUSED, match="not found"):
        attack(db, f"select df.{call}", victim)
    assert snapshot(db, victim) == before


@pytest.mark.parametrize(
    "statement",
    [
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


VIEWS = ("df.instances", "df.nodes", "df.vars", "df.signals", "df.settings", "df.http_allowlist", "df._worker_epoch",
         *(f"df_engine.{view}" for view in granted()["granted_views"]["users"]))  # fmt: skip


@pytest.mark.parametrize("view", VIEWS)
def test_nobody_writes_through_a_view(db: Database, victim: str, view: str) -> None:
    """Not even those who may write all data, nor the owner."""
    db.admin("create role all_writer login; grant pg_write_all_data, pg_read_all_data to all_writer")
    try:
        db.admin("select df.grant_usage('all_writer')")
        before = snapshot(db, victim)
        column = db.admin(f"select attname from pg_attribute where attrelid = '{view}'::regclass and attnum = 1")
        for user in ("app", "other", "all_writer", None):
            for statement in (f"insert into {view} select * from {view}",
                              f"insert into {view} ({column}) values (null)",
                              f"update {view} set {column} = {column}", f"delete from {view}"):  # fmt: skip
                with pytest.raises(REFUSED):
                    with db.connect(user) as conn:
                        conn.execute(statement.encode())
                    raise REFUSED("it has no row that could be written")  # and so no trigger was asked
        assert snapshot(db, victim) == before
    finally:
        db.admin("drop owned by all_writer; drop role all_writer")


def test_who_may_read_and_write_all_data_finds_no_private_rows(db: Database, victim: str) -> None:
    db.admin("create role all_writer login; grant pg_write_all_data, pg_read_all_data to all_writer")
    try:
        before = snapshot(db, victim)
        with db.connect("all_writer") as conn:
            for (table,) in db.rows(PRIVATE_TABLES, user=None):
                assert conn.execute(f"select from {table}".encode()).rowcount == 0, table
                assert conn.execute(f"delete from {table}".encode()).rowcount == 0, table
        assert snapshot(db, victim) == before
    finally:
        db.admin("drop role all_writer")


def test_private_tables_have_row_security_and_no_policy_and_no_grant(db: Database) -> None:
    tables = db.rows(
        """select relname, relrowsecurity, exists (select from pg_policy p where p.polrelid = c.oid),
                  exists (select from aclexplode(relacl) a where a.grantee <> relowner)
           from pg_class c where relnamespace = 'df_engine'::regnamespace and relkind = 'r'""",
        user=None,
    )
    assert {(name, *rest) for name, *rest in tables} == {(name, True, False, False) for name, *_ in tables}
    assert len(tables) > 15


@pytest.mark.parametrize("relation", ["instances", "queue", "inbox", "bindings", "outcomes", "secret"])
def test_private_tables_are_closed(db: Database, relation: str) -> None:
    for statement in (f"select from df_engine.{relation}", f"delete from df_engine.{relation}",
                      f"insert into df_engine.{relation} default values"):  # fmt: skip
        with pytest.raises(REFUSED):
            attack(db, statement)


def test_users_can_execute_exactly_what_is_marked(db: Database) -> None:
    executable = db.rows(
        """select 'df_engine.' || proname, prosecdef from pg_proc
           where pronamespace = 'df_engine'::regnamespace and has_function_privilege('other', oid, 'execute')""",
        user=None,
    )
    assert {name for name, _ in executable} == {f"df_engine.{name}" for name in granted()["granted_routines"]["users"]}
    assert {name for name, definer in executable if definer} == set(DEFINER_FOR_USERS)


def test_users_can_reach_exactly_the_private_relations_that_are_marked(db: Database) -> None:
    reachable = db.rows(
        """select relname from pg_class
           where relnamespace = 'df_engine'::regnamespace and relkind in ('r', 'v', 'S')
             and case relkind when 'S' then has_sequence_privilege('other', oid, 'usage, select, update')
                 else has_any_column_privilege('other', oid, 'select, insert, update')
                      or has_table_privilege('other', oid, 'delete, truncate') end""",
        user=None,
    )
    assert {name for (name,) in reachable} == set(granted()["granted_views"]["users"])


OTHER = "'other'::regrole"
KEY = "(select key from df_engine.own_key)"
NO_KEY = (
    "called by the functions of df only|no test is under way|df.test has not ended|invalid transaction termination"
    "|within security-definer function"
)
THREAD = "row({instance}, 0, {node}, null, null, null)::df_engine.thread"
STEP = (
    "row({node}, 'pg_durable:{run}:0', 'select 1', 'query', false, null, false, '{{0}}', 'e', '{{x}}', 0, false, "
    "false, false, false, false)::df_engine.step"
)
FORGED = "{key}, '{run}', {graph}, {queue}, " + THREAD + ", " + STEP
DRIVER_CALLS = (
    "df_engine.claim_step({key}, {queue}, 0, false)",
    f"df_engine.record_step({FORGED}, row('\"forged\"', null, null)::df_engine.result, now(), false)",
    f"df_engine.fail_step({FORGED}, 'XX000', 'forged', null, null, false, now())",
    f"df_engine.fail_step({FORGED}, '57014', 'forged', null, null, false, now())",
    f"df_engine.prepare_step({{key}}, {{graph}}, {THREAD}, {STEP})",
    "df_engine.insert_instance({key}, 'app'::regrole, 'select 1', null, null, null)",
    "df_engine.begin_test({key}, 'select 1', null, null)",
    "df_engine.next_in_test({key}, 1)",
    f"df_engine.end_step_in_test({{key}}, row(null, {{queue}}, null, '{{run}}', {{graph}}, {THREAD}, null)"
    f"::df_engine.place, {STEP}, row('1', null, null)::df_engine.result, null, null, null, null)",
    "df_engine.end_test({key})",
    "df_engine.change_vars({key}, 'app'::regrole, 'secret', 'forged')",
    "df_engine.change_vars({key}, 'app'::regrole, null, null, true)",
    "df_engine.cancel_run({key}, 'app'::regrole, {instance}, 'forged', false)",
    "df_engine.pause_run({key}, 'app'::regrole, {instance}, 'forged')",
    "df_engine.pause_runs_of({key}, 'app'::regrole, 'app', 'forged')",
    "df_engine.resume_runs_of({key}, 'app'::regrole, 'app')",
    "df_engine.resume_run({key}, 'app'::regrole, {instance}, null)",
    "df_engine.rerun({key}, 'app'::regrole, {instance}, null)",
    "df_engine.skip({key}, 'app'::regrole, {instance}, {node}, null, null)",
    "df_engine.forget_run({key}, 'app'::regrole, {instance})",
    "df_engine.send_signal({key}, 'app'::regrole, {instance}, 'go', '1')",
    "df_engine.add_end_channel({key}, 'app'::regrole, {instance}, 'forged')",
    "df_engine.page_of_instances({key}, 'app'::regrole, null, null, null, null, 9)",
    "df_engine.launch({key}, '{{}}')",
    "df_engine.start_keyed({key}, 'app'::regrole, 'select 1', null, null, null, null, 0, 'k', 'return')",
    "df_engine.define_flow({key}, 'app'::regrole, 'app'::regrole, 'd', 'select 1', null)",
    "df_engine.hide_definition({key}, 'app'::regrole, 'app'::regrole, 'd')",
    "df_engine.put_schedule({key}, 'app'::regrole, 's', '* * * * *', 'select 1', null, null, 'skip', '0', '0')",
    "df_engine.remove_schedule({key}, 'app'::regrole, 'app'::regrole, 's')",
    "df_engine.pause_schedule({key}, 'app'::regrole, 'app'::regrole, 's', 'forged')",
    "df_engine.resume_schedule({key}, 'app'::regrole, 'app'::regrole, 's')",
    "df_engine.trigger_schedule({key}, 'app'::regrole, 'app'::regrole, 's')",
    "df_engine.backfill({key}, 'app'::regrole, 'app'::regrole, 's', now(), now())",
)
# These do nothing instead of raising where the session is not of the submitter.
QUIET = ("claim_step", "record_step", "fail_step")


def calls(db: Database, victim: str, key: str) -> list[str]:
    """What the functions of df call for the victim's run."""
    instance, graph, queue, node, _ = db.rows(QUEUED, victim, user=None)[0]
    named = {"key": key, "run": victim, "instance": instance, "graph": graph, "queue": queue, "node": node}
    return [call.format(**named) for call in DRIVER_CALLS]


def everything(db: Database, victim: str) -> list[tuple[object, ...]]:
    """What is stored of the run, the variables of its submitter, and how many runs there are."""
    rest = "select (select count(*) from df.instances), (select jsonb_agg(to_jsonb(v) order by name) from df.vars v)"
    return snapshot(db, victim) + db.rows(rest, user=None)


def test_the_drivers_functions_serve_nobody_elses_runs(db: Database, victim: str) -> None:
    before = everything(db, victim)
    for call in calls(db, victim, KEY):
        quiet = any(name in call for name in QUIET)
        with nullcontext() if quiet else pytest.raises(psycopg.Error, match=f"{NO_KEY}|needs the extension dblink"):
            db.sql(f"select {call}", user="other")
    assert everything(db, victim) == before


@pytest.mark.parametrize(
    "call",
    [
        "cancel_run({}, {}, {}, 'forged', true)", "pause_run({}, {}, {}, 'forged')", "resume_run({}, {}, {}, null)",
        "rerun({}, {}, {}, null)", "skip({}, {}, {}, 1, null, null)",
        "forget_run({}, {}, {})", "send_signal({}, {}, {}, 'go', '1')",
        "add_end_channel({}, {}, {}, 'forged')",
    ],
)  # fmt: skip
def test_a_key_of_ones_own_opens_nobody_elses_runs(db: Database, victim: str, call: str) -> None:
    before = everything(db, victim)
    instance = db.rows(QUEUED, victim, user=None)[0][0]
    with pytest.raises(REFUSED, match="belongs to another role"):
        attack(db, f"select df_engine.{call.format(KEY, OTHER, instance)}")
    assert everything(db, victim) == before


@pytest.mark.parametrize("key", ["null", "''", "md5('app')", KEY])
def test_roles_that_are_nobody_have_no_key(db: Database, victim: str, key: str) -> None:
    before = everything(db, victim)
    for call in calls(db, victim, key):
        nobody = call.replace("'app'::regrole", "null")
        if nobody != call:
            with pytest.raises(REFUSED, match=NO_KEY):
                db.sql(f"select {nobody}", user="other")
    assert everything(db, victim) == before


def test_acting_for_somebody_in_a_session_of_the_submitter_does_not_help(db: Database, victim: str) -> None:
    """The submitter calls a function that has the attacker's rights: the session is the submitter's, the key is not."""
    before = everything(db, victim)
    for statement in (*(f"perform {call}" for call in calls(db, victim, KEY)), "call df_engine.work(1000, true, r)"):
        db.sql(f"""create or replace function public.trap() returns void language plpgsql security definer
                   as $$ declare r text; begin {statement}; end $$""", user="other")  # fmt: skip
        with pytest.raises(psycopg.Error, match=NO_KEY):
            db.sql("select public.trap()")
    assert everything(db, victim) == before


@pytest.mark.parametrize("key", ["null", "''", "md5('app')"])
def test_a_key_cannot_be_made_up(db: Database, victim: str, key: str) -> None:
    before = everything(db, victim)
    for user in ("app", "other"):
        for call in calls(db, victim, key):
            with pytest.raises(REFUSED, match=NO_KEY):
                db.sql(f"select {call}", user=user)
    assert everything(db, victim) == before


@pytest.fixture
def racing(db: Database) -> tuple[str, int]:
    """A run of app with an open RACE, and that."""
    run = str(db.sql("select df.start(df.wait_for_signal('a') | df.wait_for_signal('b'))"))
    pump = Pump(db)
    pump.work()
    pump.close()
    return run, db.admin(f"select distinct activation from ({WAITING}) w", run)


def test_a_role_that_forges_its_own_runs_reaches_nobody_elses(
    db: Database, racing: tuple[str, int], victim: str
) -> None:
    """With its own key, for its own run: a thread in another role's construct, steps of another role's graph."""
    race, activation = racing
    run = str(attack(db, "select df.start(df.loop('select 1', 'select false'))"))
    attack(db, f"select df_engine.claim_step({KEY}, null, 0, false)")  # enters the loop
    instance, graph, queue, _, _ = db.rows(QUEUED, run, user=None)[0]
    foreign = db.rows(QUEUED, victim, user=None)[0][1]
    theirs = db.admin(f"select distinct instance from ({WAITING}) w", race)
    before = [snapshot(db, run) for run in (victim, race)]
    with db.connect("other", autocommit=False) as conn:
        for node in (1, 2, 3):
            for of in (graph, foreign):
                for whose, races in product((instance, theirs), ("null", f"array[{activation}]")):
                    thread = f"row({whose}, 0, {node}, null, {activation}, {races})::df_engine.thread"
                    step = STEP.format(node=node, run=run).replace("'{0}', 'e'", "'{0}', 't'")
                    forged = f"{KEY}, '{run}', {of}, {queue}, {thread}, {step}"
                    for call in (f"record_step({forged}, row('1', null, null)::df_engine.result, now(), false)",
                                 f"fail_step({forged}, 'XX000', 'x', null, null, false, now())"):  # fmt: skip
                        conn.execute("savepoint s")
                        with suppress(psycopg.Error):
                            row = conn.execute(f"select df_engine.{call}::text".encode()).fetchone()
                            assert "secret" not in str(row)
                        db.admin(f"begin; {RACES_LOCKED}; rollback")
                        assert [snapshot(db, run) for run in (victim, race)] == before
                        conn.execute("rollback to s")


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
    for call in (
        "df_engine.work_list(1)",
        "df_engine.retain()",
        "df_engine.fire_due(1)",
        "df_engine.register_worker()",
    ):
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
