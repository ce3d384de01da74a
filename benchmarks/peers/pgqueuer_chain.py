"""PgQueuer: a job for a step, which inserts its row and enqueues the next step in one transaction.

Jobs are fetched in batches over asyncpg, its recommended driver; steps run on a pool of connections.
"""

import asyncio
import time

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from psycopg.conninfo import conninfo_to_dict

from benchmarks.peers import CONCURRENCY, INSERT, STEPS

BATCH = 50


async def measure(dsn: str, runs: int) -> float:
    """Seconds of all runs, the enqueueing of their first steps included."""
    login = conninfo_to_dict(dsn)
    where = {key: login[name] for key, name in (("host", "host"), ("database", "dbname"), ("user", "user"))}
    where |= {"port": int(login.get("port") or 5432)}
    fetching, submitting = await asyncpg.connect(**where), await asyncpg.connect(**where)
    pool = await asyncpg.create_pool(**where, min_size=CONCURRENCY, max_size=CONCURRENCY)
    await Queries(AsyncpgDriver(submitting)).install()
    pgq = PgQueuer(AsyncpgDriver(fetching))
    ended = 0

    @pgq.entrypoint("step")
    async def step(job: Job) -> None:
        nonlocal ended
        number = int(job.payload or b"1")
        async with pool.acquire() as conn, conn.transaction():
            await conn.execute(INSERT)
            if number < STEPS:
                await Queries(AsyncpgDriver(conn)).enqueue("step", str(number + 1).encode())
        if number == STEPS:
            ended += 1
            if ended == runs:
                pgq.shutdown.set()

    began = time.perf_counter()
    await Queries(AsyncpgDriver(submitting)).enqueue(["step"] * runs, [b"1"] * runs, [0] * runs)
    working = asyncio.create_task(pgq.run(batch_size=BATCH))
    await pgq.shutdown.wait()
    took = time.perf_counter() - began
    await working
    await pool.close()
    return took


def serve(dsn: str, runs: int) -> float:
    """Seconds of all runs."""
    return asyncio.run(measure(dsn, runs))
