"""df.progress in its own session: what it says, and what the engine takes of it."""

from typing import Any

import pytest
from psycopg import errors

from tests.state import PROGRESS
from tests.support import Database, Pump, Run, member_of_other


@pytest.fixture
def heard(pump: Pump) -> list[tuple[str, str]]:
    """What the session of the role was told: messages and details."""
    messages: list[tuple[str, str]] = []
    pump.session.add_notice_handler(lambda d: messages.append((d.message_primary or "", d.message_detail or "")))
    return messages


def note(pump: Pump, said: str, pid: int | None = None, ticket: int | None = None) -> None:
    pid = pid or pump.session.info.backend_pid
    pump.supervisor.execute("select df_engine.note_progress(%s, %s, %s)", [pid, ticket, said])


def kept(pump: Pump) -> list[tuple[Any, ...]]:
    return pump.db.rows(PROGRESS, user=None)


def test_a_step_says_its_progress_and_keeps_nothing_of_it(pump: Pump, heard: list[tuple[str, str]]) -> None:
    run = pump.run("'select 1' ~> 'select df.progress(40, 100, ''half'')'")
    assert run.status == "completed", run.error
    assert [message for message, _ in heard] == ["pg_durable progress 40 of 100"]
    assert kept(pump) == []
    note(pump, heard[0][1])
    assert kept(pump) == [(pump.session.info.backend_pid, 3, 40, 100, "half")]


def test_only_the_session_that_said_it_is_believed(pump: Pump, heard: list[tuple[str, str]]) -> None:
    pump.run("'select df.progress(1)'")
    said = heard[0][1]
    note(pump, said, pid=pump.supervisor.info.backend_pid)
    note(pump, said, ticket=1)
    for changed in (
        "",
        "x",
        said[:-1],
        said + " ",
        said.replace('"done": 1', '"done": 2'),
        "0" * 64 + said[64:],
        "0" * 64,
    ):
        note(pump, changed)
    assert kept(pump) == []
    note(pump, said)
    assert len(kept(pump)) == 1


def test_a_session_has_one_row_and_those_that_are_gone_none(pump: Pump, heard: list[tuple[str, str]]) -> None:
    pump.run("'select df.progress(1)' ~> 'select df.progress(2)'")
    for _, said in heard:
        note(pump, said)
    assert [row[2] for row in kept(pump)] == [2]
    pid = pump.session.info.backend_pid
    pump.session.close()
    pump.session = pump.db.connect("app", prepare_threshold=None, options=Pump.OPTIONS)
    messages: list[str] = []
    pump.session.add_notice_handler(lambda d: messages.append(d.message_detail or ""))
    pump.db.admin("select pg_terminate_backend(%s, 5000)", pid)
    pump.run("'select df.progress(3)'")
    note(pump, messages[0])
    assert [row[2] for row in kept(pump)] == [3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("df.progress(0.10)", "pg_durable progress 0.1"),
        ("df.progress(1::numeric / 3, 10.0)", "pg_durable progress 0.333333 of 10"),
        ("df.progress(7::bigint, 9::bigint)", "pg_durable progress 7 of 9"),
        ("df.progress(-1, null, null)", "pg_durable progress -1"),
    ],
)
def test_what_it_prints(pump: Pump, heard: list[tuple[str, str]], call: str, message: str) -> None:
    run = pump.run(f"'select {call}'")
    assert (run.status, [said for said, _ in heard]) == ("completed", [message]), run.error


def test_a_note_has_at_most_200_characters(pump: Pump, heard: list[tuple[str, str]]) -> None:
    pump.run("'select df.progress(1, 2, repeat(''ä'', 1000))'")
    note(pump, heard[0][1])
    assert kept(pump)[0][4] == "ä" * 200
    assert len(heard[0][1]) < 1000


def test_without_a_number_it_says_nothing(pump: Pump, heard: list[tuple[str, str]]) -> None:
    run = pump.run("'select df.progress(null, 5)'")
    assert (run.status, heard) == ("completed", [])


@pytest.mark.parametrize("arguments", ["''NaN''", "1e18", "1, ''-infinity''::float8::text::numeric", "1, 1e30"])
def test_what_is_no_sensible_number_fails(pump: Pump, arguments: str) -> None:
    run = pump.run(f"'select df.progress({arguments})'")
    assert run.status == "failed"
    assert "df.progress takes numbers below 1e18" in run.error or "numeric" in run.error


def test_outside_of_a_step_it_does_nothing(pump: Pump) -> None:
    run = pump.start("'select 1'")
    node = run.node("SQL")["id"]
    with pump.db.connect("app", application_name=f"pg_durable:{run.id}:{node}") as conn:
        messages: list[Any] = []
        conn.add_notice_handler(messages.append)
        conn.execute("select df.progress(1, 2, 'x')")
        with conn.transaction():
            conn.execute("select pg_current_xact_id()")
            conn.execute("select df.progress(1, 2, 'x')")
    assert messages == []
    with pump.db.connect("app") as conn:
        conn.execute("set default_transaction_read_only = on")
        conn.execute("select df.progress(1)")
    assert kept(pump) == []


def test_a_role_without_grants_gets_no_error_of_the_engine(pump: Pump) -> None:
    pump.db.sql("select df.progress(1, 2, 'x')", user="other")


def test_after_a_change_of_role_in_a_block(pump: Pump, heard: list[tuple[str, str]]) -> None:
    pump.db.admin("select df.grant_usage('other')")
    with member_of_other(pump.db):
        run = pump.run("df.block('set local role other', 'select df.progress(1)')")
    assert (run.status, len(heard)) == ("completed", 1), run.error


def test_without_a_worker_it_is_printed_only(pump: Pump) -> None:
    run = Run(pump.db, pump.db.sql("select df.start('select df.progress(1)')"))
    with pump.db.connect("app") as conn:
        messages: list[Any] = []
        conn.add_notice_handler(lambda d: messages.append((d.severity_nonlocalized, d.message_primary)))
        conn.execute("call df.work()")
    assert (run.status, messages) == ("completed", [("INFO", "pg_durable progress 1")])


def test_only_workers_note_progress(pump: Pump) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        pump.db.sql("select df_engine.note_progress(1, null, 'x')")


@pytest.mark.parametrize(
    ("done", "total", "note", "text"),
    [
        ("1", "null", "null", "1"),
        ("1", "3", "null", "1 of 3 (33 %)"),
        ("5", "0", "null", "5 of 0"),
        ("2", "2", "E'a\\nb\\x1b[31m\\u202e'", "2 of 2 (100 %): a\\u000ab\\u001b[31m\\u202e"),
    ],
)
def test_how_explain_writes_it(db: Database, done: str, total: str, note: str, text: str) -> None:
    assert db.admin(f"select df_engine.progress_text({done}, {total}, {note})") == text
