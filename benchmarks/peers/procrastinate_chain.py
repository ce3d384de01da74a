"""Procrastinate: a job for a step, which inserts its row and defers the next step; an async worker with concurrency."""

import asyncio
import time
from contextlib import suppress

from procrastinate import App, PsycopgConnector
from procrastinate.types import JSONDict

from benchmarks.peers import CONCURRENCY, INSERT, STEPS


async def measure(dsn: str, runs: int) -> float:
    """Seconds of all runs, the deferring of their first steps included."""
    # one connection for each job that runs, and those of the worker: to fetch, to finish, to listen
    connector = PsycopgConnector(conninfo=dsn, min_size=CONCURRENCY + 4, max_size=CONCURRENCY + 4)
    app = App(connector=connector)
    ended = 0
    done = asyncio.Event()

    @app.task(name="step")
    async def step(number: int) -> None:
        nonlocal ended
        async with connector.pool.connection() as conn:
            await conn.execute(INSERT)
        if number < STEPS:
            await step.defer_async(number=number + 1)
            return
        ended += 1
        if ended == runs:
            done.set()

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        began = time.perf_counter()
        first: JSONDict = {"number": 1}
        await step.batch_defer_async(*[first] * runs)
        worker = app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)
        working = asyncio.create_task(worker)
        await done.wait()
        took = time.perf_counter() - began
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
    return took


def serve(dsn: str, runs: int) -> float:
    """Seconds of all runs."""
    return asyncio.run(measure(dsn, runs))
