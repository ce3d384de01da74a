"""Every SQL block of the documentation, run by psql against a database with a worker; and every run it starts."""

import subprocess
from pathlib import Path

import pytest

from tests.cluster import client
from tests.docs.pages import Page
from tests.support import Database, wait_until
from tests.worker.conftest import spawn, worker  # noqa: F401 - fixtures
from tests.worker.process import WorkerProcess

ROOT = Path(__file__).resolve().parents[2]
FOLLOWED = ("README.md", "tutorial.md", "ai-story.md")  # by test_tutorial, word for word; by tests/ai/test_page.py
PAGES = [Page(path) for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))]
PLAYED = [page for page in PAGES if page.path.name not in FOLLOWED]


@pytest.mark.parametrize("page", PLAYED, ids=lambda page: page.path.name)
def test_every_block_runs(page: Page, db: Database, worker: WorkerProcess, tmp_path: Path) -> None:  # noqa: F811
    script = tmp_path / page.path.name
    script.write_text(page.script(db.admin("select current_user")))
    done = subprocess.run(
        [str(client("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", db.dsn(), "-f", script],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if not page.runs_may_fail:
        wait_until(lambda: not db.rows(MOVING, user=None), 30, f"the runs to end or wait: {db.rows(MOVING, user=None)}")
        assert db.rows(FAILED, user=None) == []


MOVING = """
select i.id, i.label, i.status from df.instances i
where i.status in ('pending', 'running') and i.id not in (select w.instance_id from df.waiting w)"""
FAILED = "select f.label, f.query, f.error from df.failed_steps f"
