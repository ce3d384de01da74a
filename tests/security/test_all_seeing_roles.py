"""Roles that PostgreSQL lets past row security are named; members of pg_read_all_data see and change nothing."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.crash.crew import problems
from tests.support import Database


@pytest.fixture
def console(db: Database) -> Iterator[str]:
    """A role as the consoles of hosted databases have it."""
    db.admin("create role console login bypassrls; grant pg_read_all_data, pg_write_all_data to console")
    yield "console"
    db.admin("drop owned by console; drop role console")


def warnings(db: Database, role: str) -> list[str]:
    said: list[str] = []
    with db.connect() as conn:
        conn.add_notice_handler(
            lambda notice: said.append(notice.message_primary or "") if notice.severity == "WARNING" else None
        )
        conn.execute("select df.grant_usage(%s)", [role])
    return said


def test_what_cannot_be_closed_is_named(db: Database, console: str) -> None:
    assert warnings(db, console) == ["role console reads or writes the runs of all roles"]
    assert [(row[0], row[3].split()[1]) for row in problems(db)] == [("a role reads or writes what is of all", console)]
    assert warnings(db, "app") == []
    db.admin("alter role console nobypassrls")
    assert warnings(db, console) == []
    assert problems(db) == []


def test_without_bypassrls_such_a_member_sees_and_changes_nothing(db: Database, console: str) -> None:
    db.admin("alter role console nobypassrls; select df.grant_usage('console')")
    db.sql("select df.setvar('a', 'b')")
    run = db.sql("select df.start('select 1')")
    with db.connect(console) as conn:
        for view in ("df.instances", "df.nodes", "df.vars"):
            assert conn.execute(f"select count(*) from {view}".encode()).fetchone() == (0,), view
        for statement in ("update df.instances set label = 'x'", "delete from df.nodes", "delete from df.vars"):
            try:
                assert conn.execute(statement.encode()).rowcount == 0
            except psycopg.errors.InsufficientPrivilege:
                continue
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("select df.cancel(%s)", [run])
    assert db.sql("select df.status(%s)", run) == "pending"
