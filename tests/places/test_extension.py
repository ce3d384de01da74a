"""Packaged as an extension: CREATE EXTENSION on servers that have the files; a dump carries the runs in flight."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from generator.render import artifacts
from tests.cluster import Cluster, wheel
from tests.places.conftest import MakeCluster, Spawn
from tests.places.flight import begin, finish
from tests.support import Database, Server
from tests.terminal import command
from tests.worker.process import await_end, start


def database(cluster: Cluster) -> Database:
    """A database without df, on a server that has the roles."""
    db = Database(Server(cluster.dsn()), "postgres")
    db.admin("create role app login; create role durable_worker login")
    return db


def move(source: Cluster, target: Cluster, *options: str) -> subprocess.CompletedProcess[bytes]:
    """pg_dump | psql."""
    dump = subprocess.run([str(source.bin / "pg_dump"), *options, source.dsn()], capture_output=True, check=True).stdout
    load = [str(target.bin / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", target.dsn()]
    return subprocess.run(load, input=dump, capture_output=True, check=False)


@pytest.mark.slow
def test_a_dump_of_an_extension_carries_the_runs(equipped: Path, make: MakeCluster, spawn: Spawn) -> None:
    first, second = make(equipped), make(equipped)
    source, target = database(first), database(second)
    source.admin("create extension pg_durable; grant create on schema public to app")
    source.admin("select df.grant_usage('app'), df.grant_worker('durable_worker')")
    source.admin("select df.set_setting('retention_days', '7'), df.http_disallow('api.github.com')")
    source.sql("select df.setvar('who', 'kim')")
    worker = spawn(source)
    runs = begin(source)
    worker.kill()
    done = move(first, second)
    assert done.returncode == 0, done.stderr.decode()
    assert target.admin("select count(*) from pg_extension where extname = 'pg_durable'") == 1
    assert target.admin("select df.setting('retention_days')") == "7"
    assert target.rows("table df.http_allowlist order by 1", user=None) == source.rows(
        "table df.http_allowlist order by 1", user=None
    )
    assert target.sql("select df.getvar('who')") == "kim"
    spawn(target)
    finish(target, runs)
    assert await_end(target, start(target, "'select 1' & 'select 2'")) == "completed"


def test_every_table_and_sequence_is_in_the_dump(equipped: Path, make: MakeCluster) -> None:
    db = database(make(equipped))
    db.admin("create extension pg_durable")
    left_out = """
      select c.relname from pg_class c
      where c.relnamespace in ('df'::regnamespace, 'df_engine'::regnamespace) and c.relkind in ('r', 'S')
        and not exists (select from pg_extension e where e.extname = 'pg_durable' and c.oid = any (e.extconfig))
      order by 1"""
    assert db.rows(left_out, user=None) == [("launch_slots",), ("release",), ("secret",), ("upkeep",)]
    assert db.admin("select count(*) from df.settings") > 0
    done = command("uninstall", "--yes", "--dsn", db.dsn())
    assert done.returncode == 0 and "what uses it" not in done.stdout, done.stderr
    assert db.admin("select to_regnamespace('df') is null and to_regnamespace('df_engine') is null")


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory with the extension's files, which is not that of the server."""
    root = Path(tempfile.mkdtemp(prefix="pgd-", dir="/tmp"))
    root.chmod(0o755)
    (root / "extension").mkdir()
    for name, text in artifacts().items():
        if name.startswith("dist/extension/"):
            (root / "extension" / Path(name).name).write_text(text)
    yield root
    shutil.rmtree(root)


def shop(cluster: Cluster) -> Database:
    """A database whose owner is no superuser."""
    db = database(cluster)
    db.admin("create role owner login")
    db.admin("create database shop owner owner")
    return Database(db.server, "shop")


@pytest.mark.slow
def test_files_may_be_in_a_directory_that_the_server_is_told(elsewhere: Path, make: MakeCluster, spawn: Spawn) -> None:
    """extension_control_path, which PostgreSQL 18 has, for servers whose own files nobody may change."""
    servers = [make(wheel(18), extension_control_path=f"{elsewhere}:$system") for _ in range(2)]
    source, target = (shop(cluster) for cluster in servers)
    source.sql("create extension pg_durable", user="owner")
    source.sql("select df.grant_usage('app'), df.grant_worker('durable_worker')", user="owner")
    source.sql("grant create on schema public to app", user="owner")
    worker = spawn(source)
    runs = begin(source)
    worker.kill()
    dump = [str(servers[0].bin / "pg_dump"), source.dsn()]
    text = subprocess.run(dump, capture_output=True, check=True).stdout
    load = [str(servers[1].bin / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", target.dsn()]
    done = subprocess.run(load, input=text, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    spawn(target)
    finish(target, runs)
    assert target.admin("select extowner::regrole::text from pg_extension where extname = 'pg_durable'") == "postgres"
