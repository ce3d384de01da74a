"""`pg-durable uninstall`: removes pg_durable and all runs from a database, after saying what that is."""

import argparse
import json
import sys
from typing import Any

import psycopg
from psycopg import errors
from psycopg.rows import dict_row

from pg_durable.cli.asking import connect
from pg_durable.errors import CommandError
from pg_durable.printing import complain, say, say_json

FOUND = """
select current_database() as database, current_user as me, n.owner,
       pg_has_role(current_user, n.owner, 'usage') as mine, e.owner as extension_owner,
       e.owner is null or pg_has_role(current_user, e.owner, 'usage') as extension_mine
from (select pg_get_userbyid(nspowner) as owner from pg_namespace
      where nspname = 'df' and to_regclass('df_engine.release') is not null) n
left join (select pg_get_userbyid(extowner) as owner from pg_extension where extname = 'pg_durable') e on true"""
CONTENT = """
select r.version,
       (select count(*) from df.instances i where i.status in ('pending', 'running')) as live,
       (select count(*) from df.instances i where i.status not in ('pending', 'running')) as kept,
       (select count(*) from df.definitions) as definitions,
       (select count(*) from df.secrets) as secrets,
       (select count(*) from df.workers w where w.alive) as workers
from df_engine.release r"""
# Objects of others that use what is removed: DROP ... CASCADE takes them along.
DEPENDENTS = """
with own as (
  select n.oid from pg_namespace n where n.nspname in ('df', 'df_engine')
), tables as (
  select c.oid from pg_class c where c.relnamespace in (select oid from own)
), used as (
  select 'pg_proc'::regclass::oid as class, p.oid from pg_proc p where p.pronamespace in (select oid from own)
  union all select 'pg_class'::regclass, t.oid from tables t
  union all select 'pg_type'::regclass, t.oid from pg_type t where t.typnamespace in (select oid from own)
  union all
  select 'pg_operator'::regclass, o.oid from pg_operator o join pg_proc p on p.oid = o.oprcode
  where p.pronamespace in (select oid from own)
), parts as (
  select 'pg_trigger'::regclass::oid as class, t.oid from pg_trigger t where t.tgrelid in (select oid from tables)
  union all select 'pg_attrdef'::regclass, a.oid from pg_attrdef a where a.adrelid in (select oid from tables)
  union all select 'pg_constraint'::regclass, c.oid from pg_constraint c where c.connamespace in (select oid from own)
  union all select 'pg_rewrite'::regclass, r.oid from pg_rewrite r where r.ev_class in (select oid from tables)
  union all select 'pg_class'::regclass, c.oid from pg_class c where c.relnamespace = 'pg_toast'::regnamespace
  union all select u.class, u.oid from used u
)
select distinct coalesce(
    case v.relkind when 'v' then 'view ' when 'm' then 'materialized view ' end || v.oid::regclass,
    pg_describe_object(d.classid, d.objid, d.objsubid)) as name
from used u
join pg_depend d on d.refclassid = u.class and d.refobjid = u.oid and d.deptype in ('n', 'a')
left join pg_rewrite w on d.classid = 'pg_rewrite'::regclass and w.oid = d.objid
left join pg_class v on v.oid = w.ev_class
where not exists (select from parts p where p.class = d.classid and p.oid = d.objid)
order by name
limit 21"""
PATIENCE = "set lock_timeout = '5s'"
DROP_SCHEMAS = "drop schema df, df_engine cascade"
DROP_EXTENSION = "drop extension pg_durable cascade"
SHOWN = 20  # dependent objects that are named


def register(subparsers: Any) -> None:
    """Adds the sub-command."""
    command = subparsers.add_parser(
        "uninstall", help="remove pg_durable and all runs from a database", description=__doc__
    )
    command.add_argument("--dsn", default="", help="the database, as the owner of schema df or a superuser")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.add_argument("--json", action="store_true", help="print JSON: what was removed; what is asked is on stderr")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Says what is there, asks, and removes it in one transaction."""
    with connect(arguments.dsn, row_factory=dict_row) as conn:
        found = installation(conn)
        content = conn.execute(CONTENT).fetchone() or {}
        dependents = [row["name"] for row in conn.execute(DEPENDENTS.encode()).fetchall()]
        if not arguments.json:
            say(description(found["database"], content, dependents))
        elif not arguments.yes:
            complain(description(found["database"], content, dependents))
        if not arguments.yes and not agreed():
            complain("nothing was removed")
            return 1
        remove(conn, DROP_EXTENSION if found["extension_owner"] else DROP_SCHEMAS)
    if arguments.json:
        say_json(json.dumps({"database": found["database"], **content, "dependents": dependents}))
    else:
        say(f"pg_durable was removed from database {found['database']}; roles and their grants elsewhere stay")
    return 0


def installation(conn: psycopg.Connection[dict[str, Any]]) -> dict[str, Any]:
    """Who owns what is installed; raises where there is nothing to remove, or no right to."""
    found = conn.execute(FOUND).fetchone()
    if found is None:
        raise CommandError(f"pg_durable is not installed in database {conn.info.dbname}")
    if not (found["mine"] and found["extension_mine"]):
        owner = found["owner"] if not found["mine"] else found["extension_owner"]
        raise CommandError(
            f"role {found['me']} may not remove it: it belongs to role {owner}\n"
            f"Log in as {owner} or as a superuser: --dsn 'user={owner} ...'"
        )
    return found


def description(database: str, content: dict[str, Any], dependents: list[str]) -> str:
    """What will be gone."""
    lines = [
        f"This removes pg_durable {content['version']} from database {database}, with",
        f"  live runs, which will not go on: {content['live']}",
        f"  runs that have ended, and their results: {content['kept']}",
        f"  definitions: {content['definitions']}, secrets: {content['secrets']}",
    ]
    lines += [f"  what uses it: {name}" for name in dependents[:SHOWN]]
    lines += ["  and more that uses it"] if len(dependents) > SHOWN else []
    if content["workers"]:
        lines.append(f"Workers that are alive: {content['workers']}. Stop them first, or they log errors.")
    return "\n".join(lines)


def agreed() -> bool:
    """Whether somebody types yes."""
    complain("Remove all of it? Type yes:")
    return sys.stdin is not None and sys.stdin.readline().strip().lower() in ("y", "yes")


def remove(conn: psycopg.Connection[dict[str, Any]], statement: str) -> None:
    """One statement, one transaction: all of it or nothing."""
    conn.execute(PATIENCE)
    try:
        conn.execute(statement.encode())
    except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
        raise CommandError(
            "nothing was removed: steps or readers of df are busy\nStop the workers, wait for what runs, and try again."
        ) from error
