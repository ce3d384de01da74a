"""Many runs at once: the rows of one run, copied. What a million starts would have written, in a minute."""

from psycopg import sql

from benchmarks.bed import Bed

TABLES = (
    "df.instances", "df.nodes", "df_engine.timers", "df_engine.waits", "df_engine.scopes", "df_engine.bindings",
)  # fmt: skip


def copies(bed: Bed, run: str, count: int) -> None:
    """Adds `count` copies of a run that waits or has ended, under ids of their own. They keep their node ids, which are
    those of a run. The ids are those that are free among the first of all."""
    with bed.connect() as conn, conn.transaction():
        conn.execute("set local session_replication_role = replica")  # foreign keys hold: the original's do
        conn.execute(
            "create temp table copy on commit drop as select lpad(to_hex(n), 8, '0')::varchar(8) as id from "
            "generate_series(1, 2 * %s) n where not exists (select from df.instances i where i.id = "
            "lpad(to_hex(n), 8, '0')) limit %s",
            [count, count],
        )
        for table in TABLES:
            columns = [
                row[0]
                for row in conn.execute(
                    "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 "
                    "and not attisdropped and attgenerated = '' order by attnum",
                    [table],
                ).fetchall()
            ]
            key = "id" if table == "df.instances" else "instance_id"
            values = [sql.SQL("c.id") if name == key else sql.Identifier("o", name) for name in columns]
            conn.execute(
                sql.SQL("insert into {} ({}) select {} from {} o, copy c where o.{} = %s").format(
                    sql.Identifier(*table.split(".")),
                    sql.SQL(", ").join(map(sql.Identifier, columns)),
                    sql.SQL(", ").join(values),
                    sql.Identifier(*table.split(".")),
                    sql.Identifier(key),
                ),
                [run],
            )
    bed.tidy()
