"""Kept runs, as they would be after weeks: a few graphs, one in fifty failed, spread over 30 days."""

from typing import Any

import psycopg
from psycopg import sql

from benchmarks.bed import Bed

GOOD = ("'insert into fx values (1, ''x'') returning i'", "'select 1' ~> 'select 2'")
BAD = ("'select 1/0'", "'select nothing from nowhere'")
FAILED = 50  # one in so many
ROLES = ("bench", "bench_worker")

# The rows of a run, copied: numbers and ids of their own, other times, one of two roles.
OWN: dict[str | tuple[str, str], sql.SQL] = {
    "instance": sql.SQL("c.instance"),
    ("instances", "id"): sql.SQL("df_engine.public_id(c.instance)"),
    ("instances", "label"): sql.SQL("'label ' || c.n % 100"),
    ("instances", "submitter"): sql.SQL("c.submitter"),
    ("instances", "created_at"): sql.SQL("c.at"),
    ("instances", "updated_at"): sql.SQL("c.at + c.took"),
    ("instances", "finished_at"): sql.SQL("c.at + c.took"),
    ("outcomes", "started_at"): sql.SQL("c.at"),
    ("outcomes", "ended_at"): sql.SQL("c.at + c.took"),
}
MAKE = """
create temp table copy on commit drop as
select nextval('df_engine.instances_instance_seq') as instance, n, o.instance as original,
       (%(roles)s::regrole[])[1 + (n %% 4 = 0)::int]::oid as submitter,
       now() - (%(count)s - n + 1) * interval '30 days' / %(count)s as at,
       n::bigint * 7919 %% 5000 * interval '1 ms' as took
from generate_series(1, %(count)s) n
cross join lateral (
  select i.instance from df_engine.instances i
  where i.id = (case when n %% %(failed)s = 0 then %(bad)s::text[] else %(good)s::text[] end)[1 + n %% 2]) o"""


def kept(bed: Bed, count: int) -> None:
    """Adds so many runs that have ended, and leaves the tables tidy."""
    bed.ask("select df.grant_usage('bench_worker')")
    good, bad = ([bed.start(flow)[0] for flow in flows] for flows in (GOOD, BAD))
    bed.drain(1)
    with bed.connect() as conn, conn.transaction():
        copies(conn, count, good, bad, ROLES)
    bed.ask("vacuum analyze")


def copies(conn: psycopg.Connection[Any], count: int, good: list[str], bad: list[str], roles: tuple[str, str]) -> None:
    """Adds so many copies of two runs that have completed and of two that have failed."""
    conn.execute(
        MAKE.encode(), {"count": count, "failed": FAILED, "good": good, "bad": bad, "roles": [*roles]}
    )  # fmt: skip
    for table in ("instances", "outcomes"):
        names = conn.execute(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped",
            [f"df_engine.{table}"],
        ).fetchall()
        columns = [str(row[0]) for row in names]
        values = [OWN.get(name) or OWN.get((table, name)) or sql.Identifier("o", name) for name in columns]
        conn.execute(
            sql.SQL(
                "insert into {whole} ({columns}) overriding system value "
                "select {values} from copy c join {whole} o on o.instance = c.original order by c.n"
            ).format(
                whole=sql.Identifier("df_engine", table),
                columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
                values=sql.SQL(", ").join(values),
            )
        )
