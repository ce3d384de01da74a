"""Crash attribution: what a lost session says about the step that ran in it."""

import pytest
from pg_durable.sessions.crash_attribution import (
    CRASH_OF_ANOTHER,
    STRONG,
    TERMINATED,
    WEAK,
    WINDOW,
    CrashAttribution,
)

from tests.worker.clock import Clock

STEP, OTHER = (7, "a"), (8, "b")
ROLE, SERVER, RESTARTED = 16384, 50.0, 60.0


@pytest.fixture
def crashes(clock: Clock) -> CrashAttribution:
    crashes = CrashAttribution()
    crashes.evidence(SERVER)
    return crashes


def weights(crashes: CrashAttribution, clock: Clock, server: float = SERVER) -> dict[str, int]:
    """By node, when the window has passed."""
    clock.pass_by(2 * WINDOW)
    return {found.node: found.weight for found in crashes.evidence(server)}


def test_a_session_lost_alone_is_strong_evidence(crashes: CrashAttribution, clock: Clock) -> None:
    crashes.lost("call", None, ROLE, STEP)
    assert weights(crashes, clock) == {"a": STRONG}


def test_it_is_judged_once_and_only_when_the_window_has_passed(crashes: CrashAttribution, clock: Clock) -> None:
    crashes.lost("call", None, ROLE, STEP)
    assert crashes.due_at() == clock.now + WINDOW
    assert crashes.evidence(SERVER) == []
    assert weights(crashes, clock) != {}
    assert crashes.evidence(SERVER) == []
    assert crashes.due_at() == float("inf")


def test_steps_lost_together_are_weak_evidence_each(crashes: CrashAttribution, clock: Clock) -> None:
    crashes.lost("call", None, ROLE, STEP)
    crashes.lost("call", None, ROLE, OTHER)
    assert weights(crashes, clock) == {"a": WEAK, "b": WEAK}


def test_steps_lost_one_after_the_other_are_strong_evidence(crashes: CrashAttribution, clock: Clock) -> None:
    crashes.lost("call", None, ROLE, STEP)
    clock.pass_by(2 * WINDOW)
    crashes.lost("call", None, ROLE, OTHER)
    assert weights(crashes, clock) == {"a": STRONG, "b": STRONG}


def test_one_step_lost_twice_at_once_does_not_speak_for_itself(crashes: CrashAttribution, clock: Clock) -> None:
    crashes.lost("call", None, ROLE, STEP)
    crashes.lost("call", None, ROLE, STEP)
    assert weights(crashes, clock) == {"a": STRONG}


def test_a_termination_is_weak_evidence(crashes: CrashAttribution, clock: Clock) -> None:
    crashes.lost("call", TERMINATED, ROLE, STEP)
    assert weights(crashes, clock) == {"a": WEAK}


def test_the_crash_of_another_session_is_none(crashes: CrashAttribution, clock: Clock) -> None:
    crashes.lost("call", CRASH_OF_ANOTHER, ROLE, STEP)
    assert weights(crashes, clock) == {}


def test_the_loss_of_an_idle_session_explains_that_of_a_step(crashes: CrashAttribution, clock: Clock) -> None:
    crashes.lost("call", None, ROLE, STEP)
    crashes.lost("idle", None)
    assert weights(crashes, clock) == {}


def test_of_all_that_a_crash_ends_the_session_that_was_told_nothing_has_crashed(
    crashes: CrashAttribution, clock: Clock
) -> None:
    crashes.lost("supervisor", CRASH_OF_ANOTHER)
    crashes.lost("idle", CRASH_OF_ANOTHER)
    crashes.lost("call", CRASH_OF_ANOTHER, ROLE, OTHER)
    crashes.lost("call", None, ROLE, STEP)
    assert weights(crashes, clock, RESTARTED) == {"a": STRONG}


@pytest.mark.parametrize(("server", "weight"), [(SERVER, {}), (RESTARTED, {"a": WEAK})])
def test_without_a_word_to_anybody_only_a_new_start_of_the_server_is_evidence(
    crashes: CrashAttribution, clock: Clock, server: float, weight: dict[str, int]
) -> None:
    crashes.lost("supervisor", None)
    crashes.lost("call", None, ROLE, STEP)
    assert weights(crashes, clock, server) == weight


def test_a_session_that_did_not_name_its_step_is_no_evidence(crashes: CrashAttribution, clock: Clock) -> None:
    crashes.lost("call", None, ROLE, None)
    assert weights(crashes, clock) == {}
