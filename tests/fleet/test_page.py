"""docs/fleet.md followed word for word, where nobody is a superuser but the administrator, and passwords are asked."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from generator.render import ROOT, artifacts
from tests.cluster import Cluster, client, free_port
from tests.fleet.conftest import CELL, FLEET, programs
from tests.support import Database, Server, install

PAGE = (ROOT / "docs/fleet.md").read_text("utf-8")
BLOCKS = re.findall(r"^```pgsql\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
SERVER = r"host '(c\d)\.example', port '5432', dbname 'app'"
ROLES = {"-- as administrator": "postgres", "-- as owner": "owner"}


@pytest.fixture
def scram(tmp_path: Path) -> Iterator[tuple[Cluster, dict[str, str]]]:
    """A server that asks all but the administrator for passwords, with two cells and the database of the fleet."""
    port = str(free_port())
    with Cluster(programs(), {"listen_addresses": "127.0.0.1", "port": port}) as cluster:
        cluster.write("pg_hba.conf", "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        cluster.reload()
        server = Database(Server(cluster.dsn()), "postgres")
        for role in ("app", "owner", "durable_worker"):
            server.admin(f"create role {role} login password 'secret of {role}'")
        server.admin("alter role owner createrole; alter role postgres password 'secret of postgres'")
        for name in ("front", "c1", "c2"):
            server.admin(f"create database {name} owner owner")
        assert server.admin("select count(*) from pg_roles where rolsuper") == 1
        for name in ("c1", "c2"):
            cell = Database(server.server, name)
            install(cell.dsn("owner"), artifacts()["dist/pg_durable.sql"], worker_role="durable_worker")
            install(cell.dsn("owner"), CELL)
            cell.sql("select df.grant_usage('app')", user="owner")
        passwords = tmp_path / "passwords"
        passwords.write_text(
            "".join(f"127.0.0.1:{port}:*:{role}:secret of {role}\n" for role in ("app", "owner", "postgres"))
        )
        passwords.chmod(0o600)
        yield cluster, {"PGPASSFILE": str(passwords), "PGHOST": "127.0.0.1", "PGPORT": port, "PGDATABASE": "front"}


def play(blocks: list[str], environment: dict[str, str]) -> list[str]:
    """What psql prints for some blocks; fails with its words."""
    port, script = environment["PGPORT"], []
    for block in blocks:
        role = next((role for mark, role in ROLES.items() if block.startswith(mark)), "app")
        here = re.sub(SERVER, rf"host '127.0.0.1', port '{port}', dbname '\1'", block)
        script += [f"\\connect - {role}", here]
    line = [str(client("psql")), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
    done = subprocess.run(
        line,
        input="\n".join(script),
        env=os.environ | environment | {"PGUSER": "postgres"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_page_followed_word_for_word(scram: tuple[Cluster, dict[str, str]]) -> None:
    cluster, environment = scram
    play(BLOCKS[:1], environment)
    front = Database(Server(cluster.dsn()), "front")
    install(front.dsn("owner"), FLEET)
    printed = iter(play(BLOCKS[1:], environment))
    for expected in re.findall(r"-- → (.*)$", "".join(BLOCKS), re.MULTILINE):
        assert expected in printed, f"{expected} was not printed, or not in its turn"
