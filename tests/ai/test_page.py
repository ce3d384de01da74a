"""docs/ai-story.md: its SQL, played with the real model."""

import subprocess
from pathlib import Path

from pg_durable.client import Client
from pg_durable.embedder import Embedder

from generator.render import ROOT
from tests.ai.model import NAME, ModelProcess
from tests.cluster import client
from tests.docs.pages import Page
from tests.support import Database, wait_until
from tests.worker.process import WorkerProcess

PAGE = Page(ROOT / "docs" / "ai-story.md")
EMBEDDED = "select count(*) from documents_chunks where embedding is not null"


def test_what_the_page_shows_runs(
    db: Database,
    model: ModelProcess,
    worker: WorkerProcess,
    tmp_path: Path,
) -> None:
    db.admin("select df.http_allow(%s, allow_private => true)", model.host)
    script = tmp_path / "ai.sql"
    script.write_text(PAGE.script(db.admin("select current_user")).replace("127.0.0.1:8808", model.host))
    done = subprocess.run(
        [str(client("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", db.dsn(), "-f", script],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wait_until(lambda: db.sql(EMBEDDED) == 2, 60, "both documents to be embedded")
    embed = Embedder(f"{model.address}/v1/embeddings", NAME)
    with Client(db.dsn("app")) as df:
        found = df.search("docs", "how do I get my money back?", embed, k=1, filter="metadata ->> 'lang' = 'en'")
    assert [row["doc_id"] for row in found] == ["1"]
    assert db.sql("select doc_id from ai.search('docs', 'resistors')") == "2"
