"""df.start: what it writes, whom it lets, and that it belongs to the caller's transaction."""

import re
from typing import Any

import psycopg
import pytest

from tests.support import Database

NODES = """select node_type, query, result_name, left_node, right_node, retry_policy, _parent, _scope, id
    from df.nodes where instance_id = %s order by ctid"""


def test_writes_the_instance_its_nodes_and_one_ready_row(app: Database) -> None:
    started = app.sql("select df.start('a' ~> df.retry('b', 3) |=> 'x', 'nightly', current_database())")
    assert re.fullmatch("[0-9a-f]{8}", started)
    instance = app.admin("select to_jsonb(i) from df.instances i")
    expected = {"id": started, "label": "nightly", "status": "pending", "_state": "pending", "submitted_by": "app",
                "_submitter": "app", "database": app.name, "error": None, "finished_at": None}  # fmt: skip
    assert {key: instance[key] for key in expected} == expected
    root, left, right = app.rows(NODES, started, user=None)
    assert root == ("THEN", None, "x", left[8], right[8], None, None, None, instance["root_node"])
    assert left[:8] == ("SQL", "a", None, None, None, None, root[8], None)
    assert right[:8] == ("SQL", "b", None, None, None, {"max_attempts": 3}, root[8], None)
    assert app.rows("select instance_id, node_id, submitter::regrole::text from df_engine.ready", user=None) == [
        (started, left[8], "app")
    ]
    assert app.rows("select distinct submitted_by::text, database, status from df.nodes") == [
        ("app", app.name, "pending")
    ]


def test_materialises_children_that_have_no_column(app: Database) -> None:
    started = app.sql("select df.start(df.if('c', df.join3('1', '2', '3'), df.loop('b', 'w')))")
    rows = {row[0] + (row[1] or ""): row for row in app.rows(NODES, started, user=None) if row[0] == "SQL"}
    config = dict(app.rows("select node_type, query::jsonb from df.nodes where node_type <> 'SQL'"))
    assert config == {"IF": {"condition_node": rows["SQLc"][8]}, "JOIN": {"extra_nodes": [rows["SQL3"][8]]},
                      "LOOP": {"condition_node": rows["SQLw"][8]}}  # fmt: skip


def test_merges_the_condition_into_an_existing_object(app: Database) -> None:
    graph = '{"node_type":"LOOP","left_node":%s,"condition_node":%s,"query":" { \\"a\\": {\\"b\\":1} } "}'
    sql = '{"node_type":"SQL","query":"a"}'
    app.sql("select df.start(%s)", graph % (sql, sql))
    assert app.sql("select query::jsonb - 'condition_node' from df.nodes where node_type = 'LOOP'") == {"a": {"b": 1}}


def test_nodes_are_laid_out_in_pre_order_with_their_paths_and_scopes(app: Database) -> None:
    graph = "'a' ~> df.loop(df.join3('x', @> 'y', 'z' ~> df.loop('v')), 'c')"
    rows = app.rows(f"""with n as (select * from df_engine.graph_nodes(df_engine.parse_graph({graph})))
        select n.path, n.node_type, s.path from n left join n s on s.id = n.scope order by n.ord""")
    assert rows == [
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
    rows = app.rows("""
        with n as (
          select * from df_engine.graph_nodes(df_engine.parse_graph(df.loop('c' ?> ('a' ~> 'b') !> 'd', 'w'))))
        select n.path,
               array(select e.path from unnest(n.ends) with ordinality u(id, place) join n e using (id) order by place),
               (select f.path from n f where f.id = n.next)
        from n order by n.ord""")
    assert rows == [
        ("root", [], None),
        ("root.left", [], "root.condition_node"),
        ("root.left.condition_node", [], None),
        ("root.left.left", ["root.left"], "root.left.left.left"),
        ("root.left.left.left", [], "root.left.left.right"),
        ("root.left.left.right", ["root.left.left", "root.left"], "root.condition_node"),
        ("root.left.right", ["root.left"], "root.condition_node"),
        ("root.condition_node", [], None),
    ]


def test_a_loop_at_the_root_belongs_to_the_root_scope(app: Database) -> None:
    assert app.sql("select count(scope) from df_engine.graph_nodes(df_engine.parse_graph(@> ('a' ~> 'b')))") == 0


def test_freezes_the_callers_variables(app: Database) -> None:
    app.sql("select df.setvar('theirs', 'x')", user="other")
    app.sql("select df.setvar('a', '1'), df.setvar('sys_label', 'fake'), df.setvar('sys_instance_id', 'fake')")
    app.sql("insert into df.vars(name, value) values ('nothing', null)")
    started = app.sql("select df.start('x')")
    app.sql("select df.setvar('a', '2')")
    assert app.admin("select _vars from df.instances") == {"a": "1", "sys_instance_id": started, "sys_label": ""}
    labelled = app.sql("select df.start('x', 'L')")
    assert app.admin("select _vars ->> 'sys_label' from df.instances where id = %s", labelled) == "L"


def test_a_rollback_leaves_no_trace(app: Database) -> None:
    with app.connect("app") as conn:
        conn.execute("begin")
        conn.execute("savepoint s")
        conn.execute("select df.start('a')")
        conn.execute("rollback to s")
        conn.execute("commit")
    assert app.admin("select (select count(*) from df.nodes) + (select count(*) from df_engine.ready)") == 0


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


@pytest.mark.parametrize("forged", [
    "insert into df_engine.own_instances (id, root_node, submitted_by, _submitter, _state, _vars)"
    " values ('00000001', '00000001', 'other', 'other', 'pending', '{}')",
    "insert into df_engine.own_instances (id, root_node, submitted_by, _submitter, _state, _vars)"
    " values ('00000001', '00000001', 'app', 'other', 'pending', '{}')",
    "insert into df_engine.own_instances (id, root_node, submitted_by, _submitter, _state, _vars)"
    " values ('00000001', '00000001', 'app', 'app', 'completed', '{}')",
    "insert into df_engine.own_instances (id, root_node, submitted_by, _submitter, _state, _vars)"
    " values ('00000001', '00000001', 'app', 'app', 'pending', '[]')",
])  # fmt: skip
def test_the_view_lets_nobody_write_for_others(app: Database, forged: str) -> None:
    with pytest.raises(psycopg.errors.WithCheckOptionViolation):
        app.sql(forged)


def test_there_is_one_start_whose_first_four_arguments_are_the_original_ones(db: Database) -> None:
    assert db.rows("""select proargnames::text, pronargs, prosecdef from pg_proc
        where pronamespace = 'df'::regnamespace and proname = 'start'""", user=None) == [
        ("{fut,label,database,transaction_mode,input}", 5, False)]  # fmt: skip
