"""The pool: which session serves a role, when one is closed, and what follows where a role cannot log in."""

from typing import Any

import pytest
from pg_durable.metrics.metrics import Metrics
from pg_durable.sessions.crash_attribution import WINDOW, CrashAttribution
from pg_durable.sessions.pool import CAREFUL_FOR, FIRST_BACKOFF, KEEP_IDLE, LONGEST_BACKOFF, LoginFailed, Pool

from tests.worker.clock import Clock, Sessions

AGE = 60.0
LOGIN: Any = None  # the sessions of these tests need none


@pytest.fixture
def crashes(clock: Clock) -> CrashAttribution:
    return CrashAttribution()


@pytest.fixture
def pool(clock: Clock, sessions: Sessions, crashes: CrashAttribution) -> Pool:
    pool = Pool(LOGIN, Metrics(), crashes, AGE)
    pool.limit = 2
    return pool


async def test_a_role_gets_its_idle_session_again(pool: Pool, sessions: Sessions) -> None:
    first = await pool.acquire("app")
    await pool.release(first)
    assert await pool.acquire("app") is first
    assert len(sessions.opened) == 1


async def test_a_session_in_use_serves_nobody_else(pool: Pool, sessions: Sessions) -> None:
    assert await pool.acquire("app") is not await pool.acquire("app")


async def test_an_aged_session_is_replaced(pool: Pool, sessions: Sessions) -> None:
    first = await pool.acquire("app")
    await pool.release(first)
    sessions.opened[0].age = AGE + 1
    assert await pool.acquire("app") is not first
    assert sessions.of("app") == sessions.opened[1:]


async def test_a_session_that_cannot_be_used_again_is_closed(pool: Pool, sessions: Sessions) -> None:
    first = await pool.acquire("app")
    sessions.opened[0].alive = False
    await pool.release(first)
    assert await pool.acquire("app") is not first


async def test_where_the_limit_is_reached_the_session_that_was_idle_longest_makes_room(
    pool: Pool, sessions: Sessions, clock: Clock
) -> None:
    older, newer = await pool.acquire("older"), await pool.acquire("newer")
    await pool.release(older)
    clock.pass_by(1)
    await pool.release(newer)
    await pool.acquire("app")
    assert (len(sessions.of("older")), len(sessions.of("newer")), len(sessions.of("app"))) == (0, 1, 1)


async def test_idle_sessions_are_closed_after_a_while(pool: Pool, sessions: Sessions, clock: Clock) -> None:
    await pool.release(await pool.acquire("app"))
    clock.pass_by(KEEP_IDLE - 1)
    await pool.close_idle()
    assert sessions.of("app")
    clock.pass_by(1)
    await pool.close_idle()
    assert not sessions.of("app")


async def test_the_pause_after_a_failed_login_doubles_up_to_a_limit(
    pool: Pool, sessions: Sessions, clock: Clock
) -> None:
    sessions.refused.add("app")
    pauses = []
    for _ in range(7):
        with pytest.raises(LoginFailed):
            await pool.acquire("app")
        pauses.append(pool.try_at("app") - clock.now)
        clock.now = pool.try_at("app")
    assert pauses == [FIRST_BACKOFF * 2**n for n in range(5)] + [LONGEST_BACKOFF] * 2
    assert sessions.tries == 7


async def test_during_the_pause_no_login_is_tried(pool: Pool, sessions: Sessions, clock: Clock) -> None:
    sessions.refused.add("app")
    for alone in (True, False):
        with pytest.raises(LoginFailed) as failed:
            await pool.acquire("app")
        assert failed.value.alone is alone
    assert sessions.tries == 1


async def test_a_role_with_a_session_is_not_alone_with_its_failure(pool: Pool, sessions: Sessions) -> None:
    await pool.acquire("app")
    sessions.refused.add("app")
    with pytest.raises(LoginFailed) as failed:
        await pool.acquire("app")
    assert not failed.value.alone


async def test_a_call_ends_the_back_off_and_says_whether_runs_had_to_wait(
    pool: Pool, sessions: Sessions, clock: Clock
) -> None:
    pool.avoid("app", "a reason")
    pool.block("app")
    assert (pool.unblock("app"), pool.unblock("app")) == (True, False)
    assert pool.try_at("app") <= clock.now


async def test_after_a_crash_the_role_pauses_and_its_sessions_name_their_steps(pool: Pool, clock: Clock) -> None:
    pool.died("app")
    assert pool.try_at("app") == clock.now + WINDOW
    assert (pool.careful("app"), pool.careful("other")) == (True, False)
    clock.pass_by(CAREFUL_FOR)
    assert not pool.careful("app")


async def test_an_idle_session_that_the_server_has_ended_is_closed_and_counts_as_lost(
    pool: Pool, sessions: Sessions, crashes: CrashAttribution, clock: Clock
) -> None:
    await pool.release(await pool.acquire("app"))
    sessions.opened[0].alive = False
    await pool.close_dead()
    crashes.lost("call", None, 16384, (7, "a"))
    clock.pass_by(2 * WINDOW)
    assert crashes.evidence(0.0) == []  # the loss of the idle one explains that of the step
    await pool.acquire("app")
    assert len(sessions.opened) == 2
