"""The engine against the reference interpreter, on graphs at random.

`ORACLE_EXAMPLES=5000 pytest tests/oracle` looks at that many in each module, at others each time.
A disagreement shrinks to a graph that is printed as SQL; the table and functions its steps need are in engine.py.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, reject, settings

from tests.oracle.engine import Engine, prepare, stop_clock
from tests.oracle.generate import cases, retrying, undoing
from tests.oracle.interpreter import Disagreement
from tests.oracle.play import Act, Case, Play
from tests.oracle.steps import Step, fewer
from tests.oracle.tree import Node, labelled
from tests.support import Database

EXAMPLES = int(os.environ.get("ORACLE_EXAMPLES", "0"))


def profile(examples: int) -> settings:
    """That many examples, always the same ones; or as many others as are asked for."""
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )


@pytest.fixture(scope="module")
def engine(shared: Database) -> Iterator[Engine]:
    """One database for all runs."""
    prepare(shared)
    stop_clock(shared)
    engine = Engine(shared)
    yield engine
    engine.pump.close()


def judge(play: Play) -> None:
    """Plays a case; where the contract leaves open who gets a signal, the oracle has nothing to say."""
    try:
        play.through()
    except Disagreement:
        if play.oracle.unclear:
            reject()
        raise
    finally:
        play.abandon()


def test_engine_and_oracle_agree(engine: Engine) -> None:
    @profile(250)
    @given(cases())
    def agree(case: Case) -> None:
        judge(Play(engine, case))

    agree()


def test_engine_and_oracle_agree_on_what_is_tried_again(engine: Engine) -> None:
    @profile(100)
    @given(retrying())
    def agree(case: Case) -> None:
        judge(Play(engine, case))

    agree()


def test_engine_and_oracle_agree_on_what_is_undone(engine: Engine) -> None:
    @profile(150)
    @given(undoing())
    def agree(case: Case) -> None:
        judge(Play(engine, case))

    agree()


def wait(name: str) -> Node:
    return Node("SIGNAL", config={"signal_name": name, "timeout_seconds": None})


def often() -> Node:
    return Node("SQL", step=Step((fewer(5),)))


def test_a_loop_that_a_race_left_running_begins_anew(engine: Engine) -> None:
    inner = Node("LOOP", wait("go"), condition=often())
    outer = Node("LOOP", Node("RACE", Node("JOIN", inner, wait("never")), wait("stop")), condition=often())
    acts: list[Act] = [None, ("signal", "go", "1"), ("signal", "stop", "1"), ("cancel", "enough")]
    judge(Play(engine, Case(labelled(outer), acts)))


def test_a_loop_that_loses_while_a_later_iteration_waits_has_failed(engine: Engine) -> None:
    inner = Node("LOOP", Node("RACE", wait("go"), wait("go")), condition=Node("SQL", step=Step((fewer(1),))))
    late = Node("SQL", step=Step((fewer(1),), trips=1))
    judge(Play(engine, Case(labelled(Node("RACE", late, inner)), [("signal", "go", "1")])))


class Broken(Play):
    """One that the oracle breaks off in the middle."""

    def pass_time(self) -> None:
        raise Disagreement("made up")


def test_a_play_that_is_broken_off_leaves_nothing_to_the_next(engine: Engine) -> None:
    play = Broken(engine, Case(labelled(Node("SLEEP", config="2"))))
    with pytest.raises(Disagreement, match="made up"):
        judge(play)
    assert play.run.status == "cancelled"
