"""The cause of each failed run was looked up among the failures of all: 8,000 took five seconds of every role."""

from contextlib import closing

from tests.support import Database, Pump, wait_until

RUNS = 2000
READ = """
select (select sum(seq_tup_read) from pg_stat_user_tables where schemaname = 'df_engine')
     + (select sum(idx_tup_read) from pg_stat_user_indexes where schemaname = 'df_engine')"""


def failed_since_the_beginning(db: Database) -> tuple[int, int]:
    """How many runs the answer has, and how many rows and entries of indexes were read for it."""
    with closing(db.connect()) as worker:
        [(runs,)] = worker.execute("select jsonb_array_length(df_engine.failed_since('-infinity') -> 'runs')")
        worker.execute("select pg_stat_clear_snapshot()")
        pid = worker.info.backend_pid
    wait_until(lambda: db.admin("select count(*) from pg_stat_activity where pid = %s", pid) == 0)
    return runs, int(db.admin(READ))


def test_each_failed_run_is_looked_up_by_itself(pump: Pump) -> None:
    pump.db.sql(f"select count(df.start('select 1/0')) from generate_series(1, {RUNS})")
    wait_until(lambda: pump.work() == "empty", 60)
    _, before = failed_since_the_beginning(pump.db)
    runs, after = failed_since_the_beginning(pump.db)
    assert runs == 1000
    assert after - before < 10 * runs
