"""What one of each construct costs, as CPU of the server against a chain's step with a reference; a map of many rows;
many waits for one key."""

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.bed import Bed, call_work
from benchmarks.figures import Figure, Scale, at_most
from benchmarks.processes import cpu_seconds, resident_megabytes

INSERT = "insert into fx values ($a, ''x'') returning i"
STEP = f"'{INSERT}' |=> 'a'"
FIRST = "'select 1 as i' |=> 'a'"
EACH = 20  # of a construct in a run
ITEMS = 1_000
CONSTRUCTS = {
    "catch": f"df.catch({STEP}, 'select 1')",
    "time-out": f"df.timeout({STEP}, 3600)",
    "any of a step and a wait": f"df.any({STEP}, df.wait_for_signal('never'))",
    "undo, registered": f"df.undo({STEP}, {STEP})",
    "block of one statement": f"df.block('{INSERT}') |=> 'a'",
    "call of a run of one step": "df.call('insert into fx values ($input, ''x'') returning i', '$a') |=> 'a'",
    "loop of one turn": f"df.loop({STEP}, 'select false')",
}
ENDED = "select not exists (select from df.instances where finished_at is null)"


@contextmanager
def alone(bed: Bed) -> Iterator[Callable[[], float]]:
    """One session and one supervising connection: what they are given runs to its end; answers with their CPU time."""
    with bed.session() as session, bed.connect("bench_worker") as supervisor, bed.connect() as looker:
        worker = supervisor.execute("select df_engine.register_worker()").fetchone()
        pids = [conn.info.backend_pid for conn in (session, supervisor)]

        def run() -> float:
            began = sum(map(cpu_seconds, pids))
            while looker.execute(ENDED).fetchone() != (True,):
                call_work(session)
                supervisor.execute("call df_engine.tick(%s, null)", worker)
            return sum(map(cpu_seconds, pids)) - began

        yield run


def seconds_each(bed: Bed, run: Callable[[], float], flow: str, runs: int, each: int) -> float:
    """CPU of one of what a flow has so many of."""
    bed.start(flow, runs)
    bed.tidy()
    return run() / (runs * each)


def each_construct(bed: Bed, scale: Scale) -> list[Figure]:
    """All constructs in each round, beside the chain's step."""
    runs = max(5, scale.runs // 100)
    flows = {"": (" ~> ".join([FIRST, *[STEP] * EACH]), runs, EACH)}
    flows |= {name: (" ~> ".join([FIRST, *[one] * EACH]), runs, EACH) for name, one in CONSTRUCTS.items()}
    turns = f"df.loop('insert into fx values ($a + 1, ''x'') returning i' |=> 'a', 'select $a < {EACH}')"
    flows["turn of a loop, with its condition"] = f"{FIRST} ~> {turns}", runs, EACH - 1
    items = f"'select generate_series(1, {ITEMS}) as i'"
    flows["item of a map"] = f"df.map({items}, 'insert into fx values ($item.i, ''x'') returning i', 50)", 1, ITEMS
    found: dict[str, list[float]] = {name: [] for name in flows}
    with alone(bed) as run:
        for flow, _, _ in flows.values():
            seconds_each(bed, run, flow, 1, 1)
        for number in range(scale.rounds):
            for name in sorted(flows, reverse=number % 2 == 1):
                found[name].append(seconds_each(bed, run, *flows[name]))
    raw = {name or "step": [round(value * 1e6) for value in values] for name, values in found.items()}
    figures = [Figure("a chain's step with a reference, us of CPU", statistics.median(found[""]) * 1e6, raw=raw)]
    for name in [name for name in flows if name]:
        value = statistics.median(one / step for one, step in zip(found[name], found[""], strict=True))
        what = f"{name} / a chain's step with a reference"
        figures.append(at_most(what, value, 1.5, " x") if name == "item of a map" else Figure(what, value))
    return figures


def anonymous_megabytes(pid: int) -> float:
    """Memory of a process that is its own; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/status").read_text().split("RssAnon:")[1].split()[0]) / 1024
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


class Watch:
    """Looks at the server's sessions of the bed, again and again, in a thread: the largest one, how many are active."""

    def __init__(self, bed: Bed, worker: int) -> None:
        self.largest = 0.0
        self.active = 0
        self.worker = 0.0
        self._bed, self._pid, self._done = bed, worker, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        query = "select pid, state = 'active' from pg_stat_activity where usename in ('bench', 'bench_worker')"
        with self._bed.connect() as conn:
            while not self._done.wait(0.05):
                rows = conn.execute(query).fetchall()
                self.active = max(self.active, sum(1 for _, active in rows if active))
                self.largest = max([self.largest, *(anonymous_megabytes(pid) for pid, _ in rows)])
                self.worker = max(self.worker, resident_megabytes(self._pid))


def server_cpu(conn: psycopg.Connection[Any]) -> float:
    """CPU time of all sessions of the server, those that have ended included."""
    postmaster = conn.execute("select pg_read_file('postmaster.pid')").fetchone()
    assert postmaster is not None
    main = int(str(postmaster[0]).split()[0])
    fields = Path(f"/proc/{main}/stat").read_text().rsplit(")", 1)[1].split()
    ended = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    pids = conn.execute("select pid from pg_stat_activity where usename in ('bench', 'bench_worker')").fetchall()
    return ended + sum(cpu_seconds(pid) for (pid,) in pids)


def milliseconds(conn: psycopg.Connection[Any], query: str, *args: Any) -> float:
    """How long a query takes, the median of five."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        conn.execute(query.encode(), args).fetchall()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


READINGS = {
    "df.explain": "select df.explain(%s)",
    "df.nodes of it without results": "select id, status, attempts, started_at from df.nodes where instance_id = %s",
    "df.nodes of it with the result of its items": "select * from df.nodes where instance_id = %s",
    "df.instances": "select *, %s from df.instances",
    "df.instance_nodes": "select * from df.instance_nodes(%s)",
}


def large_map(bed: Bed, scale: Scale) -> list[Figure]:
    """A map of many rows, 50 at the same time, by one worker."""
    rows, sizes = scale.starts, []
    flow = f"df.map('select generate_series(1, {rows}) as i', 'insert into fx values ($item.i, ''x'')', 50)"
    with bed.worker() as process, bed.connect() as looker, Watch(bed, process.pid) as watch:
        bed.ask("truncate fx")
        chains = rows // 10 // EACH
        began = server_cpu(looker)
        bed.start(" ~> ".join([FIRST, *[STEP] * EACH]), chains)
        bed.await_true(ENDED, poll=0.05)
        step = (server_cpu(looker) - began) / (chains * EACH)
        bed.ask("truncate fx")
        watch.largest = 0
        began, clock = server_cpu(looker), time.perf_counter()
        [run] = bed.start(flow, 1)
        for share in (10, 2):
            bed.await_true("select count(*) >= %s from fx", rows // share, poll=0.2)
            sizes.append((watch.largest, watch.worker))
        reads = {name: milliseconds(looker, query, run) for name, query in READINGS.items()}
        bed.await_true(ENDED, poll=0.05)
        took, item = time.perf_counter() - clock, (server_cpu(looker) - began) / rows
        sizes.append((watch.largest, watch.worker))
    status = bed.ask("select status from df.instances where id = %s", run)
    if (status, bed.ask("select count(*) from fx")) != ("completed", rows):
        raise RuntimeError("the map has not completed")
    raw = {"rows": rows, "seconds": round(took, 1), "largest session and worker, MB, at 10 %, 50 %, 100 %": sizes}
    return [
        at_most(f"map of {rows:,} rows, CPU of the server an item / a chain's step", item / step, 1.5, " x", raw),
        at_most("its largest session, MB at the end / at a tenth", sizes[-1][0] / sizes[0][0], 1.2, " x", raw),
        at_most("its worker, MB at the end / at a tenth", sizes[-1][1] / sizes[0][1], 1.05, " x", raw),
        *(Figure(f"beside it half way: {name}, ms", value) for name, value in reads.items()),
    ]


def idle(bed: Bed, worker: int, seconds: int = 20) -> tuple[float, float]:
    """Transactions a second and the worker's share of a core, in percent, while nothing is to be done."""
    commits = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"
    time.sleep(15)  # idle sessions publish what they have done after ten seconds
    cpu, before = cpu_seconds(worker), bed.ask(commits)
    time.sleep(seconds)  # the idle time that is measured
    return (bed.ask(commits) - before) / seconds, (cpu_seconds(worker) - cpu) / seconds * 100


def many_waits(bed: Bed, scale: Scale) -> list[Figure]:
    """Waits for one key: all are checked after one poke, and cost nothing until then."""
    waits = scale.asleep
    checked = "select count(*) from df.instances where status = 'running' and label = 'waits'"
    flow = "df.wait_for('select exists (select from fx where t = ''go'')', '1 hour', 'one key')"
    with bed.worker() as process, bed.connect("bench") as conn:
        bed.ask("truncate fx")
        without, _ = idle(bed, process.pid)
        start = f"select count(df.start(f, 'waits')) from (select {flow} as f) f, generate_series(1, {waits})"
        conn.execute(start.encode())
        bed.await_served()
        if bed.ask(checked) != waits:
            raise RuntimeError("not all wait")
        beside, share = idle(bed, process.pid)
        with Watch(bed, process.pid) as watch:
            began = time.perf_counter()
            conn.execute("insert into fx values (1, 'go')")
            conn.execute("select df.poke('one key')")
            bed.await_true(ENDED, poll=0.05)
            took = time.perf_counter() - began
    raw = {"waits": waits, "seconds": round(took, 2)}
    return [
        Figure(f"{waits:,} waits for one key: us a wait from a poke to the end of all", took / waits * 1e6, raw=raw),
        at_most("sessions that are active at the same time then", watch.active, 8 + 1),
        Figure("transactions a second while they wait", beside),
        Figure("the same without any run", without),
        at_most("worker while they wait, % of a core", share, 0.5),
    ]
