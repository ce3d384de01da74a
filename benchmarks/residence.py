"""What a worker costs while it does nothing, and what it keeps while it does much."""

import time

from benchmarks.bed import CHAIN, Bed
from benchmarks.figures import Figure, Scale, at_most
from benchmarks.processes import cpu_seconds, resident_megabytes

BATCH = 2_000  # runs; what is started at once


def idle(bed: Bed, scale: Scale) -> list[Figure]:
    """What an idle worker costs."""
    bed.ask(f"alter database {bed.name} set track_functions = 'all'")
    with bed.worker() as process:
        time.sleep(3)
        calls, began, cpu = polls(bed), time.perf_counter(), cpu_seconds(process.pid)
        time.sleep(scale.idle_seconds)
        took = time.perf_counter() - began
        rate, share = (polls(bed) - calls) / took, (cpu_seconds(process.pid) - cpu) / took * 100
    bed.ask(f"alter database {bed.name} reset track_functions")
    return [at_most("idle worker, polls a second", rate, 1), at_most("idle worker, % of a core", share, 0.5)]


def polls(bed: Bed) -> int:
    """How often workers have polled."""
    query = "select coalesce(sum(calls), 0) from pg_stat_user_functions where funcname in ('work_list', 'say_idle')"
    return int(bed.ask(query))


def memory(bed: Bed, scale: Scale) -> list[Figure]:
    """A worker's memory after a tenth of many steps, and after all of them."""
    sizes = []
    with bed.worker() as process:
        for steps in (scale.memory_steps // 10, scale.memory_steps - scale.memory_steps // 10):
            serve(bed, steps // 5)
            sizes.append(resident_megabytes(process.pid))
    raw = {"megabytes": [round(size, 1) for size in sizes], "steps": scale.memory_steps}
    return [
        at_most("worker memory, MB", sizes[1], 80, raw=raw),
        at_most(f"worker memory after {scale.memory_steps:,} steps / a tenth", sizes[1] / sizes[0], 1.05, " x", raw),
    ]


def serve(bed: Bed, runs: int) -> None:
    """Starts five-step chains in batches, each when the last was served."""
    for first in range(0, runs, BATCH):
        bed.start(CHAIN, min(BATCH, runs - first))
        bed.await_served()
