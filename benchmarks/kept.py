"""A million kept runs, as they would be after weeks: a few graphs, two roles, one in fifty failed, spread over 30 days."""

from psycopg import sql

from benchmarks.bed import Bed

FLOWS = {
    "'insert into fx values (1, ''x'') returning i'": "completed",
    "'select 1' ~> 'select 2'": "completed",
    "'select 1/0'": "failed",
    "'select nothing from nowhere'": "failed",
}
FAILED = 50  # one in so many

# The rows of a run, copied: numbers and ids of their own, other times. n: which copy.
OWN = {
    "instance": sql.SQL("c.instance"),
    ("instances", "id"): sql.SQL("df_engine.public_id(c.instance)"),
    ("instances", "label"): sql.SQL("'label ' || c.n %% 100"),
    ("instances", "submitter"): sql.SQL("c.submitter"),
    ("instances", "created_at"): sql.SQL("c.at"),
    ("instances", "updated_at"): sql.SQL("c.at + c.took"),
    ("instances", "finished_at"): sql.SQL("c.at + c.took"),
    ("outcomes", "started_at"): sql.SQL("c.at"),
    ("outcomes", "ended_at"): sql.SQL("c.at + c.took"),
}
MAKE = """
create temp table copy on commit drop as
select nextval('df_engine.instances_instance_seq') as instance, n, u.submitter, o.instance as original,
       now() - (%(count)s - n) * interval '30 days' / %(count)s as at, (n::bigint * 7919 %% 5000) * interval '1 ms' as took
from generate_series(1, %(count)s) n
join lateral (select case n %% 4 when 0 then 'bench_worker'::regrole::oid else 'bench'::regrole::oid end) u(submitter) on true
join lateral (select i.instance from df_engine.instances i
              where i.id = (case when n %% %(failed)s = 0 then %(bad)s::text[] else %(good)s::text[] end)[1 + n %% 2]) o on true
"""


def kept(bed: Bed, count: int) -> None:
    """Adds so many runs that have ended, and leaves the tables tidy."""
    runs = {flow: bed.start(flow)[0] for flow in FLOWS}
    bed.drain(1)
    good = [run for flow, run in runs.items() if FLOWS[flow] == "completed"]
    bad = [run for flow, run in runs.items() if FLOWS[flow] == "failed"]
    with bed.connect() as conn, conn.transaction():
        conn.execute("select df.grant_usage('bench_worker')")
        conn.execute(MAKE.encode(), {"count": count, "failed": FAILED, "good": good, "bad": bad})
        for table in ("instances", "outcomes"):
            names = [
                str(row[0])
                for row in conn.execute(
                    "select attname from pg_attribute "
                    "where attrelid = %s::regclass and attnum > 0 and not attisdropped",
                    [f"df_engine.{table}"],
                ).fetchall()
            ]
            values = [OWN.get(name) or OWN.get((table, name)) or sql.Identifier("o", name) for name in names]
            query = "insert into {} ({}) overriding system value select {} from copy c join {} o on o.instance = c.original"
            whole = sql.Identifier("df_engine", table)
            conn.execute(
                sql.SQL(query + " order by c.n").format(
                    whole, sql.SQL(", ").join(map(sql.Identifier, names)), sql.SQL(", ").join(values), whole
                ),
                [],
            )
    bed.ask("vacuum analyze")
