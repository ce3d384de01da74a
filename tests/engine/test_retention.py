"""Retention: which finished runs are removed, and that nothing of them stays behind."""

import pytest

from tests.support import Database

PRIVATE = ("ready", "timers", "waits", "inbox", "scopes", "bindings", "executions", "attempts")


def ended(db: Database, count: int, days_ago: float = 0, status: str = "completed") -> list[str]:
    """Runs of app that ended `days_ago` days ago, each a second later than the one before."""
    ids = [db.sql("select df.start('SELECT 1' ~> 'SELECT 2', 'old')") for _ in range(count)]
    for n, run in enumerate(ids):
        db.admin(
            """update df.instances set status = %s, _state = %s,
                      finished_at = now() - %s * interval '1 day' + %s * interval '1 second' where id = %s""",
            status, status, days_ago, n, run,
        )  # fmt: skip
    return ids


def pass_now(db: Database) -> int:
    """Makes a pass due and completes it; answers how many batches it took."""
    db.admin("update df_engine.upkeep set retained_at = '-infinity'")
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


def test_zero_days_keeps_nothing_that_has_ended(db: Database) -> None:
    ended(db, 2, 0.01)
    db.admin("select df.set_setting('retention_days', '0')")
    pass_now(db)
    assert left(db) == []


def test_rank_and_age_do_not_count_live_runs_nor_updated_at(db: Database) -> None:
    live = [db.sql("select df.start('SELECT 1')") for _ in range(3)]
    db.admin("update df.instances set created_at = now() - interval '1 year'")
    db.admin("update df.instances set status = 'running', _state = 'running' where id = %s", live[0])
    old = ended(db, 1, 40)
    db.admin("update df.instances set updated_at = now() where id = %s", old[0])
    kept = ended(db, 2, 1)
    db.admin("select df.set_setting('retention_max', '2')")
    pass_now(db)
    assert sorted(left(db)) == sorted(live + kept)


def test_a_live_run_whose_display_was_changed_is_never_removed(db: Database) -> None:
    run = db.sql("select df.start('SELECT 1')")
    db.sql("update df.instances set status = 'completed' where id = %s", run)
    db.admin("update df.instances set finished_at = now() - interval '1 year'")
    pass_now(db)
    assert left(db) == [run]


def test_rows_written_by_hand_count_from_created_at(db: Database) -> None:
    db.admin("""begin;
        insert into df.instances (id, root_node, submitted_by, status, created_at)
        values ('0000000a', '0000000b', 'app'::regrole, 'failed', now() - interval '1 year'),
               ('0000000c', '0000000b', 'app'::regrole, 'pending', now() - interval '1 year');
        insert into df.nodes (id, instance_id, node_type, query, submitted_by)
        values ('0000000b', '0000000a', 'SQL', 'SELECT 1', 'app'::regrole),
               ('0000000b', '0000000c', 'SQL', 'SELECT 1', 'app'::regrole);
        commit;
        update df.instances set finished_at = null""")
    pass_now(db)
    assert left(db) == ["0000000c"]


def test_everything_of_a_run_goes_with_it(db: Database) -> None:
    run = ended(db, 1, 365)[0]
    db.admin(f"""
        insert into df_engine.timers values ('{run}', '0000000a', now(), 'retry');
        insert into df_engine.waits values ('{run}', '0000000a', 's');
        insert into df_engine.inbox (instance_id, signal_name, signal_data, sent_by)
          values ('{run}', 's', '1', 'app'::regrole);
        insert into df_engine.scopes (instance_id, node_id, path) values ('{run}', '0000000a', 'p');
        insert into df_engine.bindings (instance_id, scope, name) values ('{run}', '', 'n');
        insert into df_engine.executions values ('{run}', 1, 1, now(), now());
        insert into df_engine.attempts (instance_id, node_id, attempt) values ('{run}', '0000000a', 1)""")
    pass_now(db)
    assert db.admin("select count(*) from df.nodes") == 0
    assert {table: db.admin(f"select count(*) from df_engine.{table}") for table in PRIVATE} == dict.fromkeys(
        PRIVATE, 0
    )


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
    assert db.admin("select retained_at > now() - interval '1 minute' from df_engine.upkeep") is True


def outlived(db: Database, runs: int, nodes: int) -> None:
    """Runs that failed a year ago, with so many nodes each."""
    db.admin(f"""begin;
        insert into df.instances (id, root_node, submitted_by, status, finished_at)
        select lpad(to_hex(n), 8, '0'), '00000001', 'app'::regrole, 'failed', now() - interval '1 year'
        from generate_series(1, {runs}) n;
        insert into df.nodes (id, instance_id, node_type, query, submitted_by)
        select lpad(to_hex(n), 8, '0'), i.id, 'SQL', 'SELECT 1', i.submitted_by
        from df.instances i, generate_series(1, {nodes}) n;
        commit""")


def test_batches_are_bounded(db: Database) -> None:
    outlived(db, 450, 1)
    assert pass_now(db) == 3
    assert left(db) == []


def test_one_worker_at_a_time_and_locked_runs_wait(db: Database) -> None:
    runs = ended(db, 2, 365)
    db.admin("update df_engine.upkeep set retained_at = '-infinity'")
    with db.connect(autocommit=False) as first, db.connect() as second:
        first.execute("select from df.instances where id = %s for update", [runs[0]])
        assert second.execute("select df_engine.retain()").fetchone() == (False,)
        assert left(db) == runs[:1]
        second.execute("update df_engine.upkeep set retained_at = '-infinity'")
        first.execute("select df_engine.retain()")
        assert second.execute("select df_engine.retain()").fetchone() == (False,)
        first.rollback()
    assert left(db) == runs[:1]


def test_large_runs_go_in_batches_of_their_own(db: Database) -> None:
    outlived(db, 3, 1200)
    assert pass_now(db) == 3
    assert left(db) == []
