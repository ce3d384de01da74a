"""What one five-step run costs, in counts: commits, row versions, log, buffers.

They need no clock and no quiet machine.
"""

import time
from dataclasses import dataclass
from typing import Any

from benchmarks import wal
from benchmarks.bed import CHAIN, Bed
from benchmarks.figures import Figure, at_most

RUNS = 200
STEPS = 5
COUNTERS = """
    select 'rows', s.schemaname || '.' || s.relname || ' ' || change, number
    from pg_stat_user_tables s,
      lateral (values ('inserted', n_tup_ins), ('updated', n_tup_upd), ('of them hot', n_tup_hot_upd),
                      ('deleted', n_tup_del), ('seq scans', seq_scan)) v(change, number)
    union all
    select 'index scans', i.schemaname || '.' || i.relname || ' ' || i.indexrelname, i.idx_scan
    from pg_stat_user_indexes i
    union all
    select 'buffers', t.schemaname || '.' || t.relname || ' ' || part, coalesce(number, 0)
    from pg_statio_user_tables t,
      lateral (values ('table', heap_blks_hit + heap_blks_read), ('indexes', idx_blks_hit + idx_blks_read),
                      ('toast', toast_blks_hit + toast_blks_read)) v(part, number)
    """


@dataclass(frozen=True)
class Mark:
    """The counters at one moment."""

    counters: dict[tuple[str, str], int]
    statements: dict[str, int]
    commits: int
    lsn: str
    images: int
    records: int

    @classmethod
    def now(cls, bed: Bed) -> "Mark":
        """Reads them in one transaction."""
        with bed.connect() as conn, conn.transaction():
            found = conn.execute(COUNTERS).fetchall()
            row = conn.execute(
                "select xact_commit, pg_current_wal_insert_lsn()::text, wal_fpi, wal_records "
                "from pg_stat_database, pg_stat_wal where datname = current_database()"
            ).fetchone()
            calls = statements(conn) if has_statements(bed) else {}
        assert row is not None
        return cls({(kind, name): int(number) for kind, name, number in found}, calls, *row)


def has_statements(bed: Bed) -> bool:
    """Whether pg_stat_statements is there and loaded."""
    return bool(
        bed.ask(
            "select current_setting('shared_preload_libraries') ~ 'pg_stat_statements' "
            "and exists (select from pg_available_extensions where name = 'pg_stat_statements')"
        )
    )


def statements(conn: Any) -> dict[str, int]:
    """Calls of each statement so far."""
    conn.execute("create extension if not exists pg_stat_statements")
    query = (
        "select left(regexp_replace(query, '\\s+', ' ', 'g'), 120), sum(calls)::bigint from pg_stat_statements "
        "where dbid = (select oid from pg_database where datname = current_database()) group by 1"
    )
    return dict(conn.execute(query).fetchall())


def settled(bed: Bed, ended: int) -> Mark:
    """The counters when the sessions that worked have published theirs: so many rows of `queue` are gone."""
    deadline = time.monotonic() + 30
    while True:
        mark = Mark.now(bed)
        if mark.counters["rows", "df_engine.queue deleted"] >= ended:
            return mark
        if time.monotonic() > deadline:
            raise TimeoutError("the statistics were not published")
        time.sleep(0.05)


def profile(bed: Bed) -> dict[str, Any]:
    """The cost of a run: its start, its steps, and both."""
    with bed.connect("bench") as conn:  # a first run: caches, first touches of pages
        conn.execute(f"select df.start({CHAIN})".encode())
    bed.drain(1)
    bed.ask("checkpoint")
    ended = int(bed.ask("select n_tup_del from pg_stat_user_tables where relid = 'df_engine.queue'::regclass")) or 1
    before = settled(bed, ended)
    with bed.connect("bench") as conn:
        for _ in range(RUNS):
            conn.execute(f"select df.start({CHAIN})".encode())
    between = started(bed, before)
    bed.drain(1)
    after = settled(bed, before.counters["rows", "df_engine.queue deleted"] + RUNS)
    return {"start": cost(bed, before, between), "steps": cost(bed, between, after), "run": cost(bed, before, after)}


def started(bed: Bed, before: Mark) -> Mark:
    """The counters when the session that started has published its own."""
    deadline = time.monotonic() + 30
    key = ("rows", "df_engine.queue inserted")
    while (mark := Mark.now(bed)).counters[key] < before.counters[key] + RUNS:
        if time.monotonic() > deadline:
            raise TimeoutError("the statistics were not published")
        time.sleep(0.05)
    return mark


def cost(bed: Bed, before: Mark, after: Mark) -> dict[str, Any]:
    """What was counted between two marks, a run."""
    kinds: dict[str, dict[str, float]] = {"rows": {}, "index scans": {}, "buffers": {}}
    for (kind, name), number in after.counters.items():
        made = number - before.counters.get((kind, name), 0)
        if made * 20 >= RUNS:  # what is counted once belongs to the measurement
            kinds[kind][name] = round(made / RUNS, 2)
    calls = {
        text: round((number - before.statements.get(text, 0)) / RUNS, 2)
        for text, number in after.statements.items()
        if number - before.statements.get(text, 0) >= RUNS / 2
    }
    log = wal.between(bed, before.lsn, after.lsn)
    return {
        "commits": round((after.commits - before.commits) / RUNS, 2),
        **kinds,
        "index scans a step": round(sum(kinds["index scans"].values()) / STEPS, 2),
        "buffers a step": round(sum(kinds["buffers"].values()) / STEPS, 2),
        "statements": calls,
        "wal": log.a_run(RUNS),
        "wal_records": round((after.records - before.records) / RUNS, 2),
        "wal_images": round((after.images - before.images) / RUNS, 3),
    }


def figures(found: dict[str, Any]) -> list[Figure]:
    """The rows of the table."""
    run, steps = found["run"], found["steps"]
    log = run["wal"]
    plain = "WAL bytes of a 5-step run, without page images"
    return [
        at_most("commits of a 5-step run", run["commits"], 6.2, raw=run),
        Figure(plain, None, "<= 4300", raw=log)
        if log["bytes"] is None
        else at_most(plain, log["bytes"], 4300, raw=log),
        Figure("WAL bytes of a 5-step run, with page images", log["bytes_with_images"], raw=log),
        Figure("index scans a step", steps["index scans a step"], raw=steps["index scans"]),
        Figure("buffers a step", steps["buffers a step"], raw=steps["buffers"]),
    ]
