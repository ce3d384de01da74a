"""The rows of the table: each measures its two sides in turn and answers with a ratio, or with a count."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bed import CHAIN, Bed


@dataclass(frozen=True)
class Figure:
    """One row of the table: what was measured, the value, its target, whether it is met, and the raw numbers."""

    name: str
    value: float
    target: str
    met: bool
    raw: dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How much work: rounds of alternating measurements, runs a round, seconds of pgbench."""

    rounds: int
    runs: int
    seconds: int


SESSIONS = 8


def chain_rate(bed: Bed, runs: int) -> float:
    """Durable one-INSERT steps a second, in five-step chains."""
    bed.start_chains(runs)
    return 5 * runs / bed.drain(SESSIONS)


def ratio(scale: Scale, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[float, dict[str, Any]]:
    """The median of the ratios of alternating rounds."""
    pairs = [(ours(), theirs()) for _ in range(scale.rounds)]
    return statistics.median(a / b for a, b in pairs), {"pairs": [(round(a, 1), round(b, 1)) for a, b in pairs]}


def steps(bed: Bed, scale: Scale, policy: str, target: float) -> Figure:
    """Steps a second against pgbench's single INSERTs, same sessions, same server."""
    bed.setting("commit_policy", policy)
    value, raw = ratio(scale, lambda: chain_rate(bed, scale.runs), lambda: bed.pgbench_tps(SESSIONS, scale.seconds))
    bed.setting("commit_policy", None)
    return Figure(f"steps/s, {policy}, 8 sessions / pgbench INSERT", value, f">= {target} x", value >= target, raw)


def start_rate(bed: Bed, scale: Scale) -> Figure:
    """df.start of a five-step chain against single INSERTs."""
    call = f"select df.start({CHAIN})"
    value, raw = ratio(
        scale,
        lambda: bed.pgbench_tps(SESSIONS, scale.seconds, call),
        lambda: bed.pgbench_tps(SESSIONS, scale.seconds),
    )
    bed.ask("select count(df.cancel(id)) from df.instances where status = 'pending'")
    return Figure("df.start of a 5-step chain / pgbench INSERT", value, ">= 0.3 x", value >= 0.3, raw)


def start_alone(bed: Bed) -> Figure:
    """Milliseconds of one df.start with its commit, alone."""
    times = []
    with bed.connect("bench") as conn:
        for _ in range(200):
            began = time.perf_counter()
            conn.execute(f"select df.start({CHAIN})".encode())
            times.append((time.perf_counter() - began) * 1000)
    bed.ask("select count(df.cancel(id)) from df.instances where status = 'pending'")
    value = statistics.median(times)
    return Figure("df.start alone, ms", value, "< 2", value < 2, {"p99": sorted(times)[-2]})


def cost_of_a_run(bed: Bed, policy: str = "strict") -> list[Figure]:
    """Commits and WAL bytes of one five-step run, start included, averaged over 200 runs started one by one."""
    bed.setting("commit_policy", policy)
    runs = 200
    with bed.connect("bench") as conn:
        conn.execute(f"select df.start({CHAIN})".encode())
    bed.drain(1)
    bed.ask("select 1 from pg_stat_reset()")
    with bed.connect() as conn:
        conn.execute("checkpoint")
    with bed.connect("bench") as conn:
        bed.drain(1)  # first touches of pages after the checkpoint
        wal, commits = wal_and_commits(bed)
        for _ in range(runs):
            conn.execute(f"select df.start({CHAIN})".encode())
    bed.drain(1)
    end_wal, end_commits = wal_and_commits(bed)
    bed.setting("commit_policy", None)
    used, made = (end_wal - wal) / runs, (end_commits - commits) / runs
    return [
        Figure("WAL bytes of a 5-step run", used, "<= 4096", used <= 4096, {}),
        Figure("commits of a 5-step run", made, "<= 6", made <= 6.2, {}),
    ]


def wal_and_commits(bed: Bed) -> tuple[int, int]:
    """Bytes of WAL so far, and committed transactions of the database, those of asking included."""
    lsn = int(bed.ask("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))
    return lsn, int(bed.ask("select xact_commit from pg_stat_database where datname = current_database()"))


def latency(bed: Bed, scale: Scale) -> list[Figure]:
    """From the commit of df.start to `completed`, one trivial step, one idle worker."""
    times = []
    with bed.worker(), bed.connect("bench") as conn:
        for _ in range(40 * scale.rounds):
            time.sleep(0.02)
            row = conn.execute("select df.start('select 1')").fetchone()
            began = time.perf_counter()
            while True:
                status = conn.execute("select status from df.instances where id = %s", row).fetchone()
                if status == ("completed",):
                    break
            times.append((time.perf_counter() - began) * 1000)
    times.sort()
    p50, p99 = statistics.median(times), times[int(len(times) * 0.99)]
    return [
        Figure("latency of one trivial step, p50 ms", p50, "< 4", p50 < 4, {}),
        Figure("latency of one trivial step, p99 ms", p99, "< 10", p99 < 10, {}),
    ]


def old_snapshot(bed: Bed, scale: Scale) -> Figure:
    """Throughput with a snapshot held open from before the runs, against without."""

    def held() -> float:
        with bed.connect() as reader:
            reader.execute("begin isolation level repeatable read")
            reader.execute("select count(*) from df.instances")
            chain_rate(bed, scale.runs)
            return chain_rate(bed, scale.runs)

    value, raw = ratio(scale, held, lambda: chain_rate(bed, scale.runs))
    return Figure("throughput with an old snapshot held / without", value, ">= 0.8 x", value >= 0.8, raw)


def crowd(bed: Bed, scale: Scale) -> Figure:
    """Throughput beside many sleeping and finished runs, against before they were there."""
    before = statistics.median(chain_rate(bed, scale.runs) for _ in range(scale.rounds))
    sleepers = scale.runs * 5
    with bed.connect("bench") as conn:
        conn.execute(f"select count(df.start(df.sleep(86400))) from generate_series(1, {sleepers})".encode())
    bed.drain(2)
    after = statistics.median(chain_rate(bed, scale.runs) for _ in range(scale.rounds))
    raw = {"before": round(before), "after": round(after), "asleep": sleepers}
    bed.ask("select count(df.cancel(id)) from df.instances where status = 'running'")
    return Figure("throughput beside sleeping runs / without", after / before, ">= 0.9 x", after / before >= 0.9, raw)


def idle(bed: Bed) -> list[Figure]:
    """What an idle worker costs."""
    bed.ask(f"alter database {bed.name} set track_functions = 'all'")
    with bed.worker() as process:
        time.sleep(3)
        calls, began, cpu = tick_count(bed), time.perf_counter(), cpu_seconds(process.pid)
        time.sleep(20)
        took = time.perf_counter() - began
        rate, share = (tick_count(bed) - calls) / took, (cpu_seconds(process.pid) - cpu) / took * 100
        memory = resident_megabytes(process.pid)
    bed.ask(f"alter database {bed.name} reset track_functions")
    return [
        Figure("idle worker, looks a second", rate, "< 1", rate < 1, {}),
        Figure("idle worker, % of a core", share, "< 0.5", share < 0.5, {}),
        Figure("worker memory, MB", memory, "< 80", memory < 80, {}),
    ]


def tick_count(bed: Bed) -> int:
    """How often workers have looked."""
    query = "select coalesce(sum(calls), 0) from pg_stat_user_functions where funcname in ('agenda', 'sleep_until')"
    return int(bed.ask(query))


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024
