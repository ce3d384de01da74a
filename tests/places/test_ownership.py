"""Installed by the owner of a database who is no superuser, with psql; a worker without superuser; runs complete."""

import subprocess

import pytest

from generator.render import ROOT
from tests.cluster import client
from tests.places.conftest import MakeCluster, Spawn
from tests.places.flight import begin, finish
from tests.support import Database, Server


@pytest.mark.slow
def test_an_owner_installs_with_psql_and_a_plain_role_works(make: MakeCluster, spawn: Spawn) -> None:
    cluster = make()
    server = Server(cluster.dsn())
    postgres = Database(server, "postgres")
    postgres.admin("create role owner login createrole; create role app login; create role durable_worker login")
    postgres.admin("create database shop owner owner")
    db = Database(server, "shop")
    script = ROOT / "dist/pg_durable.sql"
    psql = [str(client("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1"]
    done = subprocess.run(
        [*psql, "-v", "worker_role=durable_worker", "-f", str(script), db.dsn("owner")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    db.sql("grant create on schema public to app", user="postgres")
    db.sql("select df.grant_usage('app')", user="owner")
    assert (
        db.admin("select bool_or(rolsuper) from pg_roles where rolname in ('owner', 'app', 'durable_worker')") is False
    )
    spawn(db)
    finish(db, begin(db))
    assert db.sql("select count(*) from df.instances", user="owner") == 4
