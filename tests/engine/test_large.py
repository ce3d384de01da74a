"""Large results and many rows stay linear and within their limits."""

from functools import partial

from tests.crash.crew import problems
from tests.oracle.graphs import if_, join, loop, quoted, signal, sql
from tests.state import WAITS
from tests.support import Pump


def test_a_result_of_many_rows_keeps_them_all(pump: Pump) -> None:
    run = pump.run("'select i, i * 2 as j from generate_series(1, 50000) i'", seconds=30)
    assert run.status == "completed"
    assert run.result["row_count"] == 50000
    assert run.result["rows"][-1] == {"i": 50000, "j": 100000}


def test_a_wide_fan_out_of_a_thousand_branches_joins(pump: Pump) -> None:
    run = pump.run(quoted(join(*[sql("insert into fx values (1)")] * 1000)), seconds=60)
    assert run.status == "completed"
    assert pump.db.sql("select count(*) from fx") == 1000


def test_a_wide_fan_out_is_consistent_while_some_branches_wait_and_opens_again(pump: Pump) -> None:
    branch = if_(sql("select mod(nextval('turns'), 3) = 0"), signal("go"), sql("insert into fx values (1)"))
    pump.db.sql("create sequence turns")
    run = pump.start(quoted(loop(join(*[branch] * 50), sql("select last_value < 150 from turns"))))
    for waits in (16, 17, 17):  # of the numbers of a turn that are divisible by three
        pump.until(partial(pump.db.admin, f"select ({WAITS}) = %s", waits))
        assert problems(pump.db) == []
        pump.db.sql("select df.signal(%s, 'go')", run.id)
    pump.until(run.ended)
    assert (run.status, run.error) == ("completed", "")
    assert pump.db.sql("select count(*) from fx") == 100


def test_an_interrupted_branch_fails_alone(pump: Pump) -> None:
    run = pump.start("('select 1' ~> 'select pg_cancel_backend(pg_backend_pid())') & 'insert into fx values (1)'")
    report = pump.work()
    while report.startswith("interrupted:"):
        pump.fail_stopped(report)
        report = pump.work()
    assert run.status == "failed"
    assert run.error.startswith("JOIN branch 1 failed: ")
    assert pump.db.sql("select count(*) from fx") == 1
