"""A step that had ended in an earlier turn of a loop was taken for one that has ended."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import Database, Pump, wait_until

SLEEPS = "select wait_event = 'PgSleep' from pg_stat_activity where pid = %s"


@pytest.mark.parametrize("body", ["{}", "'select 1' ~> {}"])
def test_a_step_is_interrupted_in_any_turn(db: Database, body: str) -> None:
    db.sql("create sequence turns")
    step = "'select pg_sleep(case when nextval(''turns'') > 2 then 60 else 0 end)'"
    pump = Pump(db)
    run = pump.start(f"df.loop({body.format(step)}, 'select true')")
    pid = pump.session.info.backend_pid
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(pump.work)
        wait_until(lambda: db.admin(SLEEPS, pid), what="the third turn")
        db.sql("select df.cancel(%s)", run.id)
        assert pump.tick()["interrupt"] == [pid]
        db.admin("select pg_cancel_backend(%s)", pid)
        working.result()
    assert run.status == "cancelled"
