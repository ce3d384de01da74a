"""df.changes: no run that has changed since a mark is left out, however late a transaction commits."""

import psycopg
import pytest

from tests.support import Database, Pump

# What a reader sees of each run, but why it waits: that depends on others.
SEEN = """
select i.id, md5(concat(i.status, i.label, i.finished_at, i.error, i.undo_status, (
  select string_agg(concat_ws(' ', n.id, n.status, n.result, n.error, n.attempts, n.started_at), ',' order by n.id)
  from df.nodes n where n.instance_id = i.id), (
  select string_agg(concat_ws(' ', s.signal_name, s.status), ',' order by s.signal_id)
  from df.signals s where s.instance_id = i.id), (
  select count(*) from df.timeline(i.id) t)))
from df.instances i"""

FLOWS = [
    "'select 1' ~> 'select 2' ~> 'select 3' ~> 'select 4'",
    "df.all('select 1', df.sleep(3600), 'select 2' ~> 'select 3')",
    "('select 1' & df.wait_for_signal('never')) ~> 'select 2'",
    "df.any('select 1/0', df.sleep(3600))",
    "df.race('select 1' ~> 'select 2', df.sleep(3600)) ~> df.sleep(3600)",
    "df.catch('select 1/0', 'select 2')",
    "df.loop('select 1' ~> 'select 2', 'select random() < 0.5')",
    "df.map('select generate_series(1, 5)', 'select 1' ~> 'select 2', parallel => 2)",
    "df.retry('select 1/0', max_attempts => 3, initial_delay => '1 ms')",
    "df.undo('select 1', 'select 2') ~> 'select 1/0'",
    "df.call('''select 1'' ~> ''select 2''') ~> 'select 3'",
    "df.if('select true', 'select 1', 'select 2') ~> df.timeout('select 3', '1 h')",
]


class Watcher:
    """Who asks for changes again and again, in a session of its own."""

    def __init__(self, db: Database, user: str | None = "app") -> None:
        self.conn = db.connect(user)
        self.mark, found = self.ask(None)
        assert found == set()

    def ask(self, mark: str | None) -> tuple[str, set[str]]:
        rows = self.conn.execute("select mark, instance_id from df.changes(%s)", [mark]).fetchall()
        assert rows
        assert len({row[0] for row in rows}) == 1
        assert len(rows) == 1 or all(row[1] for row in rows)
        return rows[0][0], {row[1] for row in rows if row[1]}

    def changes(self) -> set[str]:
        self.mark, found = self.ask(self.mark)
        return found


def start(db: Database, flow: str = "select 1", user: str = "app") -> str:
    return str(db.sql("select df.start(%s)", flow, user=user))


def test_no_change_of_any_flow_is_left_out(pump: Pump) -> None:
    pump.db.admin("select df.set_setting('loop_min_interval', '0')")
    watcher = Watcher(pump.db)
    seen: dict[str, str] = {}

    def compare() -> None:
        found = watcher.changes()
        now = dict(pump.db.rows(SEEN))
        changed = {run for run, digest in now.items() if seen.get(run) != digest}
        assert changed <= found, pump.db.rows(
            "select instance_id, query, status from df.nodes where instance_id = any(%s)", list(changed - found)
        )
        seen.clear()
        seen.update(now)

    for flow in FLOWS:
        pump.start(flow)
        compare()
        for _ in range(6):
            pump.session.execute("call df_engine.work(1, false, null)")
            compare()
            pump.tick()
            compare()
    assert {"completed", "failed", "running"} <= {row[0] for row in pump.db.rows("select status from df.instances")}
    waiting = "select id from df.instances where status = 'running' order by created_at limit 1"
    for act in ("df.pause(%s)", "df.resume(%s)", "df.signal(%s, 'never')", "df.cancel(%s)"):
        pump.db.sql(f"select {act}", pump.db.sql(waiting))
        compare()
        pump.tick()
        compare()


def test_without_changes_there_is_a_mark_all_the_same(db: Database) -> None:
    start(db)
    watcher = Watcher(db)
    watcher.changes()
    assert [watcher.changes() for _ in range(3)] == [set()] * 3
    run = start(db)
    assert run in watcher.changes()
    watcher.changes()
    assert watcher.changes() == set()


@pytest.mark.parametrize("inner", ["", "savepoint a; "])
@pytest.mark.parametrize("act", ["df.start('select 1')", "df.cancel(%(run)s)", "df.pause(%(run)s)"])
def test_what_commits_late_is_not_left_out(db: Database, act: str, inner: str) -> None:
    run = start(db)
    watcher = Watcher(db)
    with db.connect("app", autocommit=False) as late:
        late.execute("select 1")  # its time is from before all that follows
        assert watcher.changes() is not None
        start(db)
        if inner:
            late.execute("select pg_current_xact_id()")
            late.execute(inner.encode())
        query = f"select {act}".replace("%(run)s", f"'{run}'")
        answer = late.execute(query.encode()).fetchone()
        concerned = answer[0] if answer and "start" in act else run
        for _ in range(3):
            start(db)
            assert concerned not in watcher.changes()
        late.commit()
    start(db)
    assert concerned in watcher.changes()
    watcher.changes()
    assert watcher.changes() == set()


def test_a_transaction_that_is_open_makes_no_repetitions(db: Database) -> None:
    watcher = Watcher(db)
    with db.connect("app", autocommit=False) as late:
        late.execute("select df.start('select 1')")
        for _ in range(20):
            run = start(db)
            assert watcher.changes() == {run}
        assert len(watcher.mark) < 1000


def test_a_mark_of_a_transaction_that_writes_holds_its_later_writes(db: Database) -> None:
    conn = db.connect("app", autocommit=False)
    first = conn.execute("select df.start('select 1')").fetchone()
    mark = conn.execute("select mark from df.changes()").fetchone()
    second = conn.execute("select df.start('select 2')").fetchone()
    conn.commit()
    assert first and mark and second
    found = {row[0] for row in db.rows("select instance_id from df.changes(%s)", mark[0])}
    assert {first[0], second[0]} <= found
    conn.close()


def test_a_transaction_that_asks_again_sees_what_others_have_committed(db: Database) -> None:
    watcher = Watcher(db)
    watcher.conn.execute("begin")
    for _ in range(3):
        run = start(db)
        assert run in watcher.changes()
    watcher.conn.execute("commit")
    run = start(db)
    assert run in watcher.changes()


def test_a_role_learns_of_its_own_runs_and_a_monitor_of_all(db: Database) -> None:
    app, other, owner = Watcher(db), Watcher(db, "other"), Watcher(db, None)
    mine, theirs = start(db), start(db, user="other")
    assert (app.changes(), other.changes(), owner.changes()) == ({mine}, {theirs}, {mine, theirs})
    db.admin("select df.grant_monitor('other')")
    try:
        assert other.ask(app.ask(None)[0])[1] >= set()
        mine = start(db)
        assert mine in other.changes()
    finally:
        db.admin("select df.revoke_monitor('other')")


def test_a_mark_says_nothing_of_how_many_runs_there_are(db: Database) -> None:
    watcher = Watcher(db)
    for _ in range(3):
        start(db, user="other")
    watcher.changes()
    numbers = watcher.mark.replace("[", ",").replace("]", ",").split(",")
    assert str(db.admin("select pg_sequence_last_value('df_engine.instances_instance_seq')")) not in map(
        str.strip, numbers
    )


WRONG = [
    "",
    "x",
    "[]",
    "{}",
    "null",
    "[1, [], []]",
    '["1", "2", "3"]',
    '[5, [1], [[1, "x", 1, 1, 1, 1]]]',
    "[1,2,[[0]]]",
    '[1000000000000, [], [[0, "-infinity", 1, 1, 1, 1]]]',
]


@pytest.mark.parametrize("mark", WRONG)
def test_what_is_no_mark_is_refused(shared: Database, mark: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="not a mark") as refused:
        shared.sql("select df.changes(%s)", mark)
    assert "an earlier call" in str(refused.value.diag.message_hint)
