"""DBOS: a workflow of five transactions of its data source, so that steps are exactly-once; eight threads run them.

Threads, not a queue: a queue adds rows to write and a poll to wait for.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy
from dbos import DBOS, SQLAlchemyDatasource
from psycopg.conninfo import conninfo_to_dict

from benchmarks.peers import CONCURRENCY, INSERT, STEPS


def url(dsn: str) -> str:
    """The connection string as a URL."""
    login = conninfo_to_dict(dsn)
    return f"postgresql://{login['user']}@/{login['dbname']}?host={login['host']}&port={login.get('port') or 5432}"


def serve(dsn: str, runs: int) -> float:
    """Seconds of all runs, their starts included."""
    DBOS(config={"name": "bench", "system_database_url": url(dsn), "log_level": "ERROR", "sys_db_pool_size": 20})
    source = SQLAlchemyDatasource.create(url(dsn), engine_kwargs={"pool_size": CONCURRENCY})
    insert = sqlalchemy.text(INSERT)

    @source.transaction
    def step() -> None:
        source.sql_session().execute(insert)

    @DBOS.workflow()
    def chain() -> None:
        for _ in range(STEPS):
            step()

    DBOS.launch()
    chain()
    began = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENCY) as threads:
        for run in [threads.submit(chain) for _ in range(runs)]:
            run.result()
    took = time.perf_counter() - began
    DBOS.destroy()
    return took
