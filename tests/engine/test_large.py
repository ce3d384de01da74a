"""Large results and many rows stay linear and within their limits."""

from tests.support import Pump


def test_a_result_of_many_rows_keeps_them_all(pump: Pump) -> None:
    run = pump.run("'select i, i * 2 as j from generate_series(1, 50000) i'", seconds=30)
    assert run.status == "completed"
    assert run.result["row_count"] == 50000
    assert run.result["rows"][-1] == {"i": 50000, "j": 100000}


def test_a_wide_fan_out_of_a_thousand_branches_joins(pump: Pump) -> None:
    run_id = pump.db.sql(
        """
        select df.start(format(
          '{"node_type":"JOIN","left_node":%s,"right_node":%s,"extra_nodes":[%s]}', step, step,
          repeat(step || ',', 997) || step))
        from (select df.sql('insert into fx values (1)') as step) s
        """
    )
    pump.until(lambda: pump.db.sql("select df.status(%s)", run_id) == "completed", 60)
    assert pump.db.sql("select count(*) from fx") == 1000


def test_an_interrupted_branch_fails_alone(pump: Pump) -> None:
    run = pump.start("('select 1' ~> 'select pg_cancel_backend(pg_backend_pid())') & 'insert into fx values (1)'")
    report = pump.work()
    while report.startswith("interrupted:"):
        pump.supervisor.execute("select df_engine.fail_interrupted(%s, %s)", report.split(":")[1:])
        report = pump.work()
    assert run.status == "failed"
    assert run.error.startswith("JOIN branch 1 failed: ")
    assert pump.db.sql("select count(*) from fx") == 1
