"""What says that the engine acts for df.test was a setting that everybody can set when they log in."""

from tests.engine.test_limits import running
from tests.support import Pump, Run


def test_a_setting_takes_no_step_out_of_its_limits(pump: Pump) -> None:
    pump.db.admin("select df.set_limit('api', 1, shared => true)")
    first = pump.start("df.within('api', 'insert into fx (t) values (''a'')')")
    second = Run(pump.db, pump.db.sql("select df.start(df.within('api', 'select 1'))", user="other"))
    other = pump.db.connect("other", options="-c df_engine.virtual=x")
    with running(pump):
        other.execute("call df.work()")
        assert pump.db.admin("select status from df.instances where id = %s", second.id) == "pending"
    pump.until(first.ended)
    other.execute("call df.work()")
    assert pump.db.admin("select status from df.instances where id = %s", second.id) == "completed"
    other.close()
