"""A table of short documents, a pipeline over it, and what must be so at the end: the sink is what the model makes."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from pg_durable.embedded import EmbeddedServer

from examples.rag.corpus import documents
from tests.ai.model import NAME, ModelProcess, likeness
from tests.ai.moods import Proxy
from tests.support import Database, wait_until

# How many documents the tests with faults have.
DOCUMENTS = int(os.environ.get("PG_DURABLE_TEST_DOCUMENTS", "160"))
PATIENCE = 120.0 + DOCUMENTS / 2  # seconds; a machine that is busy embeds two texts in one

MODEL = "select ai.set_model('small', url => %s, model => %s, dimensions => 384, batch_size => %s, concurrency => %s)"
PIPELINE = """
select ai.create_pipeline('docs', source => ai.table_source('documents'),
                          steps => array[ai.chunk('body', chunk_size => 512, overlap => 0),
                                         ai.embed('small', input => 'chunk_text')],
                          trigger => 'on_change', sink => ai.table_sink('documents_chunks'))"""
SINK = """
select doc_id, chunk_index, chunk_text, embedding::text from documents_chunks
where embedding is not null order by doc_id, chunk_index"""
EXPECTED = """
select d.id, c.chunk_index, c.chunk_text
from documents d cross join lateral ai.chunk_text(d.body, 'recursive', 512, 0, 'characters') c order by 1, 2"""


class Shop:
    """The table `documents` of the role app, the pipeline `docs` over it, and the proxy its model is behind."""

    def __init__(self, db: Database, proxy: Proxy, batch_size: int = 8, concurrency: int = 2) -> None:
        self.db = db
        self.proxy = proxy
        db.admin("select df.http_allow(%s, allow_private => true)", proxy.host)
        db.sql("create table documents (id int primary key, body text not null, touched timestamptz)")
        db.sql(MODEL, proxy.url, NAME, batch_size, concurrency)

    def fill(self, count: int = DOCUMENTS) -> None:
        """Short documents, all different."""
        rows = [(number, body) for number, body in enumerate(short_texts(count), 1)]
        with self.db.connect("app") as conn, conn.cursor().copy("copy documents (id, body) from stdin") as copy:
            for row in rows:
                copy.write_row(row)

    def create(self) -> None:
        """Makes the pipeline."""
        self.db.sql(PIPELINE)

    def status(self) -> dict[str, Any]:
        """What ai.status says."""
        found: dict[str, Any] = self.db.sql("select to_jsonb(s) from ai.status('docs') s")
        return found

    def wait_complete(self, **expected: Any) -> dict[str, Any]:
        """Waits until nothing is left to do, and what is expected of ai.status besides is so."""

        def complete() -> dict[str, Any] | None:
            with suppress(psycopg.OperationalError):
                status = self.status()
                wanted = {"backlog": 0} | expected
                if {name: status[name] for name in wanted} == wanted and not missing(self.db):
                    return status
            return None

        found: dict[str, Any] = wait_until(complete, PATIENCE, "the pipeline to have done everything")
        return found

    def check(self, model: ModelProcess, without: str | None = None) -> None:
        """All rows of the sink are what chunking and embedding the sources anew gives."""
        expected = [row for row in self.db.rows(EXPECTED) if without is None or without not in row[2]]
        found = self.db.rows(SINK)
        assert [tuple(row[:3]) for row in found] == [tuple(row) for row in expected]
        fresh = model.embed([row[2] for row in expected])
        for row, vector in zip(found, fresh, strict=True):
            stored = [float(number) for number in row[3].strip("[]").split(",")]
            assert likeness(stored, vector) > 0.9999, row[:3]


def missing(db: Database) -> int:
    """How many rows of the source have nothing in the sink, and no failure."""
    return int(db.sql(MISSING))


MISSING = """
select count(*) from documents d
where not exists (select from documents_chunks c where c.doc_id = d.id and c.embedding is not null)
  and not exists (select from ai.failures f where f.chunk_text = d.body)"""


def short_texts(count: int) -> list[str]:
    """So many short texts, all different: sentences of the corpus, with a number."""
    sentences = [part for document in documents(60) for part in document.body.replace("\n\n", " ").split(". ")]
    return [f"{sentences[number % len(sentences)][:160]} (no. {number})" for number in range(count)]


def kill(server: EmbeddedServer) -> None:
    """SIGKILL to all processes of a server but the first, whose zombie a new one might take for alive; its end."""
    postmaster = (server.data / "postmaster.pid").read_text().split("\n")[0]
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    server.stop("immediate")
