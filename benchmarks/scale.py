"""How steps a second grow with sessions and with worker processes."""

import os
import statistics
import time

from benchmarks.bed import CHAIN, Bed
from benchmarks.figures import Figure, Scale
from benchmarks.rows import chain_rate

SESSIONS = (1, 2, 4, 8, 16)
WORKERS = (1, 2, 4)


def by_sessions(bed: Bed, scale: Scale) -> list[Figure]:
    """Sessions that do nothing but work; the rounds alternate over their numbers."""
    rates: dict[int, list[float]] = {number: [] for number in SESSIONS}
    for _ in range(scale.rounds):
        for number, found in rates.items():
            found.append(chain_rate(bed, scale.runs, number))
    return [row(f"steps/s, sessions: {number}", found) for number, found in rates.items()]


def by_workers(bed: Bed, scale: Scale) -> list[Figure]:
    """Real workers of eight sessions each, from the commit of the starts to the last step."""
    rates: dict[int, list[float]] = {number: [] for number in WORKERS}
    for _ in range(scale.rounds):
        for number, found in rates.items():
            with bed.workers(number):
                found.append(served_rate(bed, scale.runs))
    return [row(f"steps/s, worker processes: {number}", found) for number, found in rates.items()]


def served_rate(bed: Bed, runs: int) -> float:
    """Steps a second of the workers that run, the starts not included."""
    bed.start(CHAIN, runs)
    return 5 * runs / bed.await_served()


def run_rate(bed: Bed, runs: int) -> float:
    """Five-step runs a second of the workers that run, the starts included."""
    began = time.perf_counter()
    bed.start(CHAIN, runs)
    bed.await_served()
    return runs / (time.perf_counter() - began)


def row(name: str, rates: list[float]) -> Figure:
    """The median of the rounds."""
    raw = {"rounds": [round(rate) for rate in rates], "cores": os.cpu_count()}
    return Figure(name, statistics.median(rates), raw=raw)
