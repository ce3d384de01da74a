"""Search with the real model: by the Python client, and while the model changes."""

import threading
from typing import Any

from pg_durable.client import AsyncClient, Client
from pg_durable.embedder import Embedder

from tests.ai.model import NAME, ModelProcess
from tests.ai.moods import Proxy
from tests.ai.shop import MODEL, PATIENCE, Shop
from tests.support import Database, wait_until
from tests.worker.process import WorkerProcess

SEARCH = "select count(*) from ai.search_vector('docs', %s::text, 'mirror', k => 10)"
NEXT = MODEL.replace("'small'", "'next'")
SERVING = "select model from ai.list_pipelines()"
FEW = 40  # documents


async def test_the_client_embeds_what_is_searched(db: Database, model: ModelProcess, worker: WorkerProcess) -> None:
    with Proxy(model.address) as proxy:
        shop = Shop(db, proxy)
        shop.fill(FEW)
        db.sql("insert into documents (id, body) values (1000, 'Refunds take five working days.')")
        shop.create()
        shop.wait_complete()
        embed = Embedder(f"{model.address}/v1/embeddings", NAME)
        with Client(db.dsn("app")) as df:
            found = df.search("docs", "how do I get my money back?", embed, k=3)
            assert len(found) == 3 and "1000" in {each["doc_id"] for each in found}
            only = df.search("docs", "how do I get my money back?", embed, filter="doc_id < 1000")
            assert "1000" not in {each["doc_id"] for each in only}
        async with AsyncClient(db.dsn("app")) as later:
            assert await later.search("docs", "how do I get my money back?", embed, k=3) == found


class Searcher:
    """Searches again and again; `counts` has how many rows each search has found."""

    def __init__(self, db: Database, vector: str) -> None:
        self.counts: list[Any] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._search, args=(db, vector), daemon=True)

    def __enter__(self) -> "Searcher":
        self._thread.start()
        return self

    def __exit__(self, *of: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _search(self, db: Database, vector: str) -> None:
        with db.connect("app") as conn:
            while not self._stop.is_set():
                try:
                    row = conn.execute(SEARCH, [vector]).fetchone()
                    self.counts.append(row[0] if row else None)
                except Exception as error:
                    self.counts.append(error)


def test_no_search_finds_less_while_the_model_changes(db: Database, model: ModelProcess, worker: WorkerProcess) -> None:
    with Proxy(model.address) as proxy:
        shop = Shop(db, proxy)
        shop.fill(FEW)
        shop.create()
        shop.wait_complete()
        db.sql(NEXT, proxy.url, NAME, 8, 2)
        with Searcher(db, str(model.embed("a broken mirror")[0])) as searcher:
            wait_until(lambda: searcher.counts, 30, "a search before the change")
            db.sql("select ai.alter_pipeline('docs', model => 'next')")
            wait_until(lambda: db.sql(SERVING) == "next", PATIENCE, "the next generation to serve")
            after = len(searcher.counts)
            wait_until(lambda: len(searcher.counts) > after + 1, 30, "a search after the change")
        assert set(searcher.counts) == {10}
        shop.check(model)
