"""Many sessions start the same few keys in every way, while runs end, are cancelled and removed."""

import random
from concurrent.futures import ThreadPoolExecutor

import psycopg

from tests.crash.crew import Crew, problems
from tests.state import FREE_RUNS_ENDED_YESTERDAY, KEYS_WITHOUT_RUN, LIVE_RUNS_OF_KEYS, RETENTION_IS_DUE
from tests.support import Database

KEYS = ("a", "b", "c")
ROUNDS = 60
START = "select df.start('select 1' ~> df.sleep(0.01) ~> 'select 2', key => %s, on_conflict => %s)"


def starts(fx: Database, seed: int) -> list[str]:
    """Starts keys at random; answers the ids it was given, or fails for an error that nobody asked for."""
    dice = random.Random(seed)
    ids: list[str] = []
    with fx.connect("app") as session:
        for _ in range(ROUNDS):
            how = dice.choice(("return", "error", "restart", "replace"))
            try:
                row = session.execute(START, [dice.choice(KEYS), how]).fetchone()
            except psycopg.Error as error:
                assert (error.sqlstate, how) == ("DF409", "error"), error
            else:
                assert row
                ids.append(row[0])
            assert session.execute(LIVE_RUNS_OF_KEYS.encode()).fetchall() == []
    return ids


def test_a_key_never_has_two_live_runs(fx: Database) -> None:
    fx.admin("select df.set_setting('retention_days', '1')")
    with Crew(fx, 2) as crew, ThreadPoolExecutor(4) as pool:
        results = [pool.submit(starts, fx, seed) for seed in range(4)]
        while not all(result.done() for result in results):
            fx.admin(FREE_RUNS_ENDED_YESTERDAY)
            fx.admin(RETENTION_IS_DUE)
        assert all(result.result() for result in results)
        crew.settled()
    assert fx.admin(KEYS_WITHOUT_RUN) == 0
    assert problems(fx) == []
