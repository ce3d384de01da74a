"""What holds for every installed function: pinned search_path, qualified names, comments, no rights for PUBLIC."""

import re

import pytest

from generator.render import ROOT, granted
from tests.support import Database

PINS = ("search_path=pg_catalog, pg_temp", 'search_path=""')

# Entry points without a pinned search_path, and why.
UNPINNED = {
    "df.explain(text)": "reads the expression with the caller's search_path; its body qualifies everything",
    "df.svg(text)": "reads the expression with the caller's search_path; its body qualifies everything",
    "df.mermaid(text)": "reads the expression with the caller's search_path; its body qualifies everything",
    "df.test(text,jsonb,jsonb,integer)": "steps run with the caller's search_path; its body qualifies its names",
    "df.work(integer)": "a procedure that commits cannot pin; its body qualifies its names",
    "df_engine.work(integer,boolean,text,boolean)": "a procedure that commits cannot pin; its body qualifies its names",
    "df_engine.tick(integer,jsonb)": "a procedure that commits cannot pin; its body qualifies its names",
}

# Functions that PUBLIC may not execute although they are public (1.1).
RESTRICTED = {"check", "http", "http_multipart", "metrics", "grant_usage", "revoke_usage", "set_setting", "http_allow",
              "http_disallow", "grant_worker", "revoke_worker", "rotate_wake_channel", "set_role_limit",
              "grant_monitor", "revoke_monitor"}  # fmt: skip

# Private routines that only the installer calls, once it has made them.
INSTALLER = {"migrating", "renew_grants"}

CALLED = re.compile(r"\bdf_engine\.(\w+)")
GRANTED = re.compile(r"'execute on routine [^']*'")

OURS = "pronamespace in ('df'::regnamespace, 'df_engine'::regnamespace)"

# Types whose names are no keywords: where search_path is '' an unqualified one is looked up in pg_temp first.
SHADOWABLE = (r"(?:text|jsonb|json|jsonpath|record|timestamptz|date|oid|xid8?|uuid|name|bytea|inet|cidr|bool|tid|reg\w+"
              r"|int[248]|float[48])\b(?!\s*[.(])")  # fmt: skip
UNQUALIFIED_TYPE = re.compile(rf"::\s*{SHADOWABLE}|^\s*v_\w+\s+(?:constant\s+)?{SHADOWABLE}|\bas\s+{SHADOWABLE}\s*\)",
                              re.I | re.M)  # fmt: skip
UNQUALIFIED_RELATION = re.compile(
    r"\b(?:insert\s+into|update|delete\s+from)\s+(?!df\.|df_engine\.|set\b|of\b|skip\b)[a-z_]+\b(?!\.)", re.I
)


def code_of(source: str) -> str:
    """A function's body without comments and literals."""
    return re.sub(r"'(?:[^']|'')*'", "''", re.sub(r"--[^\n]*|/\*.*?\*/", "", source, flags=re.S))


def test_bodies_compile(db: Database) -> None:
    """The installer does not check bodies, so that functions may call each other in any order."""
    with db.connect() as conn:
        conn.execute("set check_function_bodies = on")
        conn.execute(
            f"""select case l.lanname when 'sql' then fmgr_sql_validator(p.oid) else plpgsql_validator(p.oid) end
                from pg_proc p join pg_language l on l.oid = p.prolang
                where {OURS} and l.lanname <> 'internal'""".encode()
        )


def test_definer_functions_are_pinned(db: Database) -> None:
    rows = db.rows(f"select oid::regprocedure::text, proconfig from pg_proc where {OURS} and prosecdef", user=None)
    assert rows
    assert [name for name, config in rows if not any(c in PINS for c in config or [])] == []


ENTRIES = f"""
select oid::regprocedure::text, proname, prosrc, coalesce(proconfig, '{{}}'), prosqlbody is not null as parsed,
       pronamespace = 'df'::regnamespace or prorettype = 'trigger'::regtype or proname = any (%s)
       or exists (select from pg_depend d where d.refobjid = p.oid and d.classid = 'pg_rewrite'::regclass) as entry
from pg_proc p where {OURS} and prokind <> 'a'"""


def test_entry_points_are_pinned_or_excepted_for_a_reason(db: Database) -> None:
    """Entered from outside: public functions, what workers call, triggers, and what views call. The other functions are
    called from these, with their search_path, and have no rights but the caller's. A body that was parsed when it was
    made knows no search_path."""
    workers = [*granted()["granted_routines"]["workers"], "work"]
    rows = db.rows(ENTRIES, workers, user=None)
    loose = {row[0] for row in rows if row[5] and not row[4] and not set(PINS) & set(row[3])}
    assert loose == set(UNPINNED)


def test_what_may_find_pg_temp_first_qualifies_its_types_and_relations(db: Database) -> None:
    """What has an empty search_path, or the caller's, and what is called there without a search_path of its own."""
    rows = db.rows(ENTRIES, [], user=None)
    open_to_all = [row for row in rows if PINS[0] not in row[3] and not row[4]]
    reached = {row[1] for row in open_to_all if PINS[1] in row[3] or row[0] in UNPINNED}
    while more := {
        name for row in open_to_all if row[1] in reached for name in CALLED.findall(row[2])
        if any(name == other[1] for other in open_to_all)
    } - reached:  # fmt: skip
        reached |= more
    bad: dict[str, list[str]] = {}
    for signature, name, source, *_ in open_to_all:
        found = UNQUALIFIED_TYPE.findall(code_of(source)) + UNQUALIFIED_RELATION.findall(code_of(source))
        if name in reached and found:
            bad[signature] = found
    assert {"work", "run_statement", "render"} & reached == {"work", "run_statement"}
    assert bad == {}


def test_public_may_execute_no_private_and_no_restricted_function(db: Database) -> None:
    rows = db.rows(
        f"""select pronamespace::regnamespace::text, proname from pg_proc
            where {OURS} and has_function_privilege('public', oid, 'execute')""",
        user=None,
    )
    assert {schema for schema, _ in rows} == {"df"}
    assert {name for _, name in rows} & RESTRICTED == set()
    names = {
        row[0] for row in db.rows("select proname from pg_proc where pronamespace = 'df'::regnamespace", user=None)
    }
    assert names >= RESTRICTED
    assert not any(name.startswith("_") for _, name in rows)


def test_public_has_nothing_on_schemas_and_relations(db: Database) -> None:
    assert db.admin("select has_schema_privilege('public', 'df', 'usage, create')") is False
    assert db.admin("select has_schema_privilege('public', 'df_engine', 'usage, create')") is False
    open_to_all = db.rows(
        """select oid::regclass::text from pg_class c
           where relnamespace in ('df'::regnamespace, 'df_engine'::regnamespace)
             and exists (select from aclexplode(c.relacl) a where a.grantee = 0)""",
        user=None,
    )
    assert open_to_all == []


def test_marked_functions_and_only_those_are_definer(db: Database) -> None:
    rows = db.rows("select proname from pg_proc where pronamespace = 'df'::regnamespace and prosecdef", user=None)
    marked = {"set_setting", "setting", "http_allow", "http_disallow", "grant_worker", "revoke_worker",
              "rotate_wake_channel", "poke", "progress",
              "set_role_limit", "grant_monitor", "revoke_monitor"}  # fmt: skip
    reads_all_runs, needs_usage_of_df_only = {"metrics", "check"}, {"flow"}
    assert {name for (name,) in rows} == marked | reads_all_runs | needs_usage_of_df_only


@pytest.mark.parametrize(
    ("kind", "query"),
    [
        ("functions", "select oid::regprocedure::text from pg_proc where pronamespace = 'df'::regnamespace"
                      " and proname !~ '^_' and obj_description(oid, 'pg_proc') is null"),
        ("relations", "select oid::regclass::text from pg_class where relnamespace = 'df'::regnamespace"
                      " and relkind in ('r', 'v') and obj_description(oid, 'pg_class') is null"),
        ("operators", "select oid::regoperator::text from pg_operator"
                      " where oid >= 16384 and obj_description(oid, 'pg_operator') is null"),
        ("schemas", "select nspname from pg_namespace where nspname like 'df%'"
                    " and obj_description(oid, 'pg_namespace') is null"),
    ],
)  # fmt: skip
def test_everything_public_has_a_comment(db: Database, kind: str, query: str) -> None:
    assert db.rows(query, user=None) == [], kind


def test_every_private_routine_is_called(db: Database) -> None:
    """In the end by a public one, a view, a trigger, a default, the worker or the installer."""
    rows = db.rows(
        f"""select proname, pronamespace = 'df'::regnamespace
                   or exists (select from pg_depend d where d.refobjid = p.oid and d.deptype <> 'e'), prosrc
            from pg_proc p where {OURS}""",
        user=None,
    )
    names = {name for name, _, _ in rows}
    worker = [path.read_text("utf-8") for path in (ROOT / "worker").rglob("*.py")]
    reached = INSTALLER | set(CALLED.findall("".join(worker))) | {name for name, entered, _ in rows if entered}
    while more := {
        called for name, _, source in rows if name in reached for called in CALLED.findall(GRANTED.sub("", source))
    } & (names - reached):
        reached |= more
    assert names - reached == set()


def test_no_function_exposes_connections(db: Database) -> None:
    assert db.rows("select 1 from pg_proc where proname = 'debug_connection'", user=None) == []
