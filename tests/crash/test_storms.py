"""Much at once: branches that end together, races without a favourite, cancels, signals; every effect exactly once."""

import random
import threading
import time

import pytest

from tests.crash.crew import Crew
from tests.crash.load import BELOW, FLOWS, Load, prepare
from tests.state import SECONDS_TO_TIMER
from tests.support import Database


@pytest.mark.parametrize("supervisors", [1, 3])
def test_all_that_runs_side_by_side_leaves_its_effects_once(db: Database, supervisors: int) -> None:
    prepare(db)
    load = Load(db)
    with Crew(db, 6, supervisors) as crew:
        for flow in FLOWS * 12:
            load.start(flow)
        crew.settled()
    assert load.wrong() == []


def test_steps_that_meet_a_cancel_are_done_whole_or_not_at_all(db: Database) -> None:
    """After the cancel has committed no step commits: what a run left when it was cancelled is all it ever leaves."""
    prepare(db)
    load, chance = Load(db), random.Random(2)
    left: dict[str, int] = {}
    with Crew(db, 6) as crew:
        for _ in range(80):
            run = load.start()
            time.sleep(chance.random() / 50)
            with db.connect("app") as conn:
                conn.execute("select df.cancel(%s)", [run])
                for (below,) in conn.execute(BELOW, [run]).fetchall():
                    row = conn.execute("select count(*) from fx where run = %s", [below]).fetchone()
                    assert row is not None
                    left[below] = row[0]
        crew.settled()
    assert left | dict(db.rows("select run, count(*) from fx group by run", user=None)) == left
    assert db.admin("select count(*) from df.instances where status = 'cancelled'") > 0


def test_no_signal_is_lost_or_delivered_twice(db: Database) -> None:
    """As many signals as waits, sent while the waits open: each wait gets one, each signal goes to one."""
    prepare(db)
    waits, runs = 12, 10
    flow = (
        "df.loop(df.wait_for_signal('s') |=> 'm' ~> 'insert into fx select $m.data, ''{sys_instance_id}''', "
        f"'select count(*) < {waits} from fx where run = ''{{sys_instance_id}}''')"
    )

    def send(ids: list[str], numbers: range) -> None:
        chance = random.Random(numbers.start)
        with db.connect("app") as conn:
            for number in numbers:
                for run in ids:
                    conn.execute("select df.signal(%s, 's', %s)", [run, str(number)])
                time.sleep(chance.random() / 50)

    with Crew(db, 4, 2) as crew:
        ids = [str(db.sql(f"select df.start({flow})")) for _ in range(runs)]
        senders = [threading.Thread(target=send, args=(ids, range(k, waits, 3))) for k in range(3)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        crew.settled()
    expected = [(run, str(number), 1) for run in sorted(ids) for number in range(waits)]
    got = db.rows("select run, t, count(*) from fx group by run, t order by run, t::int", user=None)
    assert got == sorted(expected, key=lambda row: (row[0], int(row[1])))


def test_a_wait_ends_with_its_signal_or_its_timeout_and_no_signal_is_swallowed(db: Database) -> None:
    """Signals that come at about the time of the timeout: what timed out leaves its signal in the inbox."""
    flow = "df.wait_for_signal('s', 1) |=> 'm' ~> 'insert into fx select $m.timed_out, ''{sys_instance_id}'''"
    prepare(db)
    with Crew(db, 4, 3) as crew:
        ids = [str(db.sql(f"select df.start({flow})")) for _ in range(60)]
        while db.admin(SECONDS_TO_TIMER) > 0.02:
            time.sleep(0.005)
        for run in ids:
            db.sql("select df.signal(%s, 's')", run)
        crew.settled()
    unmatched = (
        "select count(*) from df.signals s join fx f on f.run = s.instance_id "
        "where (s.status = 'delivered') = (f.t = 'true')"
    )
    assert db.admin(unmatched) == 0
    assert db.admin("select count(*) from fx") == len(ids)
