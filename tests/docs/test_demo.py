"""`make demo`, run as a visitor runs it, and interrupted as a visitor interrupts it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import wait_until

ROOT = Path(__file__).resolve().parents[2]


class Performance:
    """The demo in a process; `home` is where its temporary files go."""

    def __init__(self, home: Path, directory: Path = ROOT / "examples" / "demo") -> None:
        self.home = home
        self.output = home.with_suffix(".out")
        environment = os.environ | {"TMPDIR": str(home), "PYTHONPATH": str(ROOT / "worker"), "PYTHONUNBUFFERED": "1"}
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, directory / "demo.py"], cwd=ROOT, env=environment, stdout=output, stderr=output
            )

    def said(self, text: str) -> bool:
        assert self.process.poll() is None, self.text
        return text in self.text

    @property
    def text(self) -> str:
        return self.output.read_text()


@pytest.fixture
def demo() -> Iterator[Performance]:
    home = Path(tempfile.mkdtemp(prefix="demo-", dir="/tmp"))
    home.chmod(0o755)
    performance = Performance(home)
    yield performance
    performance.process.kill()
    performance.process.wait()
    performance.output.unlink()
    shutil.rmtree(home)


def test_demo_proves_what_it_says_in_plain_lines_of_80_columns(demo: Performance) -> None:
    assert demo.process.wait(120) == 0, demo.text
    for line in (
        "'SELECT count(*) FROM users'",
        "SIGKILL to the worker. Batch 4 is done, but not committed.",
        "Kim approves, with df.signal, while no worker is alive.",
        "attempts at a batch: 8, and the killed one",
        "customers billed too much or too little",
        "All of it held",
        "What to try next",
    ):
        assert line in demo.text
    assert demo.text.count("✗") == demo.text.count("✗ else:")
    assert "\x1b" not in demo.text
    assert max(map(len, demo.text.splitlines())) <= 80
    assert not list(demo.home.glob("pg_durable-demo-*"))


def test_interrupted_it_leaves_nothing_behind(demo: Performance) -> None:
    wait_until(lambda: demo.said("SIGKILL to the worker"), 90, "the first crash")
    (pid_file,) = demo.home.glob("*/data/postmaster.pid")
    server = Path("/proc", pid_file.read_text().split()[0])
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(30) == 130, demo.text
    assert "Interrupted" in demo.text
    assert not list(demo.home.glob("pg_durable-demo-*"))
    wait_until(lambda: not server.exists(), what="the end of the server")


def test_a_run_that_fails_is_told_with_its_error_and_without_a_traceback(tmp_path: Path) -> None:
    home, directory = tmp_path / "home", tmp_path / "demo"
    home.mkdir()
    for path in (tmp_path, *tmp_path.parents[:2], home):
        path.chmod(0o755)
    shutil.copytree(ROOT / "examples" / "demo", directory)
    flow = directory / "hero.sql"
    flow.write_text(flow.read_text().replace("SELECT sum(amount)", "SELECT sum(amount) / 0"))
    demo = Performance(home, directory)
    assert demo.process.wait(120) == 1
    assert "has failed: " in demo.text and "division by zero" in demo.text
    assert "Traceback" not in demo.text
    assert not list(home.glob("pg_durable-demo-*"))
