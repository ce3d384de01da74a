"""One role attacks in every way at once, and another hardly notices: a short run of `python -m tests.crash.rogue`."""

from tests.crash.attacks import ALL
from tests.crash.rogue import Neighbour, Rogue


def test_a_role_that_attacks_stops_nobody() -> None:
    with Rogue(seed=17) as rogue:
        app = Neighbour(rogue.db)
        rogue.attack(ALL, 6)
        rogue.calm()
        app.stop()
        assert app.wrong + rogue.wrong() == []
        assert app.completed > 0
