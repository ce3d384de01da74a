"""When the worker looks and when it lets itself be woken. Times are seconds of an imagined clock."""

from pg_durable.worker.polling import FLAG_MARGIN, LOOK_BACK, LOOK_BUSY, LOOK_SATURATED, SWEEP, Cadence


def flagged() -> Cadence:
    cadence = Cadence()
    cadence.announce(True, 0.0)
    return cadence


def test_the_flag_goes_up_when_there_is_room_and_down_when_there_is_none() -> None:
    cadence = Cadence()
    assert not cadence.announcement_due(False, 0.0)
    assert cadence.announcement_due(True, 0.0)
    assert cadence.announce(True, 0.0) == (SWEEP + FLAG_MARGIN) * 1000
    assert not cadence.announcement_due(True, 0.1)
    assert cadence.announcement_due(False, 0.1)
    assert cadence.announce(False, 0.1) is None
    assert not cadence.announcement_due(False, 0.2)


def test_the_flag_is_renewed_before_it_lapses() -> None:
    cadence = flagged()
    assert not cadence.announcement_due(True, SWEEP - 0.01)
    assert cadence.announcement_due(True, SWEEP + 0.01)


def test_looks_follow_shortly_after_the_flag_went_up_and_only_then() -> None:
    cadence = flagged()
    looks, now = [], 0.0
    for _ in range(4):
        now = cadence.look_again(now, True, False, None)
        looks.append(now)
    assert looks == [*LOOK_BACK, LOOK_BACK[-1] + SWEEP]
    cadence.announce(True, now)
    assert cadence.look_again(now, True, False, None) == now + SWEEP


def test_the_next_look_is_the_earliest_reason_for_one() -> None:
    cadence = flagged()
    now = 10.0
    assert cadence.look_again(now, False, True, None) == now + LOOK_SATURATED
    assert cadence.look_again(now, True, True, None) == now + LOOK_BUSY
    assert cadence.look_again(now, True, False, 1500) == now + 1.5
    assert cadence.look_again(now, True, False, 60_000) == now + SWEEP
    assert now < cadence.look_again(now, True, False, 0) < now + 0.01
