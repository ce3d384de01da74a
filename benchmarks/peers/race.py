"""Each peer against pg_durable, in alternating rounds on one server."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks.bed import Bed
from benchmarks.figures import Figure, Scale, at_least, ratio
from benchmarks.peers import STEPS
from benchmarks.rows import SESSIONS
from benchmarks.scale import run_rate

DATABASE = "pg_durable_bench_peer"


@dataclass(frozen=True)
class Peer:
    """A package, what it needs beside it, the target, and how many of our runs are measured for one of its own."""

    package: str
    target: float
    share: int
    needs: tuple[str, ...] = ()


PEERS = (Peer("pgqueuer", 4, 4, ("asyncpg",)), Peer("procrastinate", 4, 8), Peer("dbos", 25, 16))


def race(bed: Bed, scale: Scale) -> list[Figure]:
    """A row a peer; one that is not installed says how to install it."""
    return [against(bed, scale, peer) for peer in PEERS]


def against(bed: Bed, scale: Scale, peer: Peer) -> Figure:
    """Five-step runs a second, the starts included, of a worker of ours and of the peer."""
    name = f"5-step runs/s / {peer.package}"
    if not all(map(importlib.util.find_spec, (peer.package, *peer.needs))):
        return Figure(f"{name}: not installed (pip install 'pg-durable[bench]')", None)
    costs: list[dict[str, float]] = []

    def ours() -> float:
        with bed.worker(SESSIONS):
            return run_rate(bed, scale.runs)

    def theirs() -> float:
        rate, cost = peer_rate(bed, peer.package, max(20, scale.runs // peer.share))
        costs.append(cost)
        return rate

    value, raw = ratio(scale.rounds, ours, theirs)
    return at_least(name, value, peer.target, raw | {"peer": costs[-1]})


def peer_rate(bed: Bed, package: str, runs: int) -> tuple[float, dict[str, float]]:
    """The peer's runs a second in a database of its own, and its commits and log a run, its set-up included."""
    bed.create_database(DATABASE)
    dsn = make_conninfo(bed.dsn, dbname=DATABASE)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table fx (i int, t text)")
    lsn = bed.ask("select pg_current_wal_insert_lsn()::text")
    command = [sys.executable, "-m", "benchmarks.peers", package, dsn, str(runs)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{package} failed:\n{done.stderr}")
    log = int(bed.ask("select pg_current_wal_insert_lsn() - %s::pg_lsn", lsn))
    commits = bed.ask("select xact_commit from pg_stat_database where datname = %s", DATABASE)
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute("select count(*) from fx").fetchone()
    if row is None or row[0] < STEPS * runs:
        raise RuntimeError(f"{package} inserted {row} rows, not {STEPS * runs}")
    seconds: float = json.loads(done.stdout.splitlines()[-1])["seconds"]
    return runs / seconds, {"commits": round(commits / runs, 1), "wal_bytes": round(log / runs)}
