"""What must not grow: the tables while a loop turns, and the cost of others while a multitude sleeps."""

import statistics
import time
from typing import Any

import psycopg

from benchmarks.bed import Bed, call_work
from benchmarks.figures import Figure, Scale, at_least, at_most, ratio
from benchmarks.runs import copies
from benchmarks.scale import served_rate
from generator.render import artifacts

HISTORY = "df_engine.executions"  # bounded: the newest 10 000 iterations of a run


def loop(bed: Bed, scale: Scale) -> list[Figure]:
    """Rows and bytes of all tables when a root loop has turned a tenth of its iterations, and when it has ended."""
    bed.ask("create sequence turns; grant all on sequence turns to bench")
    bed.start(f"df.loop('select nextval(''turns'')', 'select last_value < {scale.turns} from turns')")
    with bed.session() as conn:
        took = turn_until(bed, conn, scale.turns // 10)
        early = sizes(bed)
        took += turn_until(bed, conn, scale.turns)
        late = sizes(bed)
    raw = {
        "turns": bed.ask("select last_value from turns"),
        "early": early,
        "late": late,
        "us a turn": round(took / scale.turns * 1e6),
    }
    bed.ask("drop sequence turns")
    rows, size = (sum(found[part] for table, found in late.items() if table != HISTORY)
                  / sum(found[part] for table, found in early.items() if table != HISTORY)
                  for part in ("rows", "bytes"))  # fmt: skip
    name = f"loop of {scale.turns:,} turns: {{}} at the end / after a tenth"
    return [
        at_most(name.format("rows"), rows, 1, " x", raw),
        at_most(name.format("table bytes"), size, 1.5, " x", raw),
        at_most("history of the loop, rows", late[HISTORY]["rows"], 10_000, raw=raw),
    ]


def turn_until(bed: Bed, conn: psycopg.Connection[Any], turns: int) -> float:
    """Works until the loop has turned so often, or has ended; the seconds it took."""
    began = time.perf_counter()
    while call_work(conn) != "empty" and bed.ask("select last_value from turns") < turns:
        pass
    return time.perf_counter() - began


def sizes(bed: Bed) -> dict[str, dict[str, int]]:
    """Rows and bytes, indexes included, of every table of pg_durable, when dead rows have been removed."""
    bed.tidy()
    found = {}
    query = (
        "select oid::regclass::text, pg_total_relation_size(oid) from pg_class "
        "where relkind = 'r' and relnamespace in ('df'::regnamespace, 'df_engine'::regnamespace) order by 1"
    )
    for table, size in bed.rows(query):
        found[table] = {"rows": int(bed.ask(f"select count(*) from {table}")), "bytes": int(size)}
    return found


def multitude(bed: Bed, scale: Scale) -> list[Figure]:
    """A worker's throughput beside very many timers, against that in a new database; and one poll of its supervisor."""
    empty = bed.twin(artifacts()["dist/pg_durable.sql"])
    [sleeper] = bed.start("df.sleep(86400)")
    bed.drain(1)
    copies(bed, sleeper, scale.timers - 1)

    def rate(where: Bed) -> float:
        with where.worker():
            served_rate(where, scale.runs // 4)
            return served_rate(where, scale.runs)

    value, raw = ratio(scale.rounds, lambda: rate(bed), lambda: rate(empty))
    raw["timers"] = bed.ask("select count(*) from df_engine.timers")
    return [
        at_least(f"worker's throughput beside {scale.timers:,} timers / without", value, 0.9, raw),
        Figure(f"one poll of a worker beside {scale.timers:,} timers, ms", poll(bed)),
    ]


def poll(bed: Bed) -> float:
    """Milliseconds of the call that a worker makes when it has been idle."""
    times = []
    with bed.connect("bench_worker", prepare_threshold=None) as conn:
        row = conn.execute("select df_engine.register_worker()").fetchone()
        assert row is not None
        for _ in range(50):
            began = time.perf_counter()
            conn.execute("call df_engine.tick(%s, null)", row)
            times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)
