"""What reading costs beside very many outcomes: one run's nodes, and the first page of the list."""

import statistics
import time

import psycopg

from benchmarks.bed import CHAIN, Bed
from benchmarks.cost import STEPS
from benchmarks.figures import Figure, Scale, at_most
from benchmarks.runs import copies

READS = 50


def beside_outcomes(bed: Bed, scale: Scale) -> list[Figure]:
    """Milliseconds of each as its owner asks, not prepared."""
    [run] = bed.start(CHAIN)
    bed.drain(1)
    copies(bed, run, scale.outcomes // STEPS)
    bed.ask("vacuum analyze")
    with bed.connect("bench", prepare_threshold=None) as conn:
        nodes = milliseconds(conn, f"select * from df.nodes where instance_id = '{run}'")
        page = milliseconds(conn, "select * from df.list_instances()")
    beside = f"beside {scale.outcomes:,} outcomes, ms"
    return [
        at_most(f"nodes of a run {beside}", nodes, 2),
        at_most(f"first page of df.list_instances {beside}", page, 5),
    ]


def milliseconds(conn: psycopg.Connection[tuple[object, ...]], query: str) -> float:
    """The median of many."""
    times = []
    for _ in range(READS):
        began = time.perf_counter()
        conn.execute(query.encode()).fetchall()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)
