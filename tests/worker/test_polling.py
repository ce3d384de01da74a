"""When the worker polls and when it says that it is idle. Times are seconds of an imagined clock."""

from pg_durable.worker.polling import IDLE_MARGIN, POLL_BUSY, POLL_SATURATED, POLLS_AFTERWARDS, SWEEP, Polling


def idle() -> Polling:
    polling = Polling()
    polling.say_idle(True, 0.0)
    return polling


def test_a_worker_is_idle_while_it_has_room() -> None:
    polling = Polling()
    assert not polling.idle_due(False, 0.0)
    assert polling.idle_due(True, 0.0)
    assert polling.say_idle(True, 0.0) == (SWEEP + IDLE_MARGIN) * 1000
    assert not polling.idle_due(True, 0.1)
    assert polling.idle_due(False, 0.1)
    assert polling.say_idle(False, 0.1) is None
    assert not polling.idle_due(False, 0.2)


def test_it_says_so_again_before_that_lapses() -> None:
    polling = idle()
    assert not polling.idle_due(True, SWEEP - 0.01)
    assert polling.idle_due(True, SWEEP + 0.01)


def test_polls_follow_shortly_after_it_became_idle_and_only_then() -> None:
    polling = idle()
    polls, now = [], 0.0
    for _ in range(4):
        now = polling.next_poll(now, True, False, None)
        polls.append(now)
    assert polls == [*POLLS_AFTERWARDS, POLLS_AFTERWARDS[-1] + SWEEP]
    polling.say_idle(True, now)
    assert polling.next_poll(now, True, False, None) == now + SWEEP


def test_the_next_poll_is_the_earliest_reason_for_one() -> None:
    polling = idle()
    now = 10.0
    assert polling.next_poll(now, False, True, None) == now + POLL_SATURATED
    assert polling.next_poll(now, True, True, None) == now + POLL_BUSY
    assert polling.next_poll(now, True, False, 1500) == now + 1.5
    assert polling.next_poll(now, True, False, 60_000) == now + SWEEP
    assert now < polling.next_poll(now, True, False, 0) < now + 0.01
