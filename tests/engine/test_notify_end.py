"""df.notify_end: a session that listens is told when a run ends."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.state import END_CHANNELS, RETENTION_IS_DUE
from tests.support import Database, Pump, Run, wait_until


@pytest.fixture
def listener(db: Database) -> Iterator[psycopg.Connection[Any]]:
    """A session of another role that listens: a channel is no secret."""
    with db.connect("other") as conn:
        conn.execute('listen ended; listen second; listen "Odd Name"')
        yield conn


def told(conn: psycopg.Connection[Any]) -> list[tuple[str, str]]:
    """What has arrived: whatever was committed before this is asked comes with the answer."""
    conn.execute("select 1")
    return [(note.channel, note.payload) for note in conn.notifies(timeout=0)]


def wanted(run: Run, channel: str = "ended") -> Run:
    assert run.db.sql("select df.notify_end(%s, %s)", run.id, channel) == "OK"
    return run


@pytest.mark.parametrize("flow", ["'select 1'", "'select 1/0'", "df.sleep(0.01)", "'select 1' & 'select 2'"])
def test_an_end_is_told_with_the_id_and_nothing_else(pump: Pump, listener: psycopg.Connection[Any], flow: str) -> None:
    pump.run("'select 2'")  # nobody has asked to be told
    assert told(listener) == []
    run = wanted(wanted(pump.start(flow)), "Odd Name")
    pump.until(run.ended)
    assert sorted(told(listener)) == [("Odd Name", run.id), ("ended", run.id)]
    pump.tick()
    assert told(listener) == []


def test_a_cancel_is_an_end(pump: Pump, listener: psycopg.Connection[Any]) -> None:
    run = wanted(pump.start("'select 1'"))
    with pump.db.connect("app", autocommit=False) as conn:
        conn.execute("select df.cancel(%s)", [run.id])
        assert told(listener) == []
        conn.commit()
    assert told(listener) == [("ended", run.id)]


def test_of_a_run_that_has_ended_it_is_told_at_commit(pump: Pump, listener: psycopg.Connection[Any]) -> None:
    run = pump.run("'select 1'")
    with pump.db.connect("app", autocommit=False) as conn:
        conn.execute("select df.notify_end(%s, 'ended')", [run.id])
        assert told(listener) == []
        conn.rollback()
        assert told(listener) == []
        conn.execute("select df.notify_end(%s, 'second')", [run.id])
        conn.commit()
    assert told(listener) == [("second", run.id)]


def test_only_the_new_channel_of_a_run_that_has_ended_is_told(pump: Pump, listener: psycopg.Connection[Any]) -> None:
    run = wanted(pump.start("'select 1'"))
    pump.until(run.ended)
    assert told(listener) == [("ended", run.id)]
    wanted(run, "second")
    assert told(listener) == [("second", run.id)]


def test_a_run_has_ten_channels_at_most(pump: Pump) -> None:
    run = pump.start("'select 1'")
    for n in range(10):
        wanted(run, f"c{n}")
    wanted(run, "c3")
    with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="10 channels at most"):
        wanted(run, "c10")
    assert pump.db.admin(END_CHANNELS) == 10
    pump.until(run.ended)


@pytest.mark.parametrize("channel", ["", "x" * 64, "ä" * 32, None])
def test_a_name_that_no_channel_can_have_is_refused_at_once(pump: Pump, channel: str | None) -> None:
    run = pump.start("'select 1'")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="a name of 1 to 63 bytes"):
        wanted(run, channel)  # type: ignore[arg-type]


def test_the_longest_name_is_told(pump: Pump) -> None:
    longest = "x" * 63
    with pump.db.connect("app") as conn:
        conn.execute(f"listen {longest}".encode())
        run = wanted(pump.start("'select 1'"), longest)
        pump.until(run.ended)
        assert told(conn) == [(longest, run.id)]


def test_with_wake_off_nothing_is_sent(pump: Pump, listener: psycopg.Connection[Any]) -> None:
    """PostgreSQL prepares no transaction that has notified."""
    run = wanted(pump.start("'select 1'"))
    with pump.db.connect("app", autocommit=False) as conn:
        conn.execute("set df.wake = off")
        conn.execute("select df.cancel(%s)", [run.id])
        conn.execute("select df.notify_end(%s, 'second')", [run.id])
        conn.commit()
    assert run.status == "cancelled"
    assert told(listener) == []


def test_the_run_of_another_role_is_not_found(pump: Pump) -> None:
    run = pump.start("'select 1'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="not found"):
        pump.db.sql("select df.notify_end(%s, 'ended')", run.id, user="other")
    assert pump.db.admin(END_CHANNELS) == 0


def test_an_end_that_commits_while_it_is_asked_for_is_told(pump: Pump, listener: psycopg.Connection[Any]) -> None:
    run = pump.start("df.wait_for_signal('x')")
    pump.work()
    with pump.db.connect("app", autocommit=False) as canceller, pump.db.connect("app") as asker:
        canceller.execute("select df.cancel(%s)", [run.id])
        asker.pgconn.send_query(f"select df.notify_end('{run.id}', 'ended')".encode())
        waits = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s"
        wait_until(lambda: pump.db.admin(waits, asker.info.backend_pid), what="who asks to wait for the cancel")
        assert told(listener) == []
        canceller.commit()
        while asker.pgconn.is_busy():
            asker.pgconn.consume_input()
        result = asker.pgconn.get_result()
        assert result and result.get_value(0, 0) == b"OK"
        asker.pgconn.get_result()
    assert told(listener) == [("ended", run.id)]


def test_the_end_of_a_resumed_run_is_told_again(pump: Pump, listener: psycopg.Connection[Any]) -> None:
    run = wanted(pump.start("'select 1/0'"))
    for _ in range(2):
        pump.until(run.ended)
        assert told(listener) == [("ended", run.id)]
        pump.db.sql("select df.resume(%s)", run.id)


def test_channels_go_with_their_run(pump: Pump) -> None:
    run = wanted(pump.start("'select 1'"))
    again = Run(pump.db, pump.db.sql("select df.rerun(%s)", run.id))
    pump.until(lambda: run.ended() and again.ended())
    assert pump.db.admin(END_CHANNELS) == 1
    assert pump.db.rows("select * from df.check()", user=None) == []
    pump.db.admin("select df.set_setting('retention_days', '0')")
    pump.db.admin(RETENTION_IS_DUE)
    pump.until(lambda: pump.db.admin("select count(*) from df.instances") == 0)
    assert pump.db.admin(END_CHANNELS) == 0
