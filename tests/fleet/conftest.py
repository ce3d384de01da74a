"""Fleets: a database with the fleet, and cells, all on one server, or each cell on a server of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from generator.render import artifacts
from tests.cluster import Cluster, under_test
from tests.places.conftest import DEBIAN, make, spawn
from tests.support import Database, Pump, Server, install
from tests.worker.process import ENDED

__all__ = ["make", "spawn"]

FLEET, CELL = (artifacts()[f"dist/{name}.sql"] for name in ("pg_durable_fleet", "pg_durable_fleet_cell"))
STRANGE = """c"'2 %s ; drop"""
OPTIONS = "host {}, port '{}', dbname {}, connect_timeout '5'"


def programs() -> Path:
    """The programs under test where they have postgres_fdw, else Debian's."""
    for found in (under_test(), DEBIAN):
        share = Path(*found.parts[:-1], "share") if found != DEBIAN else Path("/usr/share/postgresql/15/extension")
        if (found / "initdb").exists() and any(share.rglob("postgres_fdw.control")):
            return found
    pytest.skip("no server here has postgres_fdw (apt-get install postgresql-15)")


@dataclass
class Fleet:
    """The database with the fleet, and its cells by name. `sql` asks the fleet as app, `owner` as its owner."""

    front: Database
    cells: dict[str, Database] = field(default_factory=dict)

    def rows(self, query: str, *args: Any, user: str | None = "app") -> list[tuple[Any, ...]]:
        return self.front.rows(query, *args, user=user)

    def sql(self, query: str, *args: Any, user: str | None = "app") -> Any:
        return self.front.sql(query, *args, user=user)

    def owner(self, query: str, *args: Any) -> Any:
        return self.front.sql(query, *args, user="owner")

    def start(self, key: str | None, flow: str = "select 1", **options: Any) -> str:
        """Starts a run as app; its id in the fleet."""
        named = "".join(f", {name} => %s" for name in options)
        return str(self.sql(f"select fleet.start(%s, %s{named})", key, flow, *options.values()))

    def add(self, name: str, cell: Database, cluster: Cluster) -> None:
        """Adds a cell, with a mapping of app and of the owner that asks for no password."""
        self.cells[name] = cell
        options = OPTIONS.format(literal(cluster.home), cluster.options.get("port", "5432"), literal(cell.name))
        server = quoted(f"to {name}")
        self.front.admin(f"create server {server} foreign data wrapper postgres_fdw options ({options})")
        self.front.admin(f"grant usage on foreign server {server} to owner")
        for role in ("app", "owner"):
            self.front.admin(
                f"create user mapping for {role} server {server} options (user 'app', password_required 'false')"
            )
        self.owner("select fleet.add_cell(%s, %s)", name, f"to {name}")

    def cell_of(self, run: str) -> Database:
        """The cell in which a run is."""
        query = "select c.name from fleet.places p join fleet.cells c on c.number = p.cell where p.place = %s"
        return self.cells[self.sql(query, int(run[:3], 16))]

    def key_for(self, cell: str, prefix: str = "k") -> str:
        """A key whose runs go to a cell."""
        return next(
            key
            for key in (f"{prefix} {number}" for number in range(1000))
            if self.sql("select fleet.cell_of(%s)", key) == cell
        )


def literal(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def prepare_front(db: Database) -> None:
    """Installs the fleet as a role that is no superuser."""
    db.admin("create extension postgres_fdw; grant usage on foreign data wrapper postgres_fdw to owner")
    grants = sql.SQL("grant create on database {} to owner").format(sql.Identifier(db.name))
    with db.connect() as conn:
        conn.execute(grants)
    install(db.dsn("owner"), FLEET)
    db.sql("grant usage on schema fleet to app", user="owner")


@pytest.fixture(scope="session")
def site() -> Iterator[tuple[Cluster, Server]]:
    """A server with the templates front and cell."""
    with Cluster(programs()) as cluster:
        server = Server(cluster.dsn())
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            for role in ("app", "other", "owner", "durable_worker"):
                conn.execute(f"create role {role} login".encode())
            for name in ("front", "cell"):
                conn.execute(f"create database {name}".encode())
        cell = Database(server, "cell")
        install(cell.dsn(), artifacts()["dist/pg_durable.sql"], worker_role="durable_worker")
        install(cell.dsn(), CELL)
        cell.admin("select df.grant_usage('app'), df.grant_usage('other'); grant create on schema public to app")
        prepare_front(front := Database(server, "front"))
        for conn in (*front.connections.values(), *cell.connections.values()):
            conn.close()
        yield cluster, server


@contextmanager
def made(site: tuple[Cluster, Server], *cells: str) -> Iterator[Fleet]:
    """A fleet whose cells share the buckets."""
    cluster, server = site
    fleet = Fleet(Database.clone(server, "front"))
    for name in cells:
        fleet.add(name, Database.clone(server, "cell"), cluster)
    if cells:
        fleet.owner("select fleet.rebalance()")
    yield fleet
    for db in (fleet.front, *fleet.cells.values()):
        db.drop()


@pytest.fixture(scope="module")
def fleet(site: tuple[Cluster, Server]) -> Iterator[Fleet]:
    """A fleet for tests that leave its cells as they are; one of them has a name that is hard to quote."""
    with made(site, "c1", STRANGE) as fleet:
        yield fleet


@pytest.fixture
def own(site: tuple[Cluster, Server]) -> Iterator[Fleet]:
    """A test's own fleet of two cells."""
    with made(site, "c1", "c2") as fleet:
        yield fleet


@pytest.fixture(scope="module")
def pumps(fleet: Fleet) -> Iterator[dict[str, Pump]]:
    """A worker for each cell."""
    made = {name: Pump(cell) for name, cell in fleet.cells.items()}
    yield made
    for pump in made.values():
        pump.close()


def end(fleet: Fleet, pumps: dict[str, Pump], run: str) -> str:
    """The status with which a run ends."""
    pump = next(pump for pump in pumps.values() if pump.db is fleet.cell_of(run))
    pump.until(lambda: fleet.sql("select fleet.status(%s)", run) in ENDED, 60)
    return str(fleet.sql("select fleet.status(%s)", run))
