"""When one item of a map timed out, or lost a race, the sessions of all items at the same step were interrupted.

Their steps still counted and ran again; steps that take long never came to their end.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from tests.crash.crew import problems
from tests.state import CLOCK_AHEAD
from tests.support import Database, Pump, wait_until

IN_ITEM = """
select l.pid from pg_locks l join pg_database d on d.oid = l.database
where l.locktype = 'advisory' and l.objid = %s and d.datname = current_database()"""
STEP = "'select pg_advisory_xact_lock(10 + $item.n)::text || pg_sleep(600)'"


@pytest.mark.parametrize("body", [f"df.timeout({STEP}, '$item.t')", f"df.race({STEP}, df.sleep('$item.t'))"])
def test_one_session_is_interrupted(db: Database, body: str) -> None:
    items = "'select g as n, 1000 ^ g as t from generate_series(1, 2) g'"
    with ThreadPoolExecutor(2) as threads, closing(Pump(db)) as one, closing(Pump(db)) as other:
        run = one.start(f"df.map({items}, {body}, on_error => 'collect')")
        calls = {one.session.info.backend_pid: threads.submit(one.work)}
        wait_until(lambda: db.admin(IN_ITEM, 11) or db.admin(IN_ITEM, 12), what="an item to be in its step")
        calls[other.session.info.backend_pid] = threads.submit(other.work)
        wait_until(lambda: db.admin(IN_ITEM, 11) and db.admin(IN_ITEM, 12), what="both items to be in their step")
        quick, slow = db.admin(IN_ITEM, 11), db.admin(IN_ITEM, 12)
        assert one.tick()["interrupt"] == []
        db.admin(CLOCK_AHEAD.format("1 hour"))
        assert one.tick()["interrupt"] == [quick]
        db.admin("select pg_cancel_backend(%s)", quick)
        calls[quick].result()
        db.sql("select df.cancel(%s)", run.id)
        assert one.tick()["interrupt"] == [slow]
        db.admin("select pg_cancel_backend(%s)", slow)
        calls[slow].result()
        assert [pump.work() for pump in (one, other)] == ["empty", "empty"]
    assert problems(db) == []
