"""`python -m generator.reference` writes docs/reference.md, and a part of docs/ai.md, from the comments."""

import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg
from pg_durable.dev import DATABASE, prepare
from pg_durable.embedded import EmbeddedServer
from psycopg.rows import namedtuple_row

from generator.render import ROOT, artifacts

PAGE = ROOT / "docs" / "reference.md"
AI_PAGE = ROOT / "docs" / "ai.md"
AI_BEGIN = "<!-- generated: reference, by `python -m generator.reference` -->\n"
AI_END = "<!-- end of what is generated -->"
TOPICS = {
    "Building graphs": """sql block seq as if if_rows join join3 all all_agg chain chain_agg race race_all any loop map
                          break catch undo timeout sleep sleep_until wait_for_schedule wait_for_signal wait_for call
                          retry within http http_multipart flow literal""",
    "Definitions": "define undefine",
    "Running": """start signal poke progress cancel pause resume skip rerun forget notify_end status result
                  await_instance wait_for_completion run work test now""",
    "Schedules": "schedule unschedule pause_schedule resume_schedule trigger_schedule backfill",
    "Limits": "set_limit",
    "Variables": "setvar getvar unsetvar clearvars",
    "Secrets": "secret set_secret unset_secret",
    "Watching": """explain svg mermaid to_flow list_instances instance_info instance_executions instance_nodes
                   node_activations timeline changes stuck
                   recent_throughput metrics check version target_database""",
    "Administration": """grant_usage revoke_usage grant_monitor revoke_monitor grant_worker revoke_worker set_role_limit
                         pause_role resume_role set_setting setting http_allow http_disallow rotate_wake_channel""",
    "Behind the operators": "as_op if_then_op if_else_op loop_prefix_op",
}
HEAD = """\
# Reference

<!-- written by `python -m generator.reference` from the comments in the database; do not edit -->

`\\df+ df.*` and `\\d+ df.*` in psql say the same.
"""

OPERATORS = """
select o.oprname as name, o.oprleft = 0 as prefix, obj_description(o.oid, 'pg_operator') as comment
from pg_operator o join pg_proc p on p.oid = o.oprcode
where p.pronamespace = 'df'::regnamespace
order by array_position(array['~>', '|=>', '&', '|', '?>', '!>', '@>'], o.oprname::text)"""
FUNCTIONS = """
select p.proname as name, pg_get_function_arguments(p.oid) as arguments,
       coalesce('TABLE(' || (
         select string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' order by a.attnum)
         from pg_type t join pg_attribute a on a.attrelid = t.typrelid and a.attnum > 0
         where t.oid = p.prorettype) || ')', pg_get_function_result(p.oid)) as result,
       obj_description(p.oid, 'pg_proc') as comment,
       not exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee = 0)
         as restricted
from pg_proc p
where p.pronamespace = 'df'::regnamespace and not starts_with(p.proname, '_')
order by p.proname, p.pronargs, 2"""
RELATIONS = """
select c.relname as name, obj_description(c.oid, 'pg_class') as comment,
       array(select a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
             from pg_attribute a
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and not starts_with(a.attname, '_')
             order by a.attnum) as columns
from pg_class c
where c.relnamespace = 'df'::regnamespace and c.relkind = 'v'
order by starts_with(c.relname, '_'), c.relname"""
SETTINGS = "select s.name, s.value, s.description from df.settings s order by s.name"


def reference(conn: psycopg.Connection[Any]) -> str:
    """The page, as the database that `conn` leads to has it."""
    with conn.cursor(row_factory=namedtuple_row) as cursor:
        parts = [
            HEAD,
            operators(cursor.execute(OPERATORS).fetchall()),
            functions(cursor.execute(FUNCTIONS).fetchall()),
            relations(cursor.execute(RELATIONS).fetchall()),
            settings(cursor.execute(SETTINGS).fetchall()),
        ]
    return "\n".join(parts)


def ai_reference(conn: psycopg.Connection[Any]) -> str:
    """docs/ai.md with what the functions and views of ai say about themselves."""
    with conn.cursor(row_factory=namedtuple_row) as cursor:
        parts = [entry(row, "ai") for row in cursor.execute(of_ai(FUNCTIONS)).fetchall()]
        parts.append(relations(cursor.execute(of_ai(RELATIONS)).fetchall(), "ai").replace("## Views", "### Views"))
    before, _, rest = AI_PAGE.read_text("utf-8").partition(AI_BEGIN)
    return before + AI_BEGIN + "\n".join(["", *parts]) + AI_END + rest.partition(AI_END)[2]


def of_ai(query: str) -> str:
    """A query for the objects of df, for those of ai."""
    return query.replace("'df'::regnamespace", "'ai'::regnamespace")


def operators(rows: Iterable[Any]) -> str:
    """A row an operator."""
    lines = [f"| {code(f'{row.name} a' if row.prefix else f'a {row.name} b')} | {row.comment} |\n" for row in rows]
    return "## Operators\n\n| Operator | Means |\n|---|---|\n" + "".join(lines)


def functions(rows: Iterable[Any]) -> str:
    """By topic, in the order given there; a function that has no topic is an error."""
    by_name: dict[str, list[Any]] = {}
    for row in rows:
        by_name.setdefault(row.name, []).append(row)
    parts = []
    for topic, names in TOPICS.items():
        parts += [f"## {topic}\n", *(entry(row) for name in names.split() for row in by_name.pop(name))]
    if by_name:
        raise ValueError(f"functions without a topic: {sorted(by_name)}")
    return "\n".join(parts)


def entry(row: Any, schema: str = "df") -> str:
    """Signature and comment of a function."""
    arguments = row.arguments.replace("timestamp with time zone", "timestamptz")
    arguments = re.sub(r"::\w+(\[\])?", "", arguments)  # the types of defaults
    result = f" → {code(row.result.replace('timestamp with time zone', 'timestamptz'))}" if row.result else ""
    call = "" if row.result else "CALL "  # a procedure
    restricted = " *Needs a grant of its own.*" if row.restricted else ""
    signature = f"**{call}{schema}.{row.name}** ({code(arguments) if arguments else ''}){result}"
    return f"{signature}\\\n{ended(row.comment)}{restricted}\n"


def relations(rows: Iterable[Any], schema: str = "df") -> str:
    """Views with their columns."""
    parts = ["## Views\n"]
    for row in rows:
        columns = ", ".join(row.columns).replace("timestamp with time zone", "timestamptz")
        columns = columns.replace("character varying", "varchar")
        parts.append(f"**{schema}.{row.name}** ({code(columns)})\\\n{ended(row.comment)}\n")
    return "\n".join(parts)


def settings(rows: Iterable[Any]) -> str:
    """Names and defaults: nothing has been set in a fresh database."""
    lines = [f"| `{row.name}` | {code(row.value) if row.value else ''} | {row.description} |\n" for row in rows]
    return "## Settings\n\n| Name | Default | Meaning |\n|---|---|---|\n" + "".join(lines)


def code(text: str) -> str:
    """Text as code, in a table or out of one."""
    return "`" + text.replace("|", "\\|") + "`"


def ended(sentence: str) -> str:
    """A sentence with its full stop."""
    return sentence if sentence.endswith(".") else f"{sentence}."


def main() -> int:
    """Writes the page, from a server of its own."""
    home = Path(tempfile.mkdtemp(prefix="reference-"))
    home.chmod(0o755)
    try:
        with EmbeddedServer(home / "data") as server:
            prepare(server)
            with psycopg.connect(server.dsn(DATABASE)) as conn:
                PAGE.write_text(reference(conn), "utf-8")
                conn.execute("create extension vector")
                script = artifacts()["dist/pg_durable_ai.sql"]
                conn.execute(script.split("\n-- body\n", 1)[1].rsplit("commit;", 1)[0].encode())
                AI_PAGE.write_text(ai_reference(conn), "utf-8")
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
