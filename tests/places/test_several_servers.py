"""One worker for databases on four servers: one that is lost, or a worker that is killed, costs nobody anything."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.places.conftest import MakeCluster, home
from tests.support import Database, wait_until
from tests.worker.process import Gate, WorkerProcess, await_end, run, start

pytestmark = pytest.mark.slow
EFFECT = "'insert into effects values ({})'"


@pytest.fixture
def cells(make: MakeCluster) -> list[tuple[Cluster, Database]]:
    """Four servers, each with a database of the same name in which steps leave effects."""
    found = []
    for _ in range(4):
        cluster = make()
        db = home(cluster)
        db.sql("create table effects (i int)")
        found.append((cluster, db))
    return found


@pytest.fixture
def workers(cells: list[tuple[Cluster, Database]], tmp_path: Path) -> Iterator[list[WorkerProcess]]:
    """A worker for all, the first from the command line and the others from a file; more can be put into the list."""
    file = tmp_path / "databases"
    file.write_text("".join(f"{db.dsn('durable_worker')}\n" for _, db in cells[1:]))
    made = [WorkerProcess(cells[0][1], "--dsn-file", str(file))]
    yield made
    for worker in made:
        if worker.process.poll() is None:
            worker.kill()


def all_registered(worker: WorkerProcess) -> None:
    wait_until(lambda: worker.log.count("registered") == 4, 60, worker.log)


def effects(db: Database) -> list[int]:
    return [number for (number,) in db.rows("select i from effects order by i", user=None)]


def test_a_server_that_is_lost_disturbs_no_other_and_its_runs_go_on_when_it_is_back(
    cells: list[tuple[Cluster, Database]], workers: list[WorkerProcess]
) -> None:
    [worker] = workers
    all_registered(worker)
    (lost, of_lost), *others = cells
    gates = [Gate(db) for _, db in others]
    held = [start(db, f"'{Gate.STEP}' ~> {EFFECT.format(1)}") for _, db in others]
    waiting = start(of_lost, f"{EFFECT.format(1)} ~> df.sleep(1) ~> {EFFECT.format(2)}")
    wait_until(lambda: effects(of_lost) == [1] and all(gate.waiting for gate in gates), 60)
    lost.stop("immediate")
    worker.logged(f"not connected database={lost.home}:5432/postgres")
    for _, db in others:
        run(db, EFFECT.format(2), 60)
    assert worker.log.count("not connected") == worker.log.count(f"not connected database={lost.home}")
    for gate in gates:
        gate.open()
    for (_, db), instance in zip(others, held, strict=True):
        assert await_end(db, instance, 60) == "completed"
        assert effects(db) == [1, 2]
    lost.restart()
    of_lost.connections.clear()
    assert await_end(of_lost, waiting, 90) == "completed"
    assert effects(of_lost) == [1, 2]
    assert worker.log.count("registered") == 5
    assert worker.stop() == 0


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_done_twice(
    cells: list[tuple[Cluster, Database]], workers: list[WorkerProcess], tmp_path: Path
) -> None:
    all_registered(workers[0])
    gates = [Gate(db) for _, db in cells]
    flow = f"{EFFECT.format(0)} ~> {EFFECT.format(1)} ~> '{Gate.STEP}' ~> {EFFECT.format(2)}"
    runs = [(db, start(db, flow)) for _, db in cells for _ in range(10)]
    wait_until(lambda: all(gate.waiting for gate in gates), 60)
    workers[0].kill()
    workers.append(WorkerProcess(cells[0][1], "--dsn-file", str(tmp_path / "databases")))
    for gate in gates:
        gate.open()
    assert {await_end(db, instance, 90) for db, instance in runs} == {"completed"}
    for _, db in cells:
        assert effects(db) == sorted(10 * [0, 1, 2])
