"""Pipelines with the real model on real servers: kills, moods of the endpoint, changes, a change of the model."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pg_durable.embedded import EmbeddedServer

from tests.ai.conftest import install_ai
from tests.ai.model import ModelProcess
from tests.ai.moods import REFUSED, Proxy, moody
from tests.ai.shop import DOCUMENTS, PATIENCE, Shop, kill
from tests.support import Database, wait_until
from tests.worker.process import WorkerProcess, own_database

MOST_PAID = 1.1  # times the distinct texts
BATCH, CONCURRENCY, KILLS = 4, 2, 2  # of 160 documents at most a tenth is under way at the kills


@pytest.fixture(params=[16, 18])
def killable(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    """A server that may be killed."""
    home = Path(tempfile.mkdtemp(prefix="pgd-", dir="/tmp"))
    home.chmod(0o755)
    with EmbeddedServer(home / "data", request.param, {"fsync": "off"}) as server:
        yield server
    shutil.rmtree(home, ignore_errors=True)


@pytest.mark.slow
def test_kills_lose_nothing_and_pay_little_twice(killable: EmbeddedServer, model: ModelProcess) -> None:
    """SIGKILL of the worker, then of the server, while texts are embedded."""
    with Proxy(model.address) as proxy:
        db = own_database(killable)
        install_ai(db.dsn())
        db.admin("select df.grant_usage('app', include_http => true), ai.grant_usage('app')")
        shop = Shop(db, proxy, BATCH, CONCURRENCY)
        shop.fill()
        shop.create()
        workers = [WorkerProcess(db).logged("registered")]
        try:
            paid(proxy, DOCUMENTS // 4)
            workers[-1].kill()
            workers.append(WorkerProcess(db).logged("registered", 30))
            paid(proxy, DOCUMENTS // 2)
            kill(killable)
            forget_connections(db)
            killable.restart()
            shop.wait_complete()
        finally:
            for each in workers:
                each.kill()
        shop.check(model)
        assert set(proxy.answered) == {body for (body,) in db.rows("select body from documents")}
        assert proxy.paid - len(proxy.answered) <= KILLS * BATCH * CONCURRENCY, "only what was under way is sent again"


def paid(proxy: Proxy, count: int) -> None:
    """Waits until so many texts are embedded."""
    wait_until(lambda: proxy.paid >= count, PATIENCE, f"{count} texts to be embedded")


def forget_connections(db: Database) -> None:
    """Closes what a killed server has left open."""
    for conn in db.connections.values():
        with suppress(Exception):
            conn.close()
    db.connections.clear()


def test_an_endpoint_in_a_mood_and_a_text_it_refuses(
    db: Database,
    model: ModelProcess,
    worker: WorkerProcess,
) -> None:
    """Every fifth request is answered 429, some 500, and one text is refused always: all but that one are embedded."""
    with Proxy(model.address, moody) as proxy:
        shop = Shop(db, proxy, BATCH, CONCURRENCY)
        shop.fill(DOCUMENTS // 2)
        db.sql("update documents set body = %s where id = 7", f"This is {REFUSED}.")
        shop.create()
        shop.wait_complete(failures=1)
        shop.check(model, without=REFUSED)
        [(text, error)] = db.rows("select chunk_text, error from ai.failures")
        assert REFUSED in text and "refused: 400" in error
        assert proxy.statuses[429] and proxy.statuses[500] and proxy.statuses[400]
        assert proxy.paid <= MOST_PAID * len(proxy.answered)

        db.sql("update documents set body = 'This can be said.' where id = 7")
        shop.wait_complete(failures=0)
        shop.check(model)


def test_only_what_has_changed_is_embedded_again(
    db: Database,
    model: ModelProcess,
    worker: WorkerProcess,
) -> None:
    with Proxy(model.address) as proxy:
        shop = Shop(db, proxy, 32)
        shop.fill(DOCUMENTS)
        shop.create()
        shop.wait_complete()
        before = proxy.answered.copy()
        assert set(before.values()) == {1}, "nothing but crashes sends a text twice"

        db.sql("update documents set touched = now()")
        db.sql("update documents set body = body")
        db.sql("update documents set body = 'Something new.' where id = 3")
        db.sql("delete from documents where id = 4")
        db.sql("insert into documents (id, body) values (%s, 'The last one.')", DOCUMENTS + 1)
        wait_until(lambda: proxy.answered["The last one."], PATIENCE, "what came last")
        shop.wait_complete()
        shop.check(model)
        assert proxy.answered - before == {"Something new.": 1, "The last one.": 1}
