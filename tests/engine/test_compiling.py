"""Where PostgreSQL can compile queries (jit, on by default), it compiles none of ours: that takes longer than they."""

from typing import Any

import psycopg
import pytest

from tests.support import Database, Pump

OPTIONS = (
    "-c session_preload_libraries=auto_explain -c auto_explain.log_min_duration=0 -c auto_explain.log_analyze=on "
    "-c auto_explain.log_nested_statements=on -c client_min_messages=log -c jit=on "
)


@pytest.fixture
def plans(db: Database) -> list[str]:
    """The plans of the statements that `watched` sessions run."""
    if not db.admin("select pg_jit_available()"):
        pytest.skip("this server was built without jit")
    return []


def watched(db: Database, plans: list[str], options: str = "") -> psycopg.Connection[Any]:
    """A session of the role `app` that reports the plan of every statement, of those inside functions, too."""
    conn = db.connect(options=OPTIONS + options, prepare_threshold=None)
    conn.add_notice_handler(lambda notice: plans.append(notice.message_primary or ""))
    conn.execute("set session authorization app")
    return conn


def compiled(plans: list[str]) -> list[str]:
    """The statements that were compiled."""
    return [plan[:200] for plan in plans if "\nJIT:" in plan]


def test_neither_a_start_nor_a_step_nor_the_turn_of_a_loop_is_compiled(pump: Pump, plans: list[str]) -> None:
    with watched(pump.db, plans) as conn:
        conn.execute("create sequence turns")
        conn.execute("select df.start(df.loop('select nextval(''turns'')', 'select last_value < 3 from turns'))")
        conn.execute("select df.start(df.wait_for_schedule('0 0 1 1 *'))")
        conn.execute("select df.start('select 1' |=> 'a' ~> ('select 2' & 'select 3') ~> ('select $a' | 'select 5'))")
    with watched(pump.db, plans, Pump.OPTIONS) as conn:
        assert conn.execute("call df_engine.work(60000, false, null)").fetchone() == ("empty",)
    assert pump.db.admin("select count(*) from df.instances where status = 'completed'") == 2
    assert len(plans) > 100
    assert compiled(plans) == []


def test_no_look_at_a_run_is_compiled(pump: Pump, plans: list[str]) -> None:
    run = pump.run("'select 1' ~> 'select 2'")
    with watched(pump.db, plans) as conn:
        for query in ("df.instance_nodes(%s)", "df.instance_info(%s)", "df.instance_executions(%s)", "df.explain(%s)"):
            conn.execute(f"select * from {query}".encode(), [run.id])
        for query in ("df.to_flow(%s)", "df.status(%s)", "df.result(%s)"):
            conn.execute(f"select {query}".encode(), [run.id])
        conn.execute("select * from df.explain('select 1' ~> 'select 2')")
        conn.execute("select * from df.list_instances()")
    assert len(plans) > 10
    assert compiled(plans) == []
