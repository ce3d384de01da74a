"""The yardstick: the bare model of the engine, chains and nothing else, on the same server and in the same minute.

It has compiled graphs, outcomes that are appended, and one row of a queue; no constructs, names, retries or security:
what an engine of this kind costs at least. A ratio to it does not depend on the machine.
"""

import json
import statistics
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.bed import CHAIN, INSERT, SESSION, Bed, call_work
from benchmarks.figures import Figure, Scale, at_most

SCRIPT = Path(__file__).with_name("yardstick.sql")
STATEMENTS = [INSERT] * 5


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


START = f"yardstick.start({quoted(json.dumps(STATEMENTS))}, array[{', '.join(map(quoted, STATEMENTS))}], 'x')"


def cpu(conn: psycopg.Connection[Any]) -> float:
    """Microseconds of CPU that the session's process has used."""
    with Path(f"/proc/{conn.info.backend_pid}/schedstat").open() as stat:
        return int(stat.read().split()[0]) / 1000


def spent(conn: psycopg.Connection[Any], statement: str) -> float:
    before = cpu(conn)
    conn.execute(statement.encode())
    return cpu(conn) - before


def install(bed: Bed) -> None:
    """The yardstick's schema, new."""
    with bed.connect() as admin:
        admin.execute(SCRIPT.read_bytes())
        admin.execute("grant usage on schema yardstick to bench")


def chain_rate(bed: Bed, runs: int, sessions: int) -> float:
    """The yardstick's steps a second, in the same five-step chains; the beginning of a session is left out."""
    install(bed)
    with ExitStack() as stack:
        crew = [stack.enter_context(bed.session()) for _ in range(sessions)]
        for conn in crew:
            conn.execute(f"select {START}".encode())
            conn.execute("call yardstick.work(null)")
        crew[0].execute(f"select count({START}) from generate_series(1, {runs})".encode())
        bed.ask("vacuum analyze yardstick.thread, yardstick.run")
        threads = [threading.Thread(target=conn.execute, args=("call yardstick.work(null)",)) for conn in crew]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return 5 * runs / (time.perf_counter() - began)


def costs(bed: Bed, scale: Scale) -> list[Figure]:
    """CPU of a step, and of a start, against the yardstick's; one session each."""
    install(bed)
    steps, starts = [], []
    with bed.connect("bench", options=SESSION, prepare_threshold=None) as ours, bed.session() as theirs:
        for _ in range(scale.rounds + 1):
            runs = scale.runs
            start = spent(
                ours, f"select count(df.start(flow)) from (select {CHAIN} as flow) f, generate_series(1, {runs})"
            )
            bare_start = spent(theirs, f"select count({START}) from generate_series(1, {runs})")
            bed.tidy()
            before = cpu(ours)
            while call_work(ours) != "empty":
                pass
            step = cpu(ours) - before
            bare_step = spent(theirs, "call yardstick.work(null)")
            steps.append(step / bare_step)
            starts.append(start / bare_start)
    return [
        at_most("CPU of a step / the yardstick's", statistics.median(steps[1:]), 1.25, " x", {"ratios": steps}),
        at_most(
            "CPU of df.start, a known graph / the yardstick's",
            statistics.median(starts[1:]),
            2,
            " x",
            {"ratios": starts},
        ),
    ]
