"""A worker: one process, which serves one database or several. Each is served by itself; what bounds them is shared."""

import asyncio
from contextvars import Context, copy_context

from pg_durable.log import DATABASE
from pg_durable.login import Login, names
from pg_durable.metrics.metrics import Metrics, MetricsServer
from pg_durable.shares.shared import Shared
from pg_durable.worker.database_worker import DatabaseWorker
from pg_durable.worker.options import Options


class Worker:
    """Runs until stop() is called. A database that is lost is none of the others' business."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._metrics = Metrics()
        self._shared = Shared(options.sessions, options.keys)
        self._databases: dict[DatabaseWorker, Context] = {}
        for name, dsn in zip(names(options.dsns), options.dsns, strict=True):
            context = self._context(name)
            self._databases[context.run(self._database, name, dsn)] = context

    def stop(self) -> None:
        """Claims nothing more; what runs has the grace time to end. Asked a second time, it is cancelled at once."""
        for database, context in self._databases.items():
            context.run(database.stop)

    def health(self) -> tuple[bool, str]:
        """Whether any database has answered a short while ago, and which ones have not."""
        lost = [database.name for database in self._databases if not database.healthy()]
        if len(lost) == len(self._databases):
            return False, "no database"
        return True, f"ok, but not in touch with {', '.join(lost)}" if lost else "ok"

    async def run(self) -> None:
        """Serves the databases until told to stop."""
        server = MetricsServer(self._metrics, self.health, self._count)
        if self._options.metrics:
            await server.start(self._options.metrics)
        tasks = [asyncio.create_task(database.run(), context=context) for database, context in self._databases.items()]
        try:
            await asyncio.gather(*tasks)
        finally:
            await self._shared.close()
            await server.close()

    def _database(self, name: str, dsn: str) -> DatabaseWorker:
        return DatabaseWorker(
            name, Login(dsn, self._options.login_format), self._options, self._metrics.of(name), self._shared
        )

    def _context(self, name: str) -> Context:
        """Where events are logged with the name of their database, if there are several."""
        context = copy_context()
        if len(self._options.dsns) > 1:
            context.run(DATABASE.set, name)
        return context

    async def _count(self) -> None:
        await asyncio.gather(*(database.count() for database in self._databases))
