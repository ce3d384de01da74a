"""How workers log in as themselves and as submitters: SCRAM with a password file, one client certificate for all."""

from pathlib import Path

import pytest
import trustme

from tests.cluster import Cluster, free_port
from tests.places.conftest import MakeCluster, Spawn, home, with_tls
from tests.support import Database, wait_until
from tests.worker.process import await_end, run, start

LOCAL = "local all all trust\n"


def wait_reason(db: Database, instance: str) -> str:
    """Why a run waits."""
    return db.admin("select wait_reason from df.instances where id = %s", instance) or ""


def listening(make: MakeCluster, programs: Path | None = None, **options: str) -> tuple[Cluster, int]:
    """A server on the loopback address."""
    port = free_port()
    return make(programs, listen_addresses="127.0.0.1", port=str(port), **options), port


def write_passwords(path: Path, port: int, **passwords: str) -> None:
    """A password file."""
    path.write_text("".join(f"127.0.0.1:{port}:*:{role}:{word}\n" for role, word in passwords.items()))
    path.chmod(0o600)


@pytest.fixture
def scram(make: MakeCluster) -> tuple[Database, int]:
    """A server that asks everybody for a SCRAM password over TCP."""
    cluster, port = listening(make, password_encryption="scram-sha-256")
    cluster.write("pg_hba.conf", LOCAL + "host all all 127.0.0.1/32 scram-sha-256\n")
    cluster.reload()
    db = home(cluster)
    db.admin("alter role app password 'of app'; alter role durable_worker password 'of the worker'")
    db.admin("create role other login password 'of other'")
    db.admin("grant create on schema public to other; select df.grant_usage('other')")
    return db, port


@pytest.mark.slow
def test_passwords_of_all_roles_come_from_a_password_file(
    scram: tuple[Database, int], spawn: Spawn, tmp_path: Path
) -> None:
    db, port = scram
    file = tmp_path / "passwords"
    write_passwords(file, port, durable_worker="of the worker", app="of app", other="wrong")
    spawn(db, f"host=127.0.0.1 port={port} dbname=postgres user=durable_worker passfile={file}")
    assert run(db, "'select session_user::text as who'")["rows"] == [{"who": "app"}]
    waiting = start(db, "'select 1'", user="other")
    wait_until(lambda: 'no worker can log in as role "other"' in wait_reason(db, waiting))
    assert "password authentication failed" in wait_reason(db, waiting)
    assert run(db, "'select 1'")["row_count"] == 1, "the runs of others go on"
    write_passwords(file, port, durable_worker="of the worker", app="of app", other="of other")
    assert await_end(db, waiting) == "completed"
    assert wait_reason(db, waiting) == ""


@pytest.fixture
def certified(make: MakeCluster, tmp_path: Path) -> tuple[Cluster, str]:
    """A server that lets roles in by certificate only, and the worker's connection string."""
    authority = trustme.CA()
    cluster, port = listening(make, with_tls())
    own = authority.issue_cert("127.0.0.1")
    cluster.write("server.key", own.private_key_pem.bytes().decode())
    cluster.write("server.crt", "".join(pem.bytes().decode() for pem in own.cert_chain_pems))
    cluster.write("ca.crt", authority.cert_pem.bytes().decode())
    cluster.write("pg_hba.conf", LOCAL + "hostssl all all 127.0.0.1/32 cert map=workers\n")
    cluster.write("pg_ident.conf", "workers durable_worker durable_worker\nworkers durable_worker app\n")
    cluster.options |= {"ssl": "on", "ssl_ca_file": "ca.crt"}
    cluster.stop()
    cluster.start()
    mine = authority.issue_cert("worker@example.com", common_name="durable_worker")
    (tmp_path / "ca.crt").write_bytes(authority.cert_pem.bytes())
    (tmp_path / "worker.crt").write_bytes(b"".join(pem.bytes() for pem in mine.cert_chain_pems))
    (tmp_path / "worker.key").write_bytes(mine.private_key_pem.bytes())
    (tmp_path / "worker.key").chmod(0o600)
    files = f"sslrootcert={tmp_path}/ca.crt sslcert={tmp_path}/worker.crt sslkey={tmp_path}/worker.key"
    where = f"host=127.0.0.1 port={port} dbname=postgres user=durable_worker"
    return cluster, f"{where} sslmode=verify-full {files}"


@pytest.mark.slow
def test_one_certificate_is_mapped_to_the_worker_and_its_submitters(
    certified: tuple[Cluster, str], spawn: Spawn
) -> None:
    cluster, dsn = certified
    db = home(cluster)
    db.admin("create role other login; select df.grant_usage('other')")
    spawn(db, dsn)
    who = run(db, "'select session_user::text as who, ssl from pg_stat_ssl where pid = pg_backend_pid()'")
    assert who["rows"] == [{"who": "app", "ssl": True}]
    waiting = start(db, "'select 1'", user="other")
    wait_until(lambda: wait_reason(db, waiting))
    assert 'certificate authentication failed for user "other"' in wait_reason(db, waiting)
    cluster.write(
        "pg_ident.conf", "".join(f"workers durable_worker {role}\n" for role in ("durable_worker", "app", "other"))
    )
    cluster.reload()
    assert await_end(db, waiting) == "completed"
