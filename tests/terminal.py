"""The `pg-durable` command as a process, in a pipe and on a terminal."""

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from generator.render import ROOT
from tests.support import wait_until

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def environment(**variables: str) -> dict[str, str]:
    """What a user's shell has; unbuffered, Python would not notice that a pipe was closed."""
    return os.environ | {"PYTHONPATH": str(ROOT / "worker"), "PYTHONUNBUFFERED": ""} | variables


def command(*arguments: str, given: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a pipe, to its end; `given` is its standard input."""
    line = (sys.executable, "-m", "pg_durable", *arguments)
    return subprocess.run(
        line,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        errors="replace",
        input=given,
    )


class Terminal:
    """A command that reads and writes a terminal."""

    def __init__(self, arguments: tuple[str, ...], variables: dict[str, str], cwd: Path | None = None) -> None:
        self._ours, theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        variables = {"TERM": "xterm", "COLUMNS": "100", "LINES": "60"} | variables
        line = (sys.executable, "-m", "pg_durable", *arguments)
        self.process = subprocess.Popen(
            line, env=environment(**variables), stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd
        )
        os.close(theirs)
        self._shown = bytearray()

    @property
    def shown(self) -> str:
        """Everything that has been written so far, without colours."""
        with suppress(BlockingIOError, OSError):  # nothing yet, or no more
            while part := os.read(self._ours, 65536):
                self._shown.extend(part)
        return ANSI.sub("", self._shown.decode(errors="replace")).replace("\r\n", "\n")

    @property
    def colours(self) -> bool:
        """Whether anything that was shown has a colour or is bold."""
        return re.search(r"\x1b\[[0-9;]*[1-9][0-9;]*m", self._shown.decode(errors="replace")) is not None

    def until(self, text: str) -> None:
        """Waits until something is shown."""
        wait_until(lambda: text in self.shown, 15, f"{text!r} on the terminal")

    def to_its_end(self) -> None:
        """Waits for the command's end, reading all the while."""
        wait_until(lambda: self.shown is not None and self.process.poll() is not None, 30)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@contextmanager
def on_a_terminal(*arguments: str, **variables: str) -> Iterator[Terminal]:
    """A command on a terminal, which it has until the end of the block."""
    terminal = Terminal(arguments, variables)
    try:
        yield terminal
    finally:
        terminal.close()
