"""Runs in flight that go on elsewhere: restored from a dump, on a promoted standby, at a point in the past."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cluster import SYNCHRONOUS, Cluster
from tests.places.conftest import MakeCluster, Spawn, home
from tests.places.flight import begin, finish
from tests.support import Database, Server, wait_until
from tests.worker.process import await_end, start


@pytest.mark.slow
def test_a_dump_goes_on_in_another_server(make: MakeCluster, spawn: Spawn) -> None:
    source = home(first := make())
    worker = spawn(source)
    runs = begin(source)
    dump = subprocess.run([str(first.bin / "pg_dump"), source.dsn()], capture_output=True, check=True).stdout
    worker.kill()
    target = Database(Server((second := make()).dsn()), "postgres")
    target.admin("create role app login; create role durable_worker login")
    load = [str(second.bin / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", target.dsn()]
    done = subprocess.run(load, input=dump, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    spawn(target)
    finish(target, runs)
    source.sql("insert into gate values (true)")
    assert source.sql("select count(*) from effect where what like '%after'") == 0, "the source went on by itself"


CHAIN = " ~> ".join(f"'with w as (select pg_sleep(0.01)) insert into beat select {n} from w'" for n in range(100))


@pytest.mark.slow
def test_a_promoted_standby_goes_on_with_every_effect_once(make: MakeCluster, spawn: Spawn) -> None:
    primary = make()
    db = home(primary)
    db.sql("create table beat (n int)")
    standby = make(running=False).follow(primary)
    primary.wait_for_standby()
    wait_until(lambda: db.admin(SYNCHRONOUS), what="the standby")
    worker = spawn(
        db, f"host={primary.home},{standby.home} dbname=postgres user=durable_worker target_session_attrs=read-write"
    )
    runs = begin(db)
    runs["chain"] = start(db, CHAIN)
    wait_until(lambda: db.sql("select count(*) from beat") > 10)
    primary.stop("immediate")
    standby.promote()
    there = Database(Server(standby.dsn()), "postgres")
    assert there.sql("select count(*) from beat") < 100
    worker.logged("not connected")
    finish(there, runs)
    assert there.rows("select n from beat order by n") == [(n,) for n in range(100)]


def recovered(source: Cluster, backup: Path, archive: Path, target: str, make: MakeCluster) -> Cluster:
    """A server recovered from a base backup and the archived log, up to a restore point."""
    cluster = make(running=False)
    shutil.copytree(backup, cluster.data)
    for path in (cluster.data, *cluster.data.rglob("*")):
        cluster.own(path)
    cluster.write("recovery.signal", "")
    cluster.options |= {
        "restore_command": f'cp "{archive}/%f" "%p"',
        "recovery_target_name": target,
        "recovery_target_action": "promote",
    }
    return cluster.start()


@pytest.mark.slow
def test_recovery_to_a_point_in_time_goes_on_from_there(make: MakeCluster, spawn: Spawn) -> None:
    cluster = make(running=False)
    archive = cluster.home / "archive"
    archive.mkdir()
    cluster.own(archive)
    cluster.options |= {"archive_mode": "on", "archive_command": f'cp "%p" "{archive}/%f"'}
    cluster.initialise().start()
    db = home(cluster)
    backup = cluster.home / "backup"
    cluster.run("pg_basebackup", "-d", cluster.dsn(), "-D", backup, "--checkpoint=fast", "--no-sync")
    worker = spawn(db)
    runs = begin(db)
    db.admin("select pg_create_restore_point('in_flight')")
    finish(db, runs)
    segment = db.admin("select pg_walfile_name(pg_switch_wal())")
    wait_until((archive / segment).exists, what="the archive")
    worker.kill()
    cluster.stop()
    again = Database(Server(recovered(cluster, backup, archive, "in_flight", make).dsn()), "postgres")
    wait_until(lambda: again.admin("select not pg_is_in_recovery()"))
    assert again.sql("select count(*) from effect where what like '%after'") == 0
    spawn(again)
    finish(again, runs)
    assert await_end(again, start(again, "'select 1' & 'select 2'")) == "completed"
