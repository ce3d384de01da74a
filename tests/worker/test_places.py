"""What the databases of a worker share: which one gets the next place, and what is kept for the others."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from pg_durable.leases.byte_budget import ByteBudget, ByteShare
from pg_durable.metrics.metrics import Metrics
from pg_durable.sessions.pool import Pools
from pg_durable.shares.places import Places

from tests.worker.clock import Clock, Sessions
from tests.worker.test_dispatcher import Parts

LIMIT = 5


@dataclass
class Taker:
    """A database that has so many steps that want a place."""

    places: Places
    most: int
    demand: int = 0
    in_use: int = 0

    def __post_init__(self) -> None:
        self.places.join(self)

    @property
    def wanted(self) -> bool:
        return self.demand > 0 and self.in_use < self.most

    def offer(self) -> None:
        while self.wanted and self.places.room(self):
            self.demand -= 1
            self.in_use += 1

    def give(self) -> None:
        self.in_use -= 1
        self.places.offer()


def takers(limit: int | None, *most: int) -> list[Taker]:
    places = Places(limit)
    return [Taker(places, each) for each in most]


def served(several: list[Taker], *demand: int) -> list[int]:
    """How many each one has, once they want so many more."""
    for taker, wanted in zip(several, demand, strict=True):
        taker.demand += wanted
    several[0].places.offer()
    return [taker.in_use for taker in several]


def test_one_database_has_all() -> None:
    assert served(takers(4, 9), 9) == [4]


def test_a_busy_database_leaves_one_to_each_of_the_others() -> None:
    several = takers(6, 9, 9, 9)
    assert served(several, 9, 0, 0) == [4, 0, 0]
    assert served(several, 0, 1, 1) == [4, 1, 1]


def test_half_of_the_places_are_kept_where_there_are_more_databases() -> None:
    assert served(takers(4, *[9] * 8), 9, *[0] * 7) == [2, *[0] * 7]


def test_where_there_is_one_place_databases_take_turns() -> None:
    several = takers(1, 9, 9)
    seen = set()
    served(several, 9, 9)
    for _ in range(4):
        busy = next(taker for taker in several if taker.in_use)
        seen.add(several.index(busy))
        busy.give()
    assert seen == {0, 1}


def test_what_becomes_free_goes_to_the_one_with_fewer() -> None:
    several = takers(8, 9, 9)
    assert served(several, 9, 0) == [7, 0]
    assert served(several, 9, 9) == [7, 1]
    for _ in range(3):
        several[0].give()
    assert [taker.in_use for taker in several] == [4, 4]


def test_a_database_has_no_more_than_its_own_setting_allows() -> None:
    assert served(takers(None, 2, 6), 9, 9) == [2, 4]


def test_places_that_others_cannot_use_are_used() -> None:
    assert served(takers(8, 9, 1), 9, 9) == [7, 1]


@pytest.fixture
async def two(clock: Clock, sessions: Sessions) -> AsyncIterator[list[Parts]]:
    """The parts of two databases that share LIMIT sessions."""
    pools, places = Pools(LIMIT), Places(LIMIT)
    two = [Parts(sessions, pools, places) for _ in range(2)]
    for parts in two:
        parts.pool.limit = parts.dispatcher.limit = places.most_of_one
    yield two
    for parts in two:
        parts.dispatcher.accepting = False
    for parts in two:
        await parts.dispatcher.cancel()


async def test_two_databases_never_have_more_sessions_than_they_may(two: list[Parts], sessions: Sessions) -> None:
    """Sessions in calls and idle ones of several roles, whatever comes when."""
    chance = random.Random(7)
    calls: dict[str, set[int]] = {"a": set(), "b": set()}
    for _ in range(300):
        for database, parts in zip(calls, two, strict=True):
            await parts.plan(**{f"{database}{number}": chance.randrange(4) for number in range(3)})
        alive = [session for session in sessions.opened if session.alive]
        busy = [session for session in alive if session.careful and not session.answer.done()]
        assert len(busy) <= len(alive) <= LIMIT
        for session in busy:
            calls[session.role[0]].add(session.pid)
        for session in chance.sample(busy, chance.randint(0, len(busy))):
            await two[0].answer(session, "empty")
    assert all(len(of_database) > 10 for of_database in calls.values())


async def test_the_slot_of_one_database_is_given_to_the_other_at_once(two: list[Parts]) -> None:
    first, second = two
    await first.plan(one=9)
    assert len(first.calls("one")) == 4
    await second.plan(other=9)
    assert len(second.calls("other")) == 1
    for call in first.calls("one")[:2]:
        await first.answer(call, "more")
    assert sorted((len(first.calls("one")), len(second.calls("other")))) == [2, 3]


def test_a_database_leaves_memory_to_the_others() -> None:
    budget = ByteBudget()
    first, second = (budget.share(Metrics()) for _ in range(2))
    first.resize(1000)
    second.resize(400)
    first.open("a", 700)
    assert (first.room, second.room) == (50, 300)
    first.open("b", 100)
    assert (first.room, second.room) == (0, 200)


async def test_the_database_that_holds_least_memory_comes_first() -> None:
    budget = ByteBudget()
    first, second = (budget.share(Metrics()) for _ in range(2))
    for share in (first, second):
        share.resize(1_000_000)
    held = [first.open(role, 300_000) for role in ("a", "b")]
    order: list[str] = []

    async def want(share: ByteShare, role: str, number: int) -> None:
        await share.open(role, 0).hold(number)
        order.append(role)

    waiting = [asyncio.create_task(want(share, role, 500_000)) for share, role in ((first, "c"), (second, "d"))]
    await asyncio.sleep(0)
    assert order == []
    held[0].free()
    await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert order == ["d"]
    waiting[0].cancel()
