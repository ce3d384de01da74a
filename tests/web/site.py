"""The page, served by a thread of the test process: its clock is the test's, and its parts can be asked."""

import asyncio
import threading
import time
from dataclasses import replace
from typing import Any

import uvicorn
from pg_durable.web.options import Options
from pg_durable.web.server import Place, server

from tests.cluster import free_port
from tests.support import wait_until


class Site:
    """A page that runs."""

    def __init__(self, options: Options) -> None:
        self.ahead = 0.0  # seconds, of the page's clock
        self.place = Place("127.0.0.1", free_port())
        self.server: uvicorn.Server = server(replace(options, clock=self._clock), self.place)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        wait_until(lambda: self.server.started, 30, "the page has started")

    @property
    def url(self) -> str:
        """Its address, without the last slash."""
        return self.place.url.rstrip("/")

    @property
    def state(self) -> Any:
        """What the application keeps."""
        app: Any = self.server.config.app
        return app.state

    def stop(self) -> None:
        """Ends it."""
        self.server.should_exit = True
        self._thread.join(30)

    def _run(self) -> None:
        asyncio.run(self.server.serve())

    def _clock(self) -> float:
        return time.time() + self.ahead
