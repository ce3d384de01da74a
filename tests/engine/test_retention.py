"""Retention: which finished runs are removed, and that nothing of them stays behind."""

import pytest

from tests.oracle.graphs import join, quoted, sql
from tests.state import (
    CREATED_LONG_AGO,
    ENDED,
    GRAPHS_ARE_OLD,
    KEPT_RUNS,
    RETAINED_AT,
    RETENTION_IS_DUE,
    ROWS,
    RUN_LOCKED,
    RUNS_OF_GRAPHS,
    TABLES_OF_RUNS,
)
from tests.support import Database, Pump, Run


def ended(db: Database, count: int, days_ago: float = 0, status: str = "completed") -> list[str]:
    """Runs of app that ended `days_ago` days ago, each a second later than the one before."""
    ids = [db.sql("select df.start('SELECT 1' ~> 'SELECT 2', 'old')") for _ in range(count)]
    for n, run in enumerate(ids):
        db.admin(ENDED, status, days_ago, n, run)
    return ids


def pass_now(db: Database) -> int:
    """Makes a pass due and completes it; answers how many batches it took."""
    db.admin(RETENTION_IS_DUE)
    batches = 1
    while db.admin("select df_engine.retain()"):
        batches += 1
    return batches


def left(db: Database) -> list[str]:
    return [row[0] for row in db.rows("select id from df.instances order by finished_at, id", user=None)]


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_old_runs_of_every_terminal_status_go(db: Database, status: str) -> None:
    ended(db, 2, 31, status)
    recent = ended(db, 2, 29, status)
    pass_now(db)
    assert left(db) == recent


def test_only_the_newest_are_kept(db: Database) -> None:
    runs = ended(db, 5)
    db.admin("select df.set_setting('retention_max', '3')")
    pass_now(db)
    assert left(db) == runs[2:]


def test_only_the_newest_of_each_submitter_are_kept(db: Database) -> None:
    runs = ended(db, 3)
    others = db.sql("select df.start('SELECT 1')", user="other")
    db.admin(ENDED, "failed", 1, 0, others)
    db.admin("select df.set_setting('retention_max', '2')")
    pass_now(db)
    assert left(db) == [others, *runs[1:]]


def test_zero_days_keeps_nothing_that_has_ended(db: Database) -> None:
    ended(db, 2, 0.01)
    db.admin("select df.set_setting('retention_days', '0')")
    pass_now(db)
    assert left(db) == []


def test_rank_and_age_do_not_count_live_runs_nor_updated_at(pump: Pump) -> None:
    db = pump.db
    running = pump.start("df.sleep(60)").id
    pump.work()
    live = [running, *(db.sql("select df.start('SELECT 1')") for _ in range(2))]
    old = ended(db, 1, 40)
    db.admin(CREATED_LONG_AGO)
    kept = ended(db, 2, 1)
    db.admin("select df.set_setting('retention_max', '2')")
    pass_now(db)
    assert sorted(left(db)) == sorted(live + kept)
    assert old[0] not in left(db)


def rows_of_runs(db: Database) -> dict[str, int]:
    """How many rows of runs each private table has."""
    return {table: db.admin(ROWS.format(table)) for (table,) in db.rows(TABLES_OF_RUNS, user=None)}


def test_everything_of_a_run_goes_with_it(pump: Pump) -> None:
    """Two runs that have left something everywhere: a retry is due, a branch waits, a loop has turned, a signal is
    kept; one has a key, something to undo, and was paused.
    """
    db = pump.db
    db.admin("select df.set_setting('loop_min_interval', '0')")
    first_turn = "'insert into fx values (1) returning (select count(*) = 0 from fx)' |=> 'f'"
    busy = "df.retry('select 1/0', max_attempts => 9, initial_delay => '1 hour')"
    again = "'select 0' |=> 'a' ~> df.wait_for_signal('s', 3600) ~> 'select $a'"
    waits = f"{busy} & ({again}) & df.http('https://api.github.com/') & df.map('select 1', df.wait_for_signal('m'))"
    run = pump.start(f"@> ({first_turn} ~> ('select $f' ?> 'select 1' !> ({waits})))")
    undo = "df.undo('select 1', 'select 2') ~> df.wait_for_signal('never')"
    undone = Run(db, db.sql(f"select df.start({undo}, key => 'k')"))
    db.sql("select df.signal(%s, 'other')", run.id)
    db.sql("select df.pause(%s)", undone.id)
    db.sql("select df.resume(%s)", undone.id)
    db.sql("select df.notify_end(%s, 'ended')", undone.id)
    pump.until(lambda: 0 not in rows_of_runs(db).values())
    for ended_run in (run, undone):
        db.admin(ENDED, "failed", 365, 0, ended_run.id)
    pass_now(db)
    assert set(rows_of_runs(db).values()) == {0}
    assert left(db) == []


def test_passes_are_due_once_an_interval_and_off_at_zero(db: Database) -> None:
    runs = ended(db, 1, 365)
    assert db.admin("select df_engine.retain()") is False
    assert left(db) == runs
    db.admin("select df.set_setting('reconcile_interval', '0')")
    pass_now(db)
    assert left(db) == runs
    db.admin("select df.set_setting('reconcile_interval', null)")
    pass_now(db)
    assert left(db) == []
    assert db.admin(f"select ({RETAINED_AT}) > now() - interval '1 minute'") is True


def test_batches_are_bounded(db: Database) -> None:
    year_ago = "now() - interval '1 year'"
    db.admin(KEPT_RUNS.format(
        f"select lpad(to_hex(n), 8, '0'), null, 'failed', now(), {year_ago} from generate_series(1, 450) n"
    ))  # fmt: skip
    assert pass_now(db) == 3
    assert left(db) == []


def test_one_worker_at_a_time_and_locked_runs_wait(db: Database) -> None:
    runs = ended(db, 2, 365)
    db.admin(RETENTION_IS_DUE)
    with db.connect(autocommit=False) as first, db.connect() as second:
        first.execute(RUN_LOCKED, [runs[0]])
        assert second.execute("select df_engine.retain()").fetchone() == (False,)
        assert left(db) == runs[:1]
        second.execute(RETENTION_IS_DUE)
        first.execute("select df_engine.retain()")
        assert second.execute("select df_engine.retain()").fetchone() == (False,)
        first.rollback()
    assert left(db) == runs[:1]


def test_large_runs_go_in_batches_of_their_own(db: Database) -> None:
    for _ in range(3):
        db.admin(ENDED, "failed", 365, 0, db.sql(f"select df.start({quoted(join(*[sql('select 1')] * 1200))})"))
    assert pass_now(db) == 3
    assert left(db) == []


def test_a_run_with_many_items_goes_in_parts(pump: Pump) -> None:
    run = pump.run("df.map('select 1 from generate_series(1, 25)', 'select 1', parallel => 1)")
    pump.db.admin(ENDED, "completed", 365, 0, run.id)
    assert pump.db.admin("select df_engine.remove_outlived(1, 1)") is True, "ten outcomes at a time"
    assert left(pump.db) == [run.id]
    while pump.db.admin("select df_engine.remove_outlived(1, 1)"):
        pass
    assert left(pump.db) == []


def test_a_graph_goes_when_it_is_old_and_without_a_run(db: Database) -> None:
    asleep = db.sql("select df.start(df.sleep(86400))")
    ended(db, 1, 31)
    db.admin(GRAPHS_ARE_OLD)
    pass_now(db)
    assert db.rows(RUNS_OF_GRAPHS, user=None) == [(1,)]
    assert left(db) == [asleep]
    assert db.admin("select count(*) from df.check()") == 0
