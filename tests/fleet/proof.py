"""A fleet of four servers: starts spread by key, one server stopped for a while, nothing lost and nothing doubled.

`python -m tests.fleet.proof` does it with 20,000 starts, and says how fast 1, 2 and 4 cells are and what a start costs;
PG_DURABLE_FLEET_STARTS, PG_DURABLE_FLEET_DOWN: how many starts, and for how many seconds at least a cell is down.
"""

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg

from generator.render import artifacts
from tests.cluster import Cluster
from tests.fleet.conftest import CELL, Fleet, prepare_front, programs
from tests.support import Database, Server, install, wait_until
from tests.worker.process import WorkerProcess

CELLS = ("c1", "c2", "c3", "c4")
STOPPED = "c3"
STARTERS = 4
FLOW = "df.seq('insert into effect select $input.n::int, 1', 'insert into effect select $input.n::int, 2')"
OPEN = "select count(*) from df.instances where status in ('pending', 'running')"
CONNECTION_LOST = ("08", "57P", "HV")  # classes of SQLSTATE, and what a server says that stops


@dataclass
class Site:
    """Servers, each a cell; the database with the fleet is on the first. One worker serves all."""

    clusters: dict[str, Cluster]
    fleet: Fleet
    flow: str
    worker: WorkerProcess | None = None
    refused: int = 0

    def serve(self) -> None:
        """Starts the worker, one process for all cells."""
        first, *others = self.fleet.cells.values()
        more = [word for cell in others for word in ("--dsn", cell.dsn("durable_worker"))]
        self.worker = worker = WorkerProcess(first, *more)
        wait_until(lambda: worker.log.count("registered") == len(self.clusters), 60, "the worker in all cells")

    def start(self, numbers: Sequence[int]) -> list[int]:
        """Starts a run for each number from several sessions; the numbers whose cell did not answer."""
        with ThreadPoolExecutor(STARTERS) as pool:
            parts = list(pool.map(self._start, [numbers[n::STARTERS] for n in range(STARTERS)]))
        return [number for part in parts for number in part]

    def _start(self, numbers: Sequence[int]) -> list[int]:
        failed = []
        with self.fleet.front.connect("app") as conn:
            for number in numbers:
                try:
                    conn.execute(
                        "select fleet.start(%s, %s, input => jsonb_build_object('n', %s::int))",
                        [f"run {number}", self.flow, number],
                    )
                except psycopg.Error as error:
                    if not str(error.sqlstate).startswith(CONNECTION_LOST):
                        raise
                    failed.append(number)
        return failed

    def open(self, *cells: str) -> int:
        """How many runs of some cells have not ended."""
        return sum(int(self.fleet.cells[name].admin(OPEN)) for name in cells)

    def await_end(self, *cells: str, seconds: float = 120) -> None:
        """Waits until no run of these cells is open."""
        wait_until(lambda: self.open(*cells) == 0, seconds, "the end of all runs")

    def effects(self) -> list[tuple[int, int]]:
        """What the steps have done, everywhere."""
        cells = self.fleet.cells.values()
        return sorted(row for cell in cells for row in cell.rows("select n, step from effect", user=None))


@contextmanager
def site(*cells: str, **options: str) -> Iterator[Site]:
    """The servers and the fleet, gone at the end."""
    with ExitStack() as stack:
        clusters = {name: stack.enter_context(Cluster(programs(), options)) for name in cells}
        fleet = Fleet(Database(Server(clusters[cells[0]].dsn()), "front"))
        made = Site(clusters, fleet, "")
        stack.callback(stop_worker, made)
        databases = {name: prepare_cell(cluster) for name, cluster in clusters.items()}
        databases[cells[0]].admin("create role owner login")
        databases[cells[0]].admin("create database front")
        prepare_front(fleet.front)
        for name, database in databases.items():
            fleet.add(name, database, clusters[name])
        fleet.owner("select fleet.rebalance()")
        made.flow = str(databases[cells[0]].sql(f"select {FLOW}"))
        made.serve()
        yield made


def stop_worker(made: Site) -> None:
    if made.worker:
        made.worker.kill()


def prepare_cell(cluster: Cluster) -> Database:
    """A cell, in the database postgres of a server."""
    db = Database(Server(cluster.dsn()), "postgres")
    db.admin("create role app login; create role durable_worker login; grant create on schema public to app")
    install(db.dsn(), artifacts()["dist/pg_durable.sql"], worker_role="durable_worker")
    install(db.dsn(), CELL)
    db.admin("select df.grant_usage('app')")
    db.sql("create table effect (n int, step int)")
    return db


def outage(made: Site, starts: int, down_for: float) -> None:
    """A cell is stopped while runs are started. The others end all of theirs meanwhile."""
    others = [name for name in CELLS if name != STOPPED]
    numbers = range(starts)
    third = starts // 3
    assert made.start(numbers[:third]) == []
    made.clusters[STOPPED].stop("immediate")
    stopped_at = time.monotonic()
    refused = made.start(numbers[third : 2 * third])
    assert 0 < len(refused) < third
    made.await_end(*others)
    assert_says_what_is_down(made.fleet)
    time.sleep(max(0.0, down_for - (time.monotonic() - stopped_at)))
    made.clusters[STOPPED].start()
    made.fleet.cells[STOPPED].connections.clear()
    made.refused = len(refused)
    refused += made.start(numbers[2 * third :])
    wait_until(lambda: not made.start(refused), 60, "the starts that were refused")
    made.await_end(*CELLS, seconds=600)


def assert_says_what_is_down(fleet: Fleet) -> None:
    rows = fleet.rows("select cell, reachable, error is null from fleet.cell_status")
    assert rows == [(name, name != STOPPED, name != STOPPED) for name in CELLS]
    listed = {cell for (cell,) in fleet.rows("select distinct cell from fleet.list_instances(limit_count => 1000)")}
    assert listed == set(CELLS) - {STOPPED}


def judge(made: Site, starts: int) -> None:
    """Every run is there once, in the cell of its key, and every effect of it."""
    assert made.effects() == [(n, step) for n in range(starts) for step in (1, 2)]
    for name, cell in made.fleet.cells.items():
        rows = cell.rows("select key, status from df.instances", user=None)
        assert {status for _, status in rows} == {"completed"}
        keys = [key for key, _ in rows]
        homes = made.fleet.rows("select distinct fleet.cell_of(k) from unnest(%s::text[]) k", keys)
        assert homes == [(name,)] and len(set(keys)) == len(keys)
        assert cell.rows("select * from df.check()", user=None) == []


def cost(made: Site, starts: int) -> dict[str, float]:
    """What a start costs its caller, in microseconds: medians, taken in turns."""
    cell, front = made.fleet.cells["c1"].connect("app"), made.fleet.front.connect("app")
    keys = [made.fleet.key_for("c1", f"cost {n}") for n in range(20)]
    ways = {
        "df.start": (cell, "select df.start('select 1')"),
        "df.start with a key": (cell, "select df.start('select 1', key => %s)"),
        "fleet.start": (front, "select fleet.start(%s, 'select 1')"),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for n in range(starts):
        for name, (conn, query) in ways.items():
            began = time.perf_counter()
            conn.execute(query.encode(), [f"{{{keys[n % 20]}}} {name} {n}"] if "%s" in query else None)
            taken[name].append((time.perf_counter() - began) * 1e6)
    return {name: statistics.median(times) for name, times in taken.items()}


def rate(made: Site, runs: int) -> float:
    """Runs of two steps a second, from the first start to the last end."""
    began = time.perf_counter()
    assert made.start(range(runs)) == []
    made.await_end(*made.fleet.cells, seconds=600)
    return runs / (time.perf_counter() - began)


def main() -> None:
    """Prints what has been shown, a line each."""
    starts = int(os.environ.get("PG_DURABLE_FLEET_STARTS", "20000"))
    down_for = float(os.environ.get("PG_DURABLE_FLEET_DOWN", "60"))
    with site(*CELLS) as made:
        outage(made, starts, down_for)
        judge(made, starts)
        say(f"{starts} starts, one of four cells down for {down_for:.0f} s: {made.refused} refused, all ran once")
    for number in (1, 2, 4):
        with site(*CELLS[:number], fsync="on") as made:
            if number == 1:
                times = cost(made, 400)
                say(*(f"{name}: {time:.0f} us, {times['fleet.start'] / time:.2f}" for name, time in times.items()))
            found, cores, load = rate(made, starts // 10), os.cpu_count(), os.getloadavg()[0]
            say(f"cells: {number}, runs/s: {found:.0f}, cores: {cores}, load: {load:.0f}")


def say(*lines: str) -> None:
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
