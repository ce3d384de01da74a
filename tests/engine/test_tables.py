"""The views of the contract and the tables behind them: columns, indexes, and that only functions write."""

import psycopg
import pytest

from tests.state import PRIVATE_TABLES, ROWS, RUN_INDEXES
from tests.support import Database, Pump

REFUSED = psycopg.errors.InsufficientPrivilege
COLUMNS = {
    "instances": """id varchar(8), label text, root_node varchar(8), status text, submitted_by regrole, database text,
        created_at timestamptz, updated_at timestamptz, completed_at timestamptz, finished_at timestamptz, error text,
        wait_reason text, input jsonb, key text, key_current boolean, priority integer, start_at timestamptz,
        definition text, parent_id varchar(8), parent_node_id varchar(8), undo_status text, traceparent text""",
    "nodes": """id varchar(8), instance_id varchar(8), node_type text, query text, result_name text,
        left_node varchar(8), right_node varchar(8), status text, result jsonb, error text, submitted_by regrole,
        database text, created_at timestamptz, updated_at timestamptz, status_details jsonb, result_columns text[],
        retry_policy jsonb, attempts integer, started_at timestamptz, completed_at timestamptz""",
    "definitions": """name text, version integer, flow text, comment text, created_at timestamptz, created_by regrole,
        live_instances bigint, owner regrole""",
    "vars": "name text, value text, owner regrole",
    "secrets": "name text, created_at timestamptz, updated_at timestamptz",
    "settings": "name text, value text, description text",
    "http_allowlist": "pattern text, allow_private boolean, note text",
    "signals": """signal_id bigint, instance_id varchar(8), signal_name text, signal_data jsonb, status text,
        sent_by regrole, sent_at timestamptz, delivered_at timestamptz, delivered_to text[]""",
    "_worker_epoch": "epoch_id uuid, started_at timestamptz, last_seen_at timestamptz",
}

VIEWS = "select relname::text from pg_class where relnamespace = 'df'::regnamespace and relkind = 'v' order by 1"


@pytest.mark.parametrize("relation", COLUMNS)
def test_columns(shared: Database, relation: str) -> None:
    found = shared.rows(
        """select attname || ' ' || format_type(atttypid, atttypmod)
           from pg_attribute where attrelid = ('df.' || %s)::regclass and attnum > 0 order by attnum""",
        relation,
        user=None,
    )
    names = {"character varying": "varchar", "timestamp with time zone": "timestamptz"}
    texts = [row[0] for row in found]
    for long, short in names.items():
        texts = [text.replace(long, short) for text in texts]
    assert texts == [" ".join(column.split()) for column in COLUMNS[relation].split(",")]


def test_a_worker_is_seen_to_be_alive(pump: Pump) -> None:
    alive = "select max(last_seen_at) > now() - interval '15 s' from df._worker_epoch"
    assert pump.db.sql(alive) is True


@pytest.mark.parametrize(
    "definition",
    [
        "(status, created_at DESC, id)",
        "(created_at DESC, id)",
        "(label, created_at DESC, id) WHERE (label IS NOT NULL)",
    ],
)
def test_indexes(shared: Database, definition: str) -> None:
    rows = shared.rows(RUN_INDEXES, user=None)
    assert [index for (index,) in rows if index.endswith("USING btree " + definition)]


def test_schema_df_holds_views_only(shared: Database) -> None:
    kinds = "select distinct relkind::text from pg_class where relnamespace = 'df'::regnamespace"
    assert shared.rows(kinds, user=None) == [("v",)]


def test_views_that_show_runs_are_barriers(shared: Database) -> None:
    open_ones = shared.rows(
        """select relname::text from pg_class
           where relnamespace = 'df'::regnamespace and reloptions @> '{security_barrier=true}' is not true
           order by 1""",
        user=None,
    )
    assert open_ones == [("_worker_epoch",), ("http_allowlist",), ("workers",)]


def test_nobody_writes_through_a_view_not_even_a_superuser(db: Database) -> None:
    """There is a row in each that could be written."""
    db.sql("select df.setvar('a', 'b'), df.signal(df.start('select 1'), 'go')")
    pump = Pump(db)
    for (view,) in db.rows(VIEWS, user=None):
        triggers = db.admin(
            "select bit_or(tgtype) from pg_trigger where tgrelid = format('df.%%I', %s::text)::regclass", view
        )
        assert triggers & 64, f"{view}: INSTEAD OF"
        assert triggers & (4 | 8 | 16) == 4 | 8 | 16, f"{view}: insert, delete, update"
        column = db.admin("select attname from pg_attribute where attrelid = %s::regclass and attnum = 1", f"df.{view}")
        statements = [f"insert into df.{view} ({column}) values (null)"]
        if db.admin(f"select count(*) from df.{view}"):
            statements += [f"update df.{view} set {column} = null", f"delete from df.{view}"]
        for statement in statements:
            with pytest.raises(REFUSED, match=f"df.{view} is read-only") as refused:
                db.admin(statement)
            assert "df" in (refused.value.diag.message_hint or "")
    pump.close()


@pytest.mark.parametrize("view", ["instances", "nodes", "vars", "secrets", "signals", "settings", "http_allowlist"])
def test_what_can_be_changed_says_with_which_function(db: Database, view: str) -> None:
    with pytest.raises(REFUSED) as refused:
        db.admin(f"insert into df.{view} default values")
    assert "df." in (refused.value.diag.message_hint or "")


def test_private_tables_have_row_security_no_policy_and_no_grant(shared: Database) -> None:
    assert shared.admin("select count(*) from pg_policies where schemaname in ('df', 'df_engine')") == 0
    tables = [table for (table,) in shared.rows(PRIVATE_TABLES, user=None)]
    assert len(tables) > 10
    query = """select oid::regclass::text from pg_class where oid = any (%s::regclass[]) and not (
                 relrowsecurity and not exists (select from aclexplode(relacl) a where a.grantee <> relowner)
                 and not exists (select from pg_attribute t where attrelid = pg_class.oid and attacl is not null))"""
    assert shared.rows(query, tables, user=None) == []


@pytest.fixture
def powers(db: Database) -> str:
    """A user of df who may read and write all data: a role of this database only."""
    name = f"powers_{db.name}"
    db.admin(f"create role {name} login; grant pg_read_all_data, pg_write_all_data to {name}")
    db.admin("select df.grant_usage(%s)", name)
    return name


def test_all_data_may_be_read_and_written_but_for_that_of_runs(db: Database, powers: str) -> None:
    db.sql("select df.setvar('a', 'b'), df.start('select 1')")
    try:
        for view in ("instances", "nodes", "vars"):
            assert db.sql(f"select count(*) from df.{view}", user=powers) == 0
        for (table,) in db.rows(PRIVATE_TABLES, user=None):
            assert db.sql(ROWS.format(table), user=powers) == 0
        for statement in (
            "insert into df.vars values ('a', 'c', 'app')",
            "insert into df.settings values ('a', 'b', 'c')",
        ):
            with pytest.raises(REFUSED, match="read-only"):
                db.sql(statement, user=powers)
    finally:
        db.connections.pop(powers).close()
        db.admin(f"drop owned by {powers}; drop role {powers}")


def test_bypassrls_shows_nothing_more_in_the_views(db: Database) -> None:
    db.sql("select df.setvar('a', 'b'), df.signal(df.start('select 1'), 'go')")
    db.admin("alter role other bypassrls")
    try:
        for view in ("instances", "nodes", "vars", "signals"):
            assert db.sql(f"select count(*) from df.{view}", user="other") == 0
    finally:
        db.admin("alter role other nobypassrls")
