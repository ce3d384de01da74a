"""Tables of the contract: columns, constraints, indexes, times, and rows written by hand."""

import psycopg
import pytest

from tests.support import Database

COLUMNS = {
    "instances": """id varchar(8) not null, label text, root_node varchar(8) not null, status text,
        submitted_by regrole not null, database text, created_at timestamptz not null, updated_at timestamptz,
        completed_at timestamptz, finished_at timestamptz, error text, wait_reason text, input jsonb""",
    "nodes": """id varchar(8) not null, instance_id varchar(8) not null, node_type text not null, query text,
        result_name text, left_node varchar(8), right_node varchar(8), status text, result jsonb, error text,
        submitted_by regrole, database text, created_at timestamptz, updated_at timestamptz, status_details jsonb,
        result_columns text[], retry_policy jsonb, attempts integer not null, started_at timestamptz,
        completed_at timestamptz""",
    "vars": "name text not null, value text, owner regrole not null",
    "settings": "name text not null, value text not null, description text not null",
    "http_allowlist": "pattern text not null, allow_private boolean not null, note text",
    "signals": """signal_id bigint, instance_id varchar(8), signal_name text, signal_data jsonb, status text,
        sent_by regrole, sent_at timestamptz, delivered_at timestamptz, delivered_to text[]""",
}

# name -> (definition, deferred), as PostgreSQL prints it
KEYS = {
    "instances_pkey": ("PRIMARY KEY (id)", False),
    "instances_identity_key": ("UNIQUE (id, submitted_by)", False),
    "instances_root_node_same_instance_fkey": (
        "FOREIGN KEY (id, root_node) REFERENCES df.nodes(instance_id, id) DEFERRABLE INITIALLY DEFERRED", True),
    "nodes_pkey": ("PRIMARY KEY (instance_id, id)", False),
    "nodes_instance_identity_fkey": (
        "FOREIGN KEY (instance_id, submitted_by) REFERENCES df.instances(id, submitted_by)"
        " DEFERRABLE INITIALLY DEFERRED", True),
    "nodes_left_node_same_instance_fkey": (
        "FOREIGN KEY (instance_id, left_node) REFERENCES df.nodes(instance_id, id)"
        " DEFERRABLE INITIALLY DEFERRED", True),
    "nodes_right_node_same_instance_fkey": (
        "FOREIGN KEY (instance_id, right_node) REFERENCES df.nodes(instance_id, id)"
        " DEFERRABLE INITIALLY DEFERRED", True),
    "vars_pkey": ("PRIMARY KEY (owner, name)", False),
}  # fmt: skip

INSTANCE = {"id": "'0000000a'", "label": "null", "root_node": "'0000000b'", "submitted_by": "'app'::regrole"}
NODE = {"id": "'0000000b'", "instance_id": "'0000000a'", "node_type": "'SQL'", "query": "'SELECT 1'",
        "submitted_by": "'app'::regrole"}  # fmt: skip


def insert(conn: psycopg.Connection[tuple[object, ...]], table: str, base: dict[str, str], **changes: str) -> None:
    row = base | changes
    conn.execute(f"insert into df.{table} ({', '.join(row)}) values ({', '.join(row.values())})".encode())


@pytest.mark.parametrize("relation", COLUMNS)
def test_columns(db: Database, relation: str) -> None:
    found = db.rows(
        """select attname || ' ' || format_type(atttypid, atttypmod)
                  || case when attnotnull then ' not null' else '' end
           from pg_attribute where attrelid = ('df.' || %s)::regclass and attnum > 0 and attname !~ '^_'
           order by attnum""",
        relation,
        user=None,
    )
    names = {"character varying": "varchar", "timestamp with time zone": "timestamptz"}
    texts = [row[0] for row in found]
    for long, short in names.items():
        texts = [text.replace(long, short) for text in texts]
    assert texts == [" ".join(column.split()) for column in COLUMNS[relation].split(",")]


def test_worker_epoch(db: Database) -> None:
    columns = db.rows("select * from df._worker_epoch", user=None)
    assert columns == []
    db.admin("insert into df._worker_epoch default values")
    assert db.sql("select max(last_seen_at) > now() - interval '15 s' from df._worker_epoch") is True


@pytest.mark.parametrize("name", KEYS)
def test_keys(db: Database, name: str) -> None:
    rows = db.rows(
        "select pg_get_constraintdef(oid), condeferred from pg_constraint where conname = %s", name, user=None
    )
    assert rows == [KEYS[name]]


def test_there_is_no_second_unique_key(db: Database) -> None:
    assert db.admin("select count(*) from pg_constraint where conname = 'nodes_instance_node_key'") == 0
    assert db.admin("select count(*) from pg_index where indrelid = 'df.nodes'::regclass and indisunique") == 1


@pytest.mark.parametrize(
    "definition",
    [
        "(status, created_at DESC, id)",
        "(created_at DESC, id)",
        "(label, created_at DESC, id) WHERE (label IS NOT NULL)",
    ],
)
def test_indexes(db: Database, definition: str) -> None:
    rows = db.rows("select indexdef from pg_indexes where schemaname = 'df' and tablename = 'instances'", user=None)
    assert [index for (index,) in rows if index.endswith("USING btree " + definition)]


def test_every_foreign_key_side_uses_an_index_prefix(db: Database) -> None:
    """All of them begin with the instance's id, which leads the primary keys."""
    rows = db.rows(
        """select conname, conrelid::regclass::text, conkey[1] from pg_constraint
           where contype = 'f' and connamespace = 'df'::regnamespace""",
        user=None,
    )
    for name, table, first in rows:
        assert db.admin(
            "select count(*) from pg_index where indrelid = %s::regclass and indkey[0] = %s", table, first
        ), name


@pytest.mark.parametrize(
    ("constraint", "changes"),
    [
        ("instances_id_format_chk", {"id": "'0000000G'"}),
        ("instances_id_format_chk", {"id": "'abc'"}),
        ("instances_root_node_format_chk", {"root_node": "'ABCDEF00'"}),
        ("instances_status_chk", {"status": "'Completed'"}),
    ],
)
def test_malformed_instances_are_refused(db: Database, constraint: str, changes: dict[str, str]) -> None:
    with db.connect(autocommit=False) as conn, pytest.raises(psycopg.errors.CheckViolation, match=constraint):
        insert(conn, "instances", INSTANCE, **changes)


@pytest.mark.parametrize(
    ("constraint", "changes"),
    [
        ("nodes_id_format_chk", {"id": "'0000000G'"}),
        ("nodes_instance_id_format_chk", {"instance_id": "'0000'"}),
        ("nodes_left_node_format_chk", {"node_type": "'LOOP'", "left_node": "'x'"}),
        ("nodes_right_node_format_chk", {"node_type": "'JOIN'", "left_node": "'0000000c'", "right_node": "'x'"}),
        ("nodes_submitted_by_present_chk", {"submitted_by": "null"}),
        ("nodes_node_type_chk", {"node_type": "'sql'"}),
        ("nodes_status_chk", {"status": "'cancelled'"}),
        ("nodes_result_name_chk", {"result_name": "'1st'"}),
        ("nodes_result_name_chk", {"result_name": "''"}),
        ("nodes_result_status_chk", {"status": "'running'", "result": "'1'"}),
        ("nodes_structure_chk", {"query": "null"}),
        ("nodes_structure_chk", {"left_node": "'0000000c'"}),
        ("nodes_structure_chk", {"node_type": "'THEN'", "left_node": "'0000000c'", "query": "null"}),
        ("nodes_structure_chk", {"node_type": "'THEN'", "left_node": "'0000000c'", "right_node": "'0000000d'"}),
        ("nodes_structure_chk", {"node_type": "'RACE'", "query": "null"}),
        ("nodes_structure_chk",
            {"node_type": "'IF'", "left_node": "'0000000c'", "right_node": "'0000000d'", "query": "null"}),
        ("nodes_structure_chk", {"node_type": "'JOIN'", "left_node": "'0000000c'"}),
        ("nodes_structure_chk", {"node_type": "'LOOP'", "left_node": "'0000000c'", "right_node": "'0000000d'"}),
        ("nodes_structure_chk", {"node_type": "'LOOP'"}),
    ],
)  # fmt: skip
def test_malformed_nodes_are_refused(db: Database, constraint: str, changes: dict[str, str]) -> None:
    with db.connect(autocommit=False) as conn, pytest.raises(psycopg.errors.CheckViolation, match=constraint):
        insert(conn, "nodes", NODE, **changes)


def test_a_run_written_by_hand_is_kept_and_never_executed(db: Database) -> None:
    with db.connect("app", autocommit=False) as conn:
        insert(conn, "instances", INSTANCE)
        insert(conn, "nodes", NODE)
    with db.connect("app") as worker:
        worker.execute("call df_engine.work(200, true, null)")
    assert db.rows("select status, finished_at from df.instances") == [("pending", None)]
    assert db.admin("select count(*) from df_engine.ready") == 0
    assert db.sql("select df.status('0000000a')") == "pending"


def test_instances_and_nodes_need_each_other_at_commit(db: Database) -> None:
    for table, base in (("instances", INSTANCE), ("nodes", NODE)):
        with pytest.raises(psycopg.errors.ForeignKeyViolation), db.connect("app", autocommit=False) as conn:
            insert(conn, table, base)


@pytest.mark.parametrize(("status", "completed"), [("completed", True), ("failed", False), ("cancelled", False)])
def test_the_table_sets_the_times_of_the_end(db: Database, status: str, completed: bool) -> None:
    run = db.sql("select df.start('SELECT 1')")
    db.sql("update df.instances set status = %s where id = %s", status, run)
    times = "select finished_at is not null, completed_at is not null from df.instances"
    assert db.rows(times) == [(True, completed)]


def test_a_users_write_changes_only_what_is_displayed(db: Database) -> None:
    run = db.sql("select df.start('SELECT 1')")
    db.sql("update df.instances set status = 'completed', updated_at = now() where id = %s", run)
    assert db.admin("select _state from df.instances") == "pending"
    assert db.admin("select count(*) from df_engine.ready") == 1


def test_row_security_is_enabled_with_one_policy_each(db: Database) -> None:
    for table, column in (("instances", "submitted_by"), ("nodes", "submitted_by"), ("vars", "owner")):
        name = f"df.{table}"
        assert db.rows("select relrowsecurity, relforcerowsecurity from pg_class where oid = %s::regclass", name,
                       user=None) == [(True, False)]  # fmt: skip
        policies = db.rows("select cmd, qual, with_check from pg_policies where schemaname = 'df' and tablename = %s",
                           table, user=None)  # fmt: skip
        assert [(cmd, column in using, using == check) for cmd, using, check in policies] == [("ALL", True, True)]


def test_bypassrls_roles_see_everything(db: Database) -> None:
    db.sql("select df.start('SELECT 1')")
    db.admin("alter role other bypassrls")
    try:
        assert db.sql("select count(*) from df.instances", user="other") == 1
    finally:
        db.admin("alter role other nobypassrls")
