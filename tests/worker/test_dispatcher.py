"""The dispatcher: which role gets the next free slot, and what it makes of the end of a call."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from pg_durable.metrics.metrics import Metrics
from pg_durable.sessions.crash_attribution import STRONG, WINDOW, CrashAttribution
from pg_durable.sessions.pool import Pool, Pools
from pg_durable.shares.places import Places
from pg_durable.supervisor.command_queue import CommandQueue
from pg_durable.worker.dispatcher import PATIENCE, Dispatcher

from tests.worker.clock import Clock, FakeSession, Sessions

LOGIN: Any = None  # the sessions of these tests need none


class Engine:
    """In place of the supervising connection: the names of the calls and the roles they are about."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str | int]] = []

    def __getattr__(self, call: str) -> Any:
        async def tell(role: str | int, *_: Any) -> bool:
            self.told.append((call, role))
            return True

        return tell


class Parts:
    """A dispatcher with its pool and its command queue."""

    def __init__(self, sessions: Sessions, pools: Pools | None = None, places: Places | None = None) -> None:
        self.sessions = sessions
        self.wake = asyncio.Event()
        self.crashes = CrashAttribution()
        self.pool = Pool(LOGIN, Metrics(), self.crashes, 60.0, pools)
        self.commands = CommandQueue(self.wake)
        self.dispatcher = Dispatcher(
            self.pool, self.commands, Metrics(), self.wake, self.crashes, places=places or Places()
        )
        self.dispatcher.accepting = True
        self.pool.limit = self.dispatcher.limit = 4

    async def plan(self, **ready: int) -> None:
        """Says which roles have how many steps that can run, and lets the calls begin."""
        self.dispatcher.plan(ready)
        await self.pause()

    async def answer(self, session: FakeSession, answer: str | Exception) -> None:
        """Ends the call of a session."""
        if isinstance(answer, Exception):
            session.answer.set_exception(answer)
        else:
            session.answer.set_result(answer)
        await self.pause()

    async def told(self) -> list[tuple[str, str | int]]:
        """What the engine is told."""
        engine: Any = Engine()
        await self.commands.deliver(engine)
        return list(engine.told)

    def calls(self, role: str) -> list[FakeSession]:
        """The sessions of a role that are in a call."""
        return [session for session in self.sessions.of(role) if session.careful and not session.answer.done()]

    @staticmethod
    async def pause() -> None:
        """Until every asyncio task waits for an answer."""
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def parts(clock: Clock, sessions: Sessions) -> AsyncIterator[Parts]:
    parts = Parts(sessions)
    yield parts
    parts.dispatcher.accepting = False
    await parts.dispatcher.cancel()


async def test_roles_share_the_slots(parts: Parts) -> None:
    await parts.plan(one=9, other=9)
    assert (len(parts.calls("one")), len(parts.calls("other"))) == (2, 2)


async def test_a_role_alone_has_all_slots_but_the_reserve(parts: Parts) -> None:
    parts.dispatcher.reserve = 1
    await parts.plan(one=9)
    assert len(parts.calls("one")) == 3
    await parts.plan(one=9, other=9)
    assert (len(parts.calls("one")), len(parts.calls("other"))) == (3, 1)


async def test_no_more_calls_than_a_role_has_steps(parts: Parts) -> None:
    await parts.plan(one=2)
    assert len(parts.calls("one")) == 2
    assert parts.dispatcher.room == 2


async def test_slots_that_are_taken_by_leased_steps_are_left(parts: Parts) -> None:
    parts.dispatcher.taken = 3
    await parts.plan(one=9)
    assert len(parts.calls("one")) == 1


async def test_nothing_begins_while_no_work_is_accepted(parts: Parts) -> None:
    parts.dispatcher.accepting = False
    await parts.plan(one=9)
    assert (parts.dispatcher.busy, parts.dispatcher.room) == (0, 0)


async def test_a_call_that_found_nothing_is_not_repeated_and_another_is(parts: Parts) -> None:
    await parts.plan(one=1)
    await parts.answer(parts.calls("one")[0], "budget")
    await parts.answer(parts.calls("one")[0], "empty")
    assert parts.dispatcher.busy == 0
    assert parts.wake.is_set()
    assert len(parts.sessions.opened) == 1


async def test_a_wake_up_serves_a_role_that_is_known_at_once(parts: Parts) -> None:
    assert not parts.dispatcher.serve(16384)
    await parts.plan(one=1)
    session = parts.calls("one")[0]
    await parts.answer(session, "empty")
    assert parts.dispatcher.serve(session.oid)
    await parts.pause()
    assert parts.calls("one") == [session]


async def test_a_step_that_somebody_stops_is_failed_before_its_role_gets_a_slot(parts: Parts, clock: Clock) -> None:
    await parts.plan(app=1)
    session = parts.calls("app")[0]
    await parts.answer(session, "interrupted:7:a1b2c3d4:0000")
    await parts.plan(app=1, other=1)
    assert not parts.calls("app"), "it would run the step again"
    assert len(parts.calls("other")) == 1
    assert await parts.told() == [("fail_stopped", session.oid)]
    await parts.plan(app=1)
    assert len(parts.calls("app")) == 1


async def test_a_role_waits_for_its_stopped_step_to_be_failed_for_a_while_only(parts: Parts, clock: Clock) -> None:
    await parts.plan(app=1)
    await parts.answer(parts.calls("app")[0], "interrupted:7:a1b2c3d4:0000")
    clock.pass_by(PATIENCE + 1)
    await parts.plan(app=1)
    assert len(parts.calls("app")) == 1


async def test_a_crash_pauses_the_role_and_counts_against_the_step(parts: Parts, clock: Clock) -> None:
    await parts.plan(one=1)
    session = parts.calls("one")[0]
    session.alive, session.step = False, (7, "a")
    await parts.answer(session, psycopg.OperationalError("the connection is lost"))
    assert parts.dispatcher.busy == 0
    assert parts.dispatcher.retry_at() == clock.now + WINDOW
    clock.pass_by(2 * WINDOW)
    assert [(found.node, found.weight) for found in parts.crashes.evidence(0.0)] == [("a", STRONG)]
    parts.dispatcher.offer()
    await parts.pause()
    assert [session.careful for session in parts.calls("one")] == [[True]]


async def test_a_lock_that_was_not_to_be_had_is_tried_again_without_a_pause(parts: Parts) -> None:
    await parts.plan(one=1)
    session = parts.calls("one")[0]
    await parts.answer(session, psycopg.errors.LockNotAvailable())
    assert parts.calls("one") == [session]
    assert len(session.careful) == 2


async def test_the_engine_is_told_of_a_role_that_cannot_log_in_and_when_it_can(parts: Parts, clock: Clock) -> None:
    parts.sessions.refused.add("one")
    await parts.plan(one=1)
    assert await parts.told() == [("role_unreachable", "one")]
    parts.sessions.refused.clear()
    clock.now = parts.pool.try_at("one")
    await parts.plan(one=1)
    await parts.answer(parts.calls("one")[0], "empty")
    assert await parts.told() == [("role_reachable", "one")]


async def test_the_engine_is_told_of_a_role_that_waits_for_a_slot_for_long(parts: Parts, clock: Clock) -> None:
    await parts.plan(one=4)
    await parts.plan(other=1)
    clock.pass_by(PATIENCE)
    await parts.plan(other=1)
    assert await parts.told() == []
    clock.pass_by(0.1)
    await parts.plan(other=1)
    await parts.plan(other=1)
    assert await parts.told() == [("role_waits", "other")]
    await parts.answer(parts.calls("one")[0], "empty")
    await parts.plan(other=1)
    assert await parts.told() == [("role_reachable", "other")]
