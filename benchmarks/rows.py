"""Speed: each row measures its two sides in turn and answers with a ratio, or with milliseconds."""

import statistics
import time

from benchmarks import yardstick
from benchmarks.bed import CHAIN, Bed
from benchmarks.figures import Figure, Scale, at_least, at_most, ratio, ratios
from benchmarks.runs import copies
from generator.render import artifacts

SESSIONS = 8
WARM_UP = 10  # runs a session


def chain_rate(bed: Bed, runs: int, sessions: int = SESSIONS) -> float:
    """Durable one-INSERT steps a second, in five-step chains. As by pgbench, the beginning of a session is left out."""
    with bed.crew(sessions) as crew:
        bed.start_chains(WARM_UP * sessions)
        crew.drain()
        bed.start_chains(runs)
        return 5 * runs / crew.drain()


def steps(bed: Bed, scale: Scale, policy: str, target: float) -> list[Figure]:
    """Steps a second against pgbench's single INSERTs and the yardstick's steps, same sessions, same server."""
    bed.setting("commit_policy", policy)
    (insert, bare), raw = ratios(
        scale.rounds,
        lambda: chain_rate(bed, scale.runs),
        lambda: bed.pgbench_tps(SESSIONS, scale.seconds),
        lambda: yardstick.chain_rate(bed, scale.runs, SESSIONS),
    )
    bed.setting("commit_policy", None)
    return [
        at_least(f"steps/s, {policy}, 8 sessions / pgbench INSERT", insert, target, raw),
        Figure(f"steps/s, {policy}, 8 sessions / the yardstick's, strict", bare, raw=raw),
    ]


def start_rate(bed: Bed, scale: Scale) -> list[Figure]:
    """df.start of a five-step chain against single INSERTs and the yardstick's start."""
    call = f"select df.start({CHAIN})"
    (insert, bare), raw = ratios(
        scale.rounds,
        lambda: bed.pgbench_tps(SESSIONS, scale.seconds, call),
        lambda: bed.pgbench_tps(SESSIONS, scale.seconds),
        lambda: bed.pgbench_tps(SESSIONS, scale.seconds, f"select {yardstick.START}"),
    )
    cancel_pending(bed)
    return [
        at_least("df.start of a 5-step chain / pgbench INSERT", insert, 0.5, raw),
        Figure("df.start of a 5-step chain / the yardstick's", bare, raw=raw),
    ]


def new_graph_rate(bed: Bed, scale: Scale) -> Figure:
    """df.start of a five-step chain that nobody has started before."""
    first = "format('insert into fx values (%s, ''x'') returning i', (:n)::int)"
    call = f"\\set n random(1, 2000000000)\nselect df.start({first} ~> {CHAIN.partition(' ~> ')[2]})"
    value, raw = ratio(
        scale.rounds,
        lambda: bed.pgbench_tps(SESSIONS, scale.seconds, call),
        lambda: bed.pgbench_tps(SESSIONS, scale.seconds),
    )
    cancel_pending(bed)
    return at_least("df.start of a new graph each time / pgbench INSERT", value, 0.25, raw)


def bulk_start(bed: Bed, scale: Scale) -> Figure:
    """Starts a second of one statement that starts many; rolled back."""
    query = f"select count(df.start({CHAIN})) from generate_series(1, {scale.starts})"
    with bed.connect("bench") as conn, conn.transaction(force_rollback=True):
        began = time.perf_counter()
        conn.execute(query.encode())
        rate = scale.starts / (time.perf_counter() - began)
    bed.tidy()
    return Figure(f"starts/s, {scale.starts:,} in one statement", rate, ">= 20000", rate >= 20_000)


def start_alone(bed: Bed) -> Figure:
    """Milliseconds of one df.start with its commit, alone."""
    times = []
    with bed.connect("bench") as conn:
        for _ in range(200):
            began = time.perf_counter()
            conn.execute(f"select df.start({CHAIN})".encode())
            times.append((time.perf_counter() - began) * 1000)
    cancel_pending(bed)
    return at_most("df.start alone, ms", statistics.median(times), 2, raw={"p99": sorted(times)[-2]})


def cancel_pending(bed: Bed) -> None:
    """Ends what was started only to measure the start."""
    bed.ask("select count(df.cancel(id)) from df.instances where status = 'pending'")
    bed.drain(2)
    bed.tidy()


def latency(bed: Bed, scale: Scale) -> list[Figure]:
    """From the commit of df.start to `completed`, one trivial step, one idle worker."""
    times = []
    with bed.worker(), bed.connect("bench") as conn:
        for _ in range(40 * scale.rounds):
            time.sleep(0.02)  # the worker goes to sleep
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
        at_most("latency of one trivial step, p50 ms", p50, 2),
        at_most("latency of one trivial step, p99 ms", p99, 6),
    ]


def old_snapshot(bed: Bed, scale: Scale) -> Figure:
    """Throughput with a snapshot held open from before the runs, against without."""

    def held() -> float:
        with bed.connect() as reader:
            reader.execute("begin isolation level repeatable read")
            reader.execute("select count(*) from df.instances")
            chain_rate(bed, scale.runs)
            return chain_rate(bed, scale.runs)

    value, raw = ratio(scale.rounds, held, lambda: chain_rate(bed, scale.runs))
    return at_least("throughput with an old snapshot held / without", value, 0.9, raw)


def crowd(bed: Bed, scale: Scale) -> Figure:
    """Throughput beside sleeping runs and finished runs that are kept, against that of a new database."""
    empty = bed.twin(artifacts()["dist/pg_durable.sql"])
    chain_rate(empty, 50)
    bed.start("df.sleep(86400)", scale.asleep)
    bed.drain(2)
    kept = bed.ask("select id from df.instances where status = 'completed' limit 1")
    copies(bed, kept, scale.kept)
    value, raw = ratio(scale.rounds, lambda: chain_rate(bed, scale.runs), lambda: chain_rate(empty, scale.runs))
    raw |= {"asleep": scale.asleep, "kept": bed.ask("select count(*) from df.instances where status = 'completed'")}
    return at_least(
        f"throughput beside {scale.asleep:,} sleeping, {scale.kept:,} kept runs / without", value, 0.95, raw
    )
