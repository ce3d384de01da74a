"""An installer leaves alone what is newer than itself, and what is too old for it, and says both versions."""

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from generator.render import ROOT, artifacts, installer, release
from tests.cluster import client
from tests.support import Database, Server, install
from tests.worker.process import WorkerProcess, await_end, start

CURRENT, _ = release()
ORDERED = ("0.9.0", "0.10.0", "1.0.0.dev3", "1.0.0-alpha.2", "1.0.0b1", "1.0.0-rc.2", "1.0.0-rc.10", "1.0.0", "1.0.1",
           "1.2", "1.10.0", "2.0.0rc1", "10.0.0")  # fmt: skip


@contextmanager
def installed(server: Server, version: str) -> Iterator[Database]:
    """A database with a made-up version."""
    db = Database(server, f"version_{uuid.uuid4().hex[:8]}")
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute(f"create database {db.name} encoding 'UTF8' template template0".encode())
    try:
        install(db.dsn(), installer(version=version, oldest_upgradable="0.1"), worker_role="durable_worker")
        db.admin("grant create on schema public to app; select df.grant_usage('app')")
        yield db
    finally:
        db.drop()


def version_of(db: Database) -> str:
    return str(db.admin("select substring(df.version() from '[0-9][^ ]*')"))


def refusal(db: Database, script: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        install(db.dsn(), script)
    assert caught.value.sqlstate == "55000"
    return caught.value


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "worker")}
    line = (sys.executable, "-m", "pg_durable", *arguments)
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.usefixtures("template")  # it makes the roles
def test_an_older_installer_is_refused_and_runs_go_on(server: Server) -> None:
    with installed(server, "99.1.0") as db:
        run = start(db, "'select 1' ~> df.wait_for_signal('go') ~> 'select 42 as answer'")
        worker = WorkerProcess(db).logged("registered")
        error = refusal(db, artifacts()["dist/pg_durable.sql"]).diag
        assert error.message_primary and "99.1.0" in error.message_primary and CURRENT in error.message_primary
        assert error.message_hint and "99.1.0" in error.message_hint
        assert version_of(db) == "99.1.0"
        db.sql("select df.signal(%s, 'go')", run)
        assert await_end(db, run) == "completed"
        assert await_end(db, start(db, "'select 1' & 'select 2'")) == "completed"
        assert worker.stop() == 0


@pytest.mark.usefixtures("template")
def test_what_is_too_old_to_upgrade_is_refused_and_runs_go_on(server: Server) -> None:
    with installed(server, "0.9.0") as db:
        run = start(db, "df.wait_for_signal('go')")
        worker = WorkerProcess(db).logged("registered")
        error = refusal(db, installer(version="1.2.0", oldest_upgradable="1.0.0")).diag
        assert error.message_primary and all(v in error.message_primary for v in ("0.9.0", "1.2.0", "1.0.0"))
        assert error.message_hint and "DROP SCHEMA df, df_engine CASCADE" in error.message_hint
        assert version_of(db) == "0.9.0"
        db.sql("select df.signal(%s, 'go')", run)
        assert await_end(db, run) == "completed"
        assert worker.stop() == 0
        # What the hint says helps.
        for connection in db.connections.values():
            connection.close()
        db.admin("drop schema df, df_engine cascade")
        install(db.dsn(), installer(version="1.2.0", oldest_upgradable="1.0.0"))
        assert version_of(db) == "1.2.0"


@pytest.mark.usefixtures("template")
def test_versions_are_compared_as_numbers_and_pre_releases_come_before(server: Server) -> None:
    with installed(server, ORDERED[0]) as db:
        for older, newer in pairwise(ORDERED):
            assert "too old" in str(refusal(db, installer(version="99.0", oldest_upgradable=newer)))
            install(db.dsn(), installer(version=newer, oldest_upgradable=older))
            assert version_of(db) == newer
            assert "newer" in str(refusal(db, installer(version=older, oldest_upgradable="0.1")))


@pytest.mark.usefixtures("template")
def test_the_same_version_is_installed_again(server: Server) -> None:
    with installed(server, "1.0.0-rc.1") as db:
        install(db.dsn(), installer(version="1.0.0-rc.1", oldest_upgradable="1.0.0-rc.1"))
        install(db.dsn(), installer(version="1.0.0rc1", oldest_upgradable="1.0.0-rc.1"))
        assert version_of(db) == "1.0.0rc1"


@pytest.mark.usefixtures("template")
def test_the_command_and_psql_are_refused_too(server: Server) -> None:
    with installed(server, "99.1.0") as db:
        done = command("install", "--dsn", db.dsn())
        assert done.returncode == 1 and done.stdout == ""
        assert "99.1.0" in done.stderr and CURRENT in done.stderr and "CONTEXT" not in done.stderr
        script = ROOT / "dist" / "pg_durable.sql"
        psql = [str(client("psql")), "-X", "-v", "ON_ERROR_STOP=1", "-f", str(script), db.dsn()]
        done = subprocess.run(psql, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode != 0
        assert "99.1.0" in done.stderr and CURRENT in done.stderr and "HINT" in done.stderr
        assert version_of(db) == "99.1.0"


@pytest.mark.usefixtures("template")
@pytest.mark.parametrize("version", ["99.1.0", "0.0.1"])
def test_the_extension_is_refused_too(server: Server, version: str) -> None:
    with installed(server, version) as db:
        if db.admin("select current_setting('extension_control_path', true)") is None:
            pytest.skip("needs extension_control_path (PostgreSQL 18)")
        share = Path(tempfile.mkdtemp(dir="/tmp"))
        share.chmod(0o755)
        (share / "extension").mkdir()
        for name, text in artifacts().items():
            if name.startswith("dist/extension/"):
                (share / "extension" / Path(name).name).write_text(text)
        with db.connect() as conn, pytest.raises(psycopg.Error) as caught:
            conn.execute(f"set extension_control_path = '{share}:$system'".encode())
            conn.execute("create extension pg_durable")
        shutil.rmtree(share)
        assert version in str(caught.value) and CURRENT in str(caught.value)
        assert version_of(db) == version
