"""Where a page says `-- → something` behind a statement, that is what psql shows."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.cluster import client
from tests.docs.pages import Page
from tests.docs.test_blocks import PLAYED
from tests.support import Database
from tests.worker.conftest import spawn, worker  # noqa: F401 - fixtures
from tests.worker.process import WorkerProcess

RESULT = re.compile(r"-- → (.+)$", re.MULTILINE)


@pytest.mark.parametrize("page", [p for p in PLAYED if RESULT.search(p.text)], ids=lambda page: page.path.name)
def test_what_a_page_shows_is_what_comes(
    page: Page,
    db: Database,
    worker: WorkerProcess,  # noqa: F811
    tmp_path: Path,
) -> None:
    script = tmp_path / page.path.name
    script.write_text(page.script(db.admin("select current_user")))
    command = [str(client("psql")), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", db.dsn(), "-f", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    shown = iter(line.rstrip() for line in done.stdout.splitlines())
    for expected in RESULT.findall(page.script("x")):
        assert expected in shown, f"{expected!r} does not come, or not there:\n{done.stdout}"
