"""README and tutorial, followed word for word in a checkout: what the page shows is pasted into a shell and a psql at a
terminal, block by block, and `-- → something` is what comes. Server and worker are restarted on the way."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from generator.render import ROOT
from tests.support import wait_until

BLOCK = re.compile(r"^```(sh|sql)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RESULT = re.compile(r"-- → (.+)$", re.MULTILINE)
DEV = ".venv/bin/pg-durable dev"
SOURCES = ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py", "dist", "worker")


class Terminal:
    """psql as somebody uses it at a terminal."""

    def __init__(self, command: str, directory: Path) -> None:
        self._descriptor, inside = pty.openpty()
        environment = os.environ | {"TERM": "dumb", "PAGER": "cat", "PSQL_HISTORY": "/dev/null"}
        self._process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=directory,
            env=environment,
            stdin=inside,
            stdout=inside,
            stderr=inside,
        )
        os.close(inside)
        self._pasted = 0

    def paste(self, block: str) -> list[str]:
        """The lines that come after a block, until psql is through with it."""
        self._pasted += 1
        end = f"end of block {self._pasted}"
        os.write(self._descriptor, f"{block}\\echo '{end}'\n".encode())
        said = b""
        while f"\n{end}".encode() not in said.replace(b"\r", b""):
            assert select.select([self._descriptor], [], [], 60)[0], said.decode()
            said += os.read(self._descriptor, 65536)
        return [line.strip() for line in said.decode().replace("\r", "\n").split("\n")]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        os.close(self._descriptor)


class Reader:
    """Somebody with a checkout, a terminal in which `pg-durable dev` runs, and one for psql."""

    def __init__(self, checkout: Path) -> None:
        self._checkout = checkout
        self._log = checkout / "dev.log"
        self._dev: subprocess.Popen[bytes] | None = None
        self._psql: Terminal | None = None

    def shell(self, block: str) -> None:
        """Runs the lines; one that is `pg-durable dev` goes on in the background, after an earlier one was ended."""
        for line in block.splitlines():
            if line == DEV:
                self.serve()
            else:
                subprocess.run(["bash", "-c", line], cwd=self._checkout, check=True, capture_output=True, timeout=300)

    def serve(self) -> None:
        """Starts `pg-durable dev`, anew if it is running."""
        self.interrupt()
        with self._log.open("wb") as log:
            self._dev = subprocess.Popen(DEV.split(), cwd=self._checkout, stdout=log, stderr=log)
        printed = wait_until(lambda: re.search(r'^ *(\S*psql ".*")$', self._log.read_text(), re.MULTILINE), 60)
        wait_until(lambda: "registered" in self._log.read_text(), 60, "the worker")
        self._psql = self._psql or Terminal(printed[1], self._checkout)

    def interrupt(self) -> None:
        """Ctrl-C in the first terminal."""
        if self._dev:
            self._dev.send_signal(signal.SIGINT)
            assert self._dev.wait(60) == 0, self._log.read_text()
            self._dev = None

    def paste(self, block: str) -> None:
        """Pastes a block and compares; a block that only looks is pasted again until it shows what the page says."""
        assert self._psql, "the page starts no server before its first SQL"
        expected = RESULT.findall(block)
        lines = self._psql.paste(block)
        if len(block.splitlines()) == 1 and "df.start" not in block and "df.signal" not in block:
            terminal = self._psql
            wait_until(lambda: missing(expected, terminal.paste(block)) == [], 30, f"{expected} from {block}")
        else:
            assert missing(expected, lines) == [], "\n".join(lines)
        wrong = [line for line in lines if re.match(r"ERROR:|FATAL:|sh: |Traceback|pg-durable: |invalid command", line)]
        assert wrong == [], "\n".join(lines)

    def leave(self) -> None:
        if self._psql:
            self._psql.close()
        self.interrupt()


def missing(expected: list[str], lines: list[str]) -> list[str]:
    """What does not come, in the order of the page."""
    rest = iter(lines)
    return [text for text in expected if text.strip() not in rest]


@pytest.fixture
def reader() -> Iterator[Reader]:
    with tempfile.TemporaryDirectory(prefix="pgd-", dir="/tmp", ignore_cleanup_errors=True) as name:
        checkout = Path(name)
        checkout.chmod(0o755)
        for source in SOURCES:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, checkout / source, ignore=shutil.ignore_patterns("*.egg-info", "build"))
            else:
                shutil.copy(ROOT / source, checkout / source)
        somebody = Reader(checkout)
        try:
            yield somebody
        finally:
            with suppress(AssertionError):
                somebody.leave()


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of everything that the page shows to be pasted; it hides nothing."""
    text = (ROOT / page).read_text("utf-8")
    assert "<!-- setup-sql" not in text, "a reader does not see that"
    return [(match[1], match[2]) for match in BLOCK.finditer(text)]


@pytest.mark.slow
def test_the_tutorial_followed_word_for_word(reader: Reader) -> None:
    shown = blocks("docs/tutorial.md")
    assert sum(DEV in text for _, text in shown) == 2, "a start, and the restart of step 7"
    for language, text in shown:
        (reader.shell if language == "sh" else reader.paste)(text)


@pytest.mark.slow
def test_the_readme_followed_word_for_word(reader: Reader) -> None:
    shown = blocks("README.md")
    reader.shell(shown[0][1])
    statements = [text for language, text in shown if language == "sql"]
    reader.paste(statements[0])
    reader.serve()
    for text in statements[1:]:
        reader.paste("\\connect\n" + text)
