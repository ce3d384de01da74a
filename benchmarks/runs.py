"""Many runs at once: the rows of one run, copied. What a million starts would have written, in a minute."""

from psycopg import sql

from benchmarks.bed import Bed

TABLES = ("instances", "outcomes", "timers", "waits", "bindings")

# What a copy does not share with its original.
OWN = {
    "instance": sql.SQL("c.instance"),
    ("instances", "id"): sql.SQL("df_engine.public_id(c.instance)"),
    ("timers", "id"): sql.SQL("nextval('df_engine.thread_ids')"),
    ("waits", "id"): sql.SQL("nextval('df_engine.thread_ids')"),
}


def copies(bed: Bed, run: str, count: int) -> None:
    """Adds `count` copies of a run that sleeps, waits for a signal, or has ended."""
    with bed.connect() as conn, conn.transaction():
        conn.execute(
            "create temp table copy on commit drop as "
            "select nextval('df_engine.instances_instance_seq') as instance from generate_series(1, %s)",
            [count],
        )
        for table in TABLES:
            columns = [
                row[0]
                for row in conn.execute(
                    "select attname from pg_attribute "
                    "where attrelid = %s::regclass and attnum > 0 and not attisdropped",
                    [f"df_engine.{table}"],
                ).fetchall()
            ]
            values = [OWN.get(name) or OWN.get((table, name)) or sql.Identifier("o", name) for name in columns]
            conn.execute(
                sql.SQL(
                    "insert into {table} ({columns}) overriding system value select {values} from {table} o, copy c "
                    "where o.instance = (select i.instance from df_engine.instances i where i.id = %s)"
                ).format(
                    table=sql.Identifier("df_engine", table),
                    columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
                    values=sql.SQL(", ").join(values),
                ),
                [run],
            )
    bed.tidy()
