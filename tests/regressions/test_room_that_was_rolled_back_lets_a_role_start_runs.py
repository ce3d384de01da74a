"""A count of live runs, made after a cancel and rolled back with it to a savepoint, gave room when shown again."""

import pytest
from psycopg import errors

from tests.support import Database, Pump


@pytest.mark.parametrize("begin", ["df.start('select 1')", "df.resume('{failed}')"])
def test_what_was_counted_before_a_rollback_counts_no_more(db: Database, pump: Pump, begin: str) -> None:
    failed = db.sql("select df.start('select 1/0')")
    pump.work()
    db.admin("select df.set_role_limit('app', live_instances => 2)")
    db.sql("select df.start(df.sleep(1000)) from generate_series(1, 2)")
    with db.connect("app", autocommit=False) as session:
        session.execute("select pg_current_xact_id()")
        with session.transaction(force_rollback=True):
            session.execute("select df.cancel(id) from df.instances where status <> 'failed'")
            session.execute(f"select {begin.format(failed=failed)}".encode())
            row = session.execute("select current_setting('df_engine.room')").fetchone()
            assert row is not None
        session.execute("select set_config('df_engine.room', %s, true)", row)
        with pytest.raises(errors.ProgramLimitExceeded):
            session.execute("select df.start('select 1')")
