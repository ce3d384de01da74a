"""The password file of docs/how-to.md, for several submitters, on a server that asks everybody for a password."""

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from generator.render import ROOT
from tests.cluster import Cluster, free_port, under_test
from tests.support import Database, wait_until
from tests.worker.process import WorkerProcess, await_end, own_database, start_as

PAGE = (ROOT / "docs/how-to.md").read_text("utf-8")
LINES = re.findall(r"^db\.example:5432:shop:(\w+):…$", PAGE, re.MULTILINE)
RULE = next(line for line in PAGE.splitlines() if line.startswith("host shop") and line.endswith("scram-sha-256"))
NEWEST = "select id from df.instances where submitted_by = %s::regrole order by created_at desc limit 1"


@pytest.fixture
def strict() -> Iterator[tuple[Cluster, Database]]:
    """A server that trusts the superuser on its socket, and asks for passwords over TCP."""
    options = {"listen_addresses": "127.0.0.1", "port": str(free_port()), "password_encryption": "scram-sha-256"}
    with Cluster(under_test(), options) as cluster:
        db = own_database(cluster)
        db.admin("create role billing login; select df.grant_usage('billing')")
        for role in LINES:
            db.admin(f"alter role {role} password 'of {role}'")
        rule = RULE.replace("shop", "all").replace("10.0.0.0/8", "127.0.0.1/32")
        cluster.write("pg_hba.conf", f"local all postgres trust\n{rule}\n")
        cluster.reload()
        yield cluster, db


def test_each_submitter_has_a_line_in_the_password_file(strict: tuple[Cluster, Database], tmp_path: Path) -> None:
    cluster, db = strict
    assert LINES == ["durable_worker", "app", "billing"]
    port = cluster.options["port"]
    lines = {role: f"127.0.0.1:{port}:postgres:{role}:of {role}\n" for role in LINES}
    passwords = tmp_path / "passwords"
    passwords.write_text(lines["durable_worker"] + lines["app"])
    passwords.chmod(0o600)
    dsn = f"host=127.0.0.1 port={port} dbname=postgres user="
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(f"{dsn}app")
    worker = WorkerProcess(db, dsn=f"{dsn}durable_worker", PGPASSFILE=str(passwords)).logged("registered")
    try:
        runs = {}
        for role in ("app", "billing"):
            start_as(db, role, "'select current_user'")
            runs[role] = str(db.admin(NEWEST, role))
        assert await_end(db, runs["app"]) == "completed"
        wait_until(lambda: db.admin("select wait_reason from df.instances where id = %s", runs["billing"]))
        passwords.write_text("".join(lines.values()))
        assert await_end(db, runs["billing"], 90) == "completed"
    finally:
        worker.kill()
