"""What managed servers are like: no superuser, an owner who makes roles, or one role for all, passwords that change."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from generator.render import artifacts
from tests.cluster import Cluster, free_port
from tests.places.conftest import MakeCluster, Spawn
from tests.support import Database, Server, install, wait_until
from tests.worker.process import await_end, start

pytestmark = pytest.mark.slow
TERMINATE = "select count(pg_terminate_backend(pid, 60000)) from pg_stat_activity where usename = any (%s)"


class Vendor:
    """A server that asks all for passwords and lets no superuser in; the customer has the role `given`."""

    def __init__(self, cluster: Cluster, file: Path, **options: str) -> None:
        self.port = cluster.options["port"]
        self.file = file
        self.passwords = {"given": "of given"}
        self.write()
        owner = Database(Server(cluster.dsn()), "postgres")
        owner.admin(f"create role given login password 'of given' {' '.join(options)}")
        owner.admin("create database shop owner given")
        owner.admin("grant pg_signal_backend to given")
        cluster.write("pg_hba.conf", "host all all 127.0.0.1/32 scram-sha-256\n")
        owner.admin("alter role postgres nologin")
        cluster.reload()
        for conn in owner.connections.values():
            conn.close()

    @property
    def db(self) -> Database:
        """The customer's database."""
        return Database(Server(self.dsn("given")), "shop")

    def dsn(self, role: str) -> str:
        return f"host=127.0.0.1 port={self.port} dbname=shop user={role} passfile={self.file}"

    def write(self, **passwords: str) -> None:
        """Writes the password file."""
        self.passwords |= passwords
        lines = (f"127.0.0.1:{self.port}:*:{role}:{word}\n" for role, word in self.passwords.items())
        self.file.write_text("".join(lines))
        self.file.chmod(0o600)

    def set_password(self, role: str, word: str) -> None:
        """A role gets a password, and the file with it."""
        self.db.sql(f"alter role {role} password '{word}'", user="given")
        self.write(**{role: word})


@pytest.fixture
def cluster(make: MakeCluster) -> Cluster:
    port = str(free_port())
    return make(listen_addresses="127.0.0.1", port=port, password_encryption="scram-sha-256")


@pytest.fixture
def vendor(cluster: Cluster, tmp_path: Path) -> Iterator[Vendor]:
    """The customer has a role with CREATEROLE, as on RDS, Azure, Cloud SQL."""
    made = Vendor(cluster, tmp_path / "passwords", createrole="createrole")
    db = made.db
    db.sql(
        "create role durable_worker login password 'of worker'; create role app login password 'of app'", user="given"
    )
    made.write(durable_worker="of worker", app="of app")
    install(db.dsn("given"), artifacts()["dist/pg_durable.sql"], worker_role="durable_worker")
    db.sql(
        "select df.grant_usage('app'); create schema goods; grant usage, create on schema goods to app", user="given"
    )
    db.sql("create table goods.effect (what text)")
    yield made


def test_an_owner_with_createrole_needs_no_superuser(vendor: Vendor, spawn: Spawn) -> None:
    db = vendor.db
    with pytest.raises(psycopg.OperationalError):
        db.connect("postgres")
    spawn(db, vendor.dsn("durable_worker"))
    run = start(db, "'insert into goods.effect values (''a'')' ~> 'insert into goods.effect values (''b'')'")
    assert await_end(owned(db), run, 60) == "completed"
    assert db.rows("select what from goods.effect order by 1") == [("a",), ("b",)]
    assert db.rows("select problem from df.check()", user="given") == []


def owned(db: Database) -> Database:
    """The database as the owner sees it where other tests ask as a superuser."""
    return Database(Server(db.dsn("given")), "shop")


def test_passwords_change_while_the_worker_runs(vendor: Vendor, spawn: Spawn) -> None:
    """As tokens do that live for minutes: each login reads the file."""
    db = vendor.db
    spawn(db, vendor.dsn("durable_worker"))
    run = start(db, "df.wait_for_signal('go') ~> 'insert into goods.effect values (''after'')'")
    wait_until(lambda: db.sql("select count(*) from df.waiting") == 1, 60)
    for role in ("app", "durable_worker"):
        vendor.set_password(role, f"new of {role}")
    db.sql(TERMINATE, ["app", "durable_worker"], user="given")
    later = vendor.db
    later.sql("select df.signal(%s, 'go')", run)
    assert await_end(owned(later), run, 60) == "completed"


def test_a_role_made_while_the_worker_runs_is_served(vendor: Vendor, spawn: Spawn) -> None:
    db = vendor.db
    spawn(db, vendor.dsn("durable_worker"))
    db.sql("create role late login password 'of late'; select df.grant_usage('late')", user="given")
    vendor.write(late="of late")
    assert await_end(owned(db), start(db, "'select 1'", user="late"), 60) == "completed"


def test_one_role_is_owner_worker_and_submitter(cluster: Cluster, tmp_path: Path, spawn: Spawn) -> None:
    """As on the smallest plans, where there is no other and none can be made."""
    vendor = Vendor(cluster, tmp_path / "passwords")
    db = vendor.db
    with pytest.raises(errors.InsufficientPrivilege):
        db.sql("create role other", user="given")
    install(db.dsn("given"), artifacts()["dist/pg_durable.sql"], worker_role="given")
    spawn(db, vendor.dsn("given"))
    db.sql("create table effect (what text)", user="given")
    run = start(db, "'insert into effect values (''a'')' & 'insert into effect values (''b'')'", user="given")
    assert await_end(owned(db), run, 60) == "completed"
    assert db.rows("select what from effect order by 1", user="given") == [("a",), ("b",)]
