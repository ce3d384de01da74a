"""The worker of one database: a loop that asks it what is to be done, does it, and waits for a wake-up."""

import asyncio
from contextlib import suppress
from dataclasses import astuple
from functools import partial
from logging import DEBUG, INFO, WARNING
from math import inf
from time import monotonic

import psycopg

from pg_durable.leases.leased_steps import DIRECT, HTTP, LeasedSteps
from pg_durable.log import event
from pg_durable.login import Login, reason
from pg_durable.metrics.collector import MetricsCollector
from pg_durable.metrics.metrics import Metrics
from pg_durable.sessions.crash_attribution import CrashAttribution, CrashEvidence
from pg_durable.sessions.pool import MOST_SESSIONS, Pool
from pg_durable.shares.shared import Shared
from pg_durable.supervisor.command_queue import CommandQueue
from pg_durable.supervisor.connection import GONE, RefusedError, Supervisor, Tick
from pg_durable.supervisor.failures import Failures
from pg_durable.tracing.tracer import Tracer
from pg_durable.worker.dispatcher import Dispatcher
from pg_durable.worker.options import Options
from pg_durable.worker.polling import SHORTEST, Polling

RECONNECT_AFTER = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
AFTER_A_REFUSAL = 0.2
CLAIMED_BYTES = 16 << 20  # of requests that are leased at once
LEFT_BEHIND = 0.25  # seconds to the next poll for leased steps that could not be claimed
NO_ANSWER = 5.0  # how long after the grace time a server that does not answer is left alone
HEALTHY_FOR = 15.0


class DatabaseWorker:
    """Runs until stop() is called, through losses of the server.

    Beside others it does not end where it may not register: it tries again.
    """

    def __init__(self, name: str, login: Login, options: Options, metrics: Metrics, shared: Shared) -> None:
        self.name = name
        self._options = options
        self._login = login
        self._metrics = metrics
        self._shared = shared
        self._wake = asyncio.Event()
        self._crashes = CrashAttribution()
        self._pool = Pool(login, metrics, self._crashes, options.session_age, shared.pools)
        self._commands = CommandQueue(self._wake)
        self._dispatcher = Dispatcher(
            self._pool, self._commands, metrics, self._wake, self._crashes, places=shared.slots
        )
        self._leased = LeasedSteps(login, self._pool, self._commands, metrics, shared)
        self._collector = MetricsCollector(login, metrics)
        self._tracer = Tracer(login, name) if options.otel else None
        self._stopping = asyncio.Event()
        self._stop_at = inf
        self._limit: asyncio.Timeout | None = None
        self._polled_at = 0.0
        self._left_behind = False  # leased steps that a later poll may claim, and nobody says when
        self._former: tuple[int, list[int]] | None = None  # number and leases before a connection was lost
        self._losses = 0
        self._most_sessions = 0  # the setting, as last heard
        self._may_register = len(options.dsns) > 1  # or has registered before
        self._failures = Failures()

    def stop(self) -> None:
        """Claims nothing more; what runs has the grace time to end. Asked a second time, it is cancelled at once."""
        event(INFO, "stopping", calls=self._dispatcher.busy, leased=len(self._leased.tickets))
        self._dispatcher.accepting = False
        self._stop_at = monotonic() + (0 if self._stopping.is_set() else self._options.grace)
        self._stopping.set()
        if self._limit and not self._limit.expired():
            self._limit.reschedule(self._stop_at + NO_ANSWER)
        self._wake.set()

    def healthy(self) -> bool:
        """Whether the database has answered a short while ago."""
        return monotonic() - self._polled_at < HEALTHY_FOR

    async def count(self) -> None:
        """Brings up to date what is only counted when somebody asks for the metrics."""
        await self._collector.refresh()

    async def run(self) -> None:
        """Serves the database until told to stop."""
        tracing = asyncio.create_task(self._tracer.run()) if self._tracer else None
        try:
            await self._serve_until_stopped()
        finally:
            if tracing:
                tracing.cancel()
                await asyncio.wait({tracing})

    async def _serve_until_stopped(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._connected()
            except (psycopg.Error, OSError) as error:
                await self._lost(error)
            except RefusedError as error:
                if not self._may_register:
                    raise
                await self._lost(error)  # what was taken away may be given back
        await self._dispatcher.cancel()
        await self._pool.close_idle(0)
        await self._collector.close()
        event(INFO, "stopped")

    async def _connected(self) -> None:
        """From registering to unregistering, or to the loss of the supervising connection."""
        async with asyncio.timeout(None) as limit:
            self._limit = limit
            try:
                await self._registered()
            finally:
                self._limit = None

    async def _registered(self) -> None:
        db = await Supervisor.open(self._login)
        self._may_register = True
        event(INFO, "registered", worker=db.number, database=self.name)
        self._metrics.set("up", 1)
        self._dispatcher.accepting = not self._stopping.is_set()
        try:
            if self._former:
                await db.clear_crash_scores(*self._former)
                self._former = None
            await self._serve(db)
            await self._leave(db)
        except (psycopg.Error, OSError):
            if db.lost:
                self._crashes.lost("supervisor", db.told)
            self._former = self._former or (db.number, self._leased.tickets)
            raise
        finally:
            self._metrics.set("up", 0)
            self._dispatcher.accepting = False  # calls under way need no supervision; leases do
            await self._leased.cancel()
            self._commands.clear()
            self._leased.forget()
            await db.close()

    async def _serve(self, db: Supervisor) -> None:
        """Says whether it is idle, polls, does what is to be done, waits: in this order, so that nothing is missed."""
        polling = Polling()
        while not self._finished():
            try:
                await self._commands.deliver(db)
                await self._say_idle(db, polling)
                tick = await self._poll(db)
                await self._carry_out(db, tick)
                await self._pool.close_idle()
                await self._rest(db, polling, tick)
            except psycopg.Error as error:
                if db.lost or isinstance(error, GONE):
                    raise
                event(WARNING, "refused by the database", reason=reason(error))
                await asyncio.sleep(AFTER_A_REFUSAL)

    async def _say_idle(self, db: Supervisor, polling: Polling) -> None:
        room, now = self._dispatcher.room > 0, monotonic()
        if polling.idle_due(room, now):
            await db.say_idle(polling.say_idle(room, now))

    async def _poll(self, db: Supervisor) -> Tick:
        tick = await db.tick()
        self._polled_at, self._losses = monotonic(), 0
        self._metrics.add("ticks_total")
        await self._failures.log(db)
        await self._pool.close_dead()
        for found in self._crashes.evidence(tick.server_started):
            event(WARNING, "crash score raised", role=found.role, node=found.node, weight=found.weight)
            self._commands.put(partial(_raise_crash_score, found))
        return tick

    async def _carry_out(self, db: Supervisor, tick: Tick) -> None:
        self._limit_sessions(tick.max_sessions, tick.reserved)
        self._pool.role_limits.apply(tick.limits)
        self._leased.budget.resize(tick.max_bytes)
        self._leased.requests.most = tick.max_http
        self._leased.left = tick.left
        self._show_budgets(tick)
        for pid in tick.interrupt:
            self._dispatcher.interrupt(pid)
        self._leased.abandon_except(tick.leases)
        self._leased.reasons.tell()
        self._left_behind = False
        if not self._stopping.is_set():
            await self._claim(db, HTTP, self._leased.requests.leasable(tick.http))
            await self._claim(db, DIRECT, self._direct_slots(tick))
            self._keep_slot(tick)
            self._dispatcher.plan(tick.ready)

    def _show_budgets(self, tick: Tick) -> None:
        self._metrics.set("session_reserve", self._dispatcher.reserve)
        self._metrics.set("http_limit", tick.max_http)
        self._metrics.set("http_reserve", min(tick.reserved_http, tick.max_http - 1))
        self._metrics.set("transition_rows_limit", tick.max_rows)
        for name, what in (("timers", "timers"), ("milliseconds", "ms")):
            self._metrics.set(f"tick_{name}", tick.tick.get(what, 0))
            self._metrics.set(f"tick_{name}_limit", tick.tick.get(f"most_{what}", 0))

    def _limit_sessions(self, most: int, reserved: int) -> None:
        """As many sessions as were asked for, and no more than the setting allows, which is said when it changes.

        Of those that databases share some are kept for the others.
        """
        asked = self._options.sessions or MOST_SESSIONS
        if self._options.sessions and asked > most and most != self._most_sessions:
            hint = f"SELECT df.set_setting('max_user_connections', '{asked}')"
            event(WARNING, "fewer sessions than asked for", sessions=asked, max_user_connections=most, hint=hint)
        self._most_sessions = most
        self._pool.limit = self._dispatcher.limit = max(1, min(self._shared.slots.most_of_one, most))
        self._dispatcher.reserve = max(0, min(reserved, self._dispatcher.limit - 2))

    async def _claim(self, db: Supervisor, lane: str, limit: int) -> None:
        budget = self._leased.budget
        if limit > 0 and budget.room:
            leases = await db.claim(lane, limit, min(budget.room, CLAIMED_BYTES), budget.sated)
            event(DEBUG, "leased", lane=lane, steps=len(leases))
            self._leased.start(lane, leases)
            self._left_behind = self._left_behind or len(leases) < limit
        elif limit > 0 and not self._shared.memory.undivided:
            self._left_behind = True  # another database may free the room

    def _direct_slots(self, tick: Tick) -> int:
        """Of the free slots as many as steps in transactions leave, and at least one."""
        self._dispatcher.taken = self._leased.running(DIRECT)
        room = self._dispatcher.common_room
        return min(tick.direct, room, max(1, room - sum(tick.ready.values())))

    def _keep_slot(self, tick: Tick) -> None:
        """Steps outside transactions get the next free slot when they wait and have less than half of them."""
        running = self._leased.running(DIRECT)
        waiting = (
            tick.direct > 0 and self._dispatcher.common_room == 0 and running < max(1, self._dispatcher.limit // 2)
        )
        self._dispatcher.taken = running + waiting

    async def _rest(self, db: Supervisor, polling: Polling, tick: Tick) -> None:
        """Waits until it is time to poll, giving work to free sessions when a wake-up says whose."""
        until = polling.next_poll(monotonic(), self._dispatcher.room > 0, self._dispatcher.busy > 0, tick.next_ms)
        poll = False
        while not poll and monotonic() < (deadline := min(until, self._next_try())) and not self._finished():
            hints = await db.wait(self._wake, deadline - monotonic())
            self._metrics.add("wakeups_total")
            self._dispatcher.taken = min(self._dispatcher.taken, self._leased.running(DIRECT) + 1)
            news = [self._is_news(hint) for hint in hints]
            poll = any(news) or self._commands.take_poll()
            poll = poll or polling.idle_due(self._dispatcher.room > 0, monotonic())
            await self._commands.deliver(db)
        await asyncio.sleep(max(self._polled_at + SHORTEST - monotonic(), 0))

    def _is_news(self, hint: str) -> bool:
        """Serves a role that has work at once; true for everything that needs a poll."""
        kind, _, role = hint.partition(" ")
        return not (kind == "r" and self._dispatcher.serve(int(role)))

    def _next_try(self) -> float:
        own = self._stop_at if self._stopping.is_set() else self._dispatcher.retry_at()
        left_behind = self._polled_at + LEFT_BEHIND if self._left_behind else inf
        return min(own, left_behind, self._commands.again_at(), self._crashes.due_at())

    def _finished(self) -> bool:
        """Whether it is time to leave: told to stop, and nothing runs any more or the grace time is over."""
        if not self._stopping.is_set():
            return False
        idle = self._dispatcher.busy == 0 and not self._leased.tickets and not self._commands
        return idle or monotonic() >= self._stop_at

    async def _leave(self, db: Supervisor) -> None:
        """Cancels what still runs, gives back its leases, reports the rest and unregisters."""
        unfinished = self._leased.tickets
        if unfinished or self._dispatcher.busy:
            event(
                WARNING, "cancelled at the end of the grace time", calls=self._dispatcher.busy, leased=len(unfinished)
            )
        await self._leased.cancel()
        await self._dispatcher.cancel()
        await self._commands.deliver(db)
        await self._failures.log(db, at_once=True)
        if unfinished:
            await db.release(unfinished)
        await db.leave()

    async def _lost(self, error: Exception) -> None:
        """Waits a little before the next try to connect."""
        delay = RECONNECT_AFTER[min(self._losses, len(RECONNECT_AFTER) - 1)]
        self._losses += 1
        self._metrics.add("server_lost_total")
        event(WARNING, "not connected", reason=reason(error), retry_in=delay)
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._stopping.wait()


async def _raise_crash_score(found: CrashEvidence, db: Supervisor) -> bool:
    return await db.raise_crash_score(*astuple(found))
