"""df.start: what it writes, whom it lets, and that it belongs to the caller's transaction."""

import re
from typing import Any

import psycopg
import pytest

from tests.state import LAID_OUT, QUEUED, RUNS_OF_GRAPHS, STORED, VARIABLES, WORK_IS_LEFT
from tests.support import Database

NODES = """select node_type, query, result_name, left_node, right_node, retry_policy, id
    from df.nodes where instance_id = %s order by node_type desc, query"""


def test_a_start_is_a_run_with_its_nodes_and_a_step_that_is_queued(app: Database) -> None:
    started = app.sql("select df.start('a' ~> df.retry('b', 3) |=> 'x', 'nightly', current_database())")
    assert re.fullmatch("[0-9a-f]{8}", started)
    instance = app.sql("select to_jsonb(i) from df.instances i")
    expected = {"id": started, "label": "nightly", "status": "pending", "submitted_by": "app",
                "database": app.name, "error": None, "finished_at": None}  # fmt: skip
    assert {key: instance[key] for key in expected} == expected
    root, left, right = app.rows(NODES, started)
    assert root == ("THEN", None, "x", left[6], right[6], None, instance["root_node"])
    assert left[:6] == ("SQL", "a", None, None, None, None)
    assert right[:6] == ("SQL", "b", None, None, None, {"max_attempts": 3})
    assert [row[3] for row in app.rows(QUEUED, started, user=None)] == [2]
    assert app.rows("select distinct submitted_by::text, database, status from df.nodes") == [
        ("app", app.name, "pending")
    ]


def test_children_without_a_column_are_in_the_query(app: Database) -> None:
    app.sql("select df.start(df.if('c', df.join3('1', '2', '3'), df.loop('b', 'w')))")
    ids = dict(app.rows("select query, id from df.nodes where node_type = 'SQL'"))
    config = dict(app.rows("select node_type, query::jsonb from df.nodes where node_type <> 'SQL'"))
    assert config == {"IF": {"condition_node": ids["c"]}, "JOIN": {"extra_nodes": [ids["3"]]},
                      "LOOP": {"condition_node": ids["w"]}}  # fmt: skip


def test_merges_the_condition_into_an_existing_object(app: Database) -> None:
    graph = '{"node_type":"LOOP","left_node":%s,"condition_node":%s,"query":" { \\"a\\": {\\"b\\":1} } "}'
    sql = '{"node_type":"SQL","query":"a"}'
    app.sql("select df.start(%s)", graph % (sql, sql))
    assert app.sql("select query::jsonb - 'condition_node' from df.nodes where node_type = 'LOOP'") == {"a": {"b": 1}}


def laid_out(app: Database, flow: str) -> list[tuple[Any, ...]]:
    return app.rows(LAID_OUT, app.sql(f"select df.start({flow})"), user=None)


def test_nodes_are_laid_out_in_pre_order_with_their_paths_and_scopes(app: Database) -> None:
    rows = laid_out(app, "'a' ~> df.loop(df.join3('x', @> 'y', 'z' ~> df.loop('v')), 'c')")
    assert [row[:3] for row in rows] == [
        ("root", "THEN", None),
        ("root.left", "SQL", None),
        ("root.right", "LOOP", "root.right"),
        ("root.right.left", "JOIN", "root.right"),
        ("root.right.left.left", "SQL", "root.right.left.left"),
        ("root.right.left.right", "LOOP", "root.right.left.right"),
        ("root.right.left.right.left", "SQL", "root.right.left.right"),
        ("root.right.left.extra_nodes[0]", "THEN", "root.right.left.extra_nodes[0]"),
        ("root.right.left.extra_nodes[0].left", "SQL", "root.right.left.extra_nodes[0]"),
        ("root.right.left.extra_nodes[0].right", "LOOP", "root.right.left.extra_nodes[0].right"),
        ("root.right.left.extra_nodes[0].right.left", "SQL", "root.right.left.extra_nodes[0].right"),
        ("root.right.condition_node", "SQL", "root.right"),
    ]


def test_what_a_node_ends_and_what_follows_it_are_laid_out(app: Database) -> None:
    rows = laid_out(app, "df.loop('c' ?> ('a' ~> 'b') !> 'd', 'w')")
    assert [(row[0], *row[3:]) for row in rows if row[1] == "SQL"] == [
        ("root.left.condition_node", "c", "root.left.left.left", "root.left.right", 0),
        ("root.left.left.left", "n", "root.left.left.right", None, 0),
        ("root.left.left.right", "v", "root.condition_node", None, 2),
        ("root.left.right", "v", "root.condition_node", None, 1),
        ("root.condition_node", "w", "root.left.condition_node", None, 0),
    ]


def test_a_loop_at_the_root_belongs_to_the_root_scope(app: Database) -> None:
    assert {row[2] for row in laid_out(app, "@> ('a' ~> 'b')")} == {None}


def test_a_graph_is_compiled_once_for_each_role(app: Database) -> None:
    for user, flow in (("app", "a"), ("app", "a"), ("other", "a"), ("app", "b")):
        app.sql("select df.start(%s)", flow, user=user)
    assert sorted(count for (count,) in app.rows(RUNS_OF_GRAPHS, user=None)) == [1, 1, 2]


def test_freezes_the_callers_variables(app: Database) -> None:
    app.sql("select df.setvar('theirs', 'x')", user="other")
    app.sql("select df.setvar('a', '1'), df.setvar('sys_label', 'fake'), df.setvar('sys_instance_id', 'fake')")
    started = app.sql("select df.start('select {a}')")
    app.sql("select df.setvar('a', '2')")
    assert app.admin(VARIABLES, started) == {"a": "1", "sys_instance_id": started, "sys_label": ""}
    labelled = app.sql("select df.start('x', 'L')")
    assert app.admin(VARIABLES, labelled)["sys_label"] == "L"


def test_a_graph_without_placeholders_keeps_no_variables(app: Database) -> None:
    app.sql("select df.setvar('a', '1')")
    started = app.sql("select df.start('x')")
    assert app.admin(VARIABLES, started) == {"sys_instance_id": started, "sys_label": ""}


def test_a_rollback_leaves_no_trace(app: Database) -> None:
    with app.connect("app") as conn:
        conn.execute("begin")
        conn.execute("savepoint s")
        row = conn.execute("select df.start('a')").fetchone()
        conn.execute("rollback to s")
        conn.execute("commit")
    assert row
    assert app.rows(STORED, *row, user=None) == []
    assert app.admin(WORK_IS_LEFT) is False


REFUSED = [
    ("df.start('a', transaction_mode => 'later')", "22023", "invalid transaction_mode"),
    ("df.start('{\"node_type\":\"X\"}', transaction_mode => '')", "22023", "invalid transaction_mode"),
    ("df.start('{\"node_type\":\"X\"}', database => 'nowhere')", "22P02", "Invalid durable function: "),
    ("df.start('a', database => 'nowhere')", "3D000", 'database "nowhere" does not exist'),
    ("df.start(df.seq('a', '{\"node_type\":\"X\"}') |=> 'y', database => 'nowhere')", "3D000", "nowhere"),
    ("df.start(null)", "22004", "fut"),
    ("df.start('a', transaction_mode => null)", "22004", "transaction_mode"),
]


@pytest.mark.parametrize(("call", "code", "fragment"), REFUSED)
def test_refused(app: Database, call: str, code: str, fragment: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        app.sql(f"select {call}")
    assert (caught.value.sqlstate, fragment in str(caught.value)) == (code, True)


@pytest.mark.parametrize("mode", ["caller", "CALLER", "Caller"])
def test_the_mode_ignores_case(app: Database, mode: str) -> None:
    assert app.sql("select df.start('a', transaction_mode => %s)", mode)


def as_role(db: Database, attributes: str, *statements: str) -> Any:
    """What the last statement returns for a new role with these attributes, taken on with SET ROLE."""
    db.admin("drop role if exists stranger")
    db.admin(f"create role stranger {attributes}")
    with db.connect() as conn:
        try:
            for statement in statements:
                cursor = conn.execute(statement.encode())
            return cursor.fetchone()
        finally:
            conn.execute("reset role")
            conn.execute("drop owned by stranger")
            conn.execute("drop role stranger")


START = "select df.start('a')"


def test_a_role_without_grants_is_told_so(app: Database) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="stranger") as caught:
        as_role(app, "login", "grant usage on schema df to stranger", "set role stranger", START)
    assert "df.grant_usage" in str(caught.value.diag.message_hint)


def test_the_submitter_needs_login(app: Database) -> None:
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="LOGIN"):
        as_role(app, "nologin", "select df.grant_usage('stranger')", "set role stranger", START)


def test_superusers_need_a_setting(app: Database) -> None:
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="enable_superuser_instances"):
        app.admin(START)
    app.admin("select df.set_setting('enable_superuser_instances', 'on')")
    assert app.admin(START)


def test_the_submitter_is_the_effective_user_whatever_its_name(app: Database) -> None:
    app.admin('drop role if exists "Mixed "" Name"')
    app.admin('create role "Mixed "" Name" login')
    app.admin("select df.grant_usage(%s)", 'Mixed " Name')
    try:
        with app.connect() as conn:
            conn.execute('set role "Mixed "" Name"')
            conn.execute("select df.setvar('a', '1')")
            conn.execute(START)
            rows = conn.execute("select submitted_by = quote_ident(current_user)::regrole from df.nodes").fetchall()
            assert rows == [(True,)]
    finally:
        app.admin('drop owned by "Mixed "" Name"')
        app.admin('drop role "Mixed "" Name"')


def test_there_is_one_start_whose_first_four_arguments_are_the_original_ones(db: Database) -> None:
    assert db.rows("""select proargnames::text, pronargs, prosecdef from pg_proc
        where pronamespace = 'df'::regnamespace and proname = 'start'""", user=None) == [
        ("{fut,label,database,transaction_mode,input,key,on_conflict,start_at,priority}", 9, False)]  # fmt: skip
