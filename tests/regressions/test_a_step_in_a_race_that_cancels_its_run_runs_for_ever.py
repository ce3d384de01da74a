"""The cancel took the race away, so the step had lost it, was rolled back with its cancel, and ran again."""

import pytest

from tests.support import Pump

CANCELS = "insert into fx (t) select df.cancel('{sys_instance_id}', 'by itself')"


@pytest.mark.parametrize("around", ["df.race({}, df.sleep(60))", "df.timeout({}, 60)", "df.any({}, df.sleep(60))"])
def test_it_ends_and_its_effect_stays(pump: Pump, around: str) -> None:
    step = "'" + CANCELS.replace("'", "''") + "'"
    run = pump.run(around.format(step) + " ~> 'select 1'")
    assert (run.status, run.error) == ("cancelled", "canceled: by itself")
    assert pump.db.sql("select count(*) from fx") == 1
    assert pump.db.rows("select * from df.check()", user=None) == []
