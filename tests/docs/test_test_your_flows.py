"""The Python of docs/test-your-flows.md: its pytest file and its test case of Django run as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from generator.render import ROOT
from tests.support import Server
from tests.terminal import environment
from tests.worker.test_testing import on, pytest_in

BLOCKS = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs/test-your-flows.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
)
FIXTURE, CASE, RUNNER = BLOCKS
SETTINGS = """
DATABASES = {{"default": {{"ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "HOST": {host!r},
             "PORT": {port!r}, "USER": {user!r}, "PASSWORD": {password!r}, "TEST": {{"NAME": "django_of_a_page"}}}}}}
TEST_RUNNER = "runner.Runner"
USE_TZ = True
"""


def test_the_pytest_of_the_page_passes(server: Server, tmp_path: Path) -> None:
    done = pytest_in(tmp_path, FIXTURE, *on(server))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{FIXTURE.count('def test_')} passed" in done.stdout


def test_the_django_of_the_page_passes(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("django")
    place = {"host": "", "port": "", "user": "", "password": ""} | conninfo_to_dict(server.dsn)
    (tmp_path / "settings.py").write_text(SETTINGS.format(**place))
    (tmp_path / "runner.py").write_text(RUNNER)
    (tmp_path / "test_reminders.py").write_text(CASE)
    line = (sys.executable, "-m", "django", "test", "--settings", "settings", "--pythonpath", ".", "--noinput")
    done = subprocess.run(line, env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ran 1 test" in done.stderr
