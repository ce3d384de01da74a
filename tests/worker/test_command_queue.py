"""The command queue: what is to be told on the supervising connection, and what becomes of it where that fails."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from pg_durable.supervisor.command_queue import AGAIN, CommandQueue

from tests.worker.clock import Clock

DB: Any = None  # the commands of these tests need none


@pytest.fixture
def wake() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
def queue(clock: Clock, wake: asyncio.Event) -> CommandQueue:
    return CommandQueue(wake)


@pytest.fixture
def made() -> list[str]:
    """The commands that were made, in their order."""
    return []


def command(made: list[str], name: str, *answers: bool | Exception) -> Callable[[Any], Awaitable[bool]]:
    """A command that gives these answers, one a try, and then True."""
    left = list(answers)

    async def make(_: Any) -> bool:
        made.append(name)
        answer = left.pop(0) if left else True
        if isinstance(answer, Exception):
            raise answer
        return answer

    return make


async def test_commands_are_made_in_their_order(queue: CommandQueue, made: list[str]) -> None:
    queue.put(command(made, "a"))
    queue.put(command(made, "b"))
    await queue.deliver(DB)
    await queue.deliver(DB)
    assert made == ["a", "b"]
    assert not queue


async def test_what_the_engine_cannot_take_now_is_tried_again_later(
    queue: CommandQueue, made: list[str], clock: Clock
) -> None:
    queue.put(command(made, "a", False))
    queue.put(command(made, "b"))
    await queue.deliver(DB)
    await queue.deliver(DB)
    assert made == ["a", "b"]
    assert queue
    assert queue.again_at() == clock.now + AGAIN
    clock.pass_by(AGAIN)
    await queue.deliver(DB)
    assert made == ["a", "b", "a"]
    assert queue.again_at() == float("inf")


async def test_bad_luck_keeps_a_command_behind_the_others(queue: CommandQueue, made: list[str]) -> None:
    queue.put(command(made, "a", psycopg.errors.DeadlockDetected()))
    queue.put(command(made, "b"))
    with pytest.raises(psycopg.OperationalError):
        await queue.deliver(DB)
    await queue.deliver(DB)
    assert made == ["a", "b", "a"]


async def test_a_command_that_cannot_succeed_stops_nobody(queue: CommandQueue, made: list[str]) -> None:
    queue.put(command(made, "a", psycopg.errors.InvalidTextRepresentation()))
    queue.put(command(made, "b"))
    await queue.deliver(DB)
    assert made == ["a", "b"]
    assert not queue


def test_a_command_wakes_the_owner_and_asks_for_one_poll(queue: CommandQueue, wake: asyncio.Event) -> None:
    queue.put(command([], "a"))
    assert wake.is_set()
    assert (queue.take_poll(), queue.take_poll()) == (True, False)
    queue.put(command([], "b"), poll=False)
    assert not queue.take_poll()


async def test_what_is_cleared_is_not_made(queue: CommandQueue, made: list[str], clock: Clock) -> None:
    queue.put(command(made, "a", False))
    await queue.deliver(DB)
    queue.put(command(made, "b"))
    queue.clear()
    clock.pass_by(AGAIN)
    await queue.deliver(DB)
    assert made == ["a"]
