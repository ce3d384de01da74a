"""docs/ai.md: its SQL, played with the real model."""

import subprocess
from pathlib import Path

from examples.rag.story import HERE
from generator.render import ROOT
from tests.ai.model import ModelProcess
from tests.cluster import client
from tests.docs.pages import Page
from tests.support import Database, wait_until
from tests.worker.process import WorkerProcess

PAGE = Page(ROOT / "docs" / "ai.md")
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
    db.rows((HERE / "search.sql").read_text())
    [vector] = model.embed("how do I get my money back?")
    for way in ("hybrid", "vector"):
        assert db.sql("select doc_id from find('money back', %s, %s)", str(vector), way) == 1
    assert db.sql("select doc_id from find('resistors', %s, 'text')", str(vector)) == 2
