"""What steps say of their progress, on its way to the engine: the newest of each session, at most once a second."""

import asyncio
from functools import partial

from pg_durable.supervisor.command_queue import CommandQueue
from pg_durable.supervisor.connection import Supervisor

PAUSE = 1.0  # seconds between two reports of a session


class ProgressReports:
    """Keeps one text a session, however many come: a step can say as much as it likes."""

    def __init__(self, commands: CommandQueue) -> None:
        self._commands = commands
        self._newest: dict[int, tuple[int | None, str] | None] = {}  # by the pid of a session that has said something

    def heard(self, pid: int, ticket: int | None, said: str) -> None:
        """A step has said this; `ticket`: of the step that is leased, if it is one."""
        waits = pid in self._newest
        self._newest[pid] = ticket, said
        if not waits:
            self._report(pid)

    def _report(self, pid: int) -> None:
        """Hands the newest on, and the next after a while; a session that has said nothing since is forgotten."""
        newest = self._newest[pid]
        if newest is None:
            del self._newest[pid]
            return
        self._newest[pid] = None
        self._commands.put(partial(_note, pid, *newest), poll=False)
        asyncio.get_running_loop().call_later(PAUSE, self._report, pid)


async def _note(pid: int, ticket: int | None, said: str, db: Supervisor) -> None:
    await db.note_progress(pid, ticket, said)
