"""The skill for assistants: every statement does what the page says, and every grouping is PostgreSQL's."""

import re

import psycopg
import pytest

from generator.render import ROOT
from tests.support import Database, Run, wait_until
from tests.worker.conftest import spawn, worker  # noqa: F401 - fixtures
from tests.worker.process import WorkerProcess

SKILL = (ROOT / ".agents/skills/pg-durable-sql/SKILL.md").read_text("utf-8")
BLOCK = re.compile(r"^```sql\n(.*?)^```$", re.DOTALL | re.MULTILINE)
STATEMENT = re.compile(
    r"(?P<sql>.+?;)(?:[^\S\n]+--[^\n]*)?\n(?:-- (?P<how>raises|fails): (?P<message>[^\n]*)\n)?\s*", re.DOTALL
)
GROUPING = re.compile(r"^\| `(?P<written>[^`]+)` \| `(?P<meant>[^`]+)` \|", re.MULTILINE)
RUN = re.compile(r"[0-9a-f]{8}")

SETUP = """
create table orders (id int primary key, region text, amount numeric, note text);
insert into orders values (1, 'emea', 10, 'first'), (2, 'apac', 20, 'second');
create table daily (total numeric);
create table outbox (body text)"""


def statements() -> list[tuple[str, str, str]]:
    """Each statement, whether it raises or fails or neither, and the message."""
    return [
        (match["sql"], match["how"] or "", match["message"] or "")
        for block in BLOCK.findall(SKILL)
        for match in STATEMENT.finditer(block)
    ]


def outcome(db: Database, statement: str) -> tuple[str, str]:
    """How a statement, and the run that it starts, ends."""
    try:
        value = str(db.sql(statement))
    except psycopg.Error as error:
        return "raises", RUN.sub("<id>", error.diag.message_primary or "")
    if "df.start(" in statement and RUN.fullmatch(value):
        run = Run(db, value)
        wait_until(lambda: run.ended() or db.sql("select count(*) from df.waiting where instance_id = %s", run.id))
        wait_until(lambda: run.ended() or "wait_for" in statement)
        return ("fails", run.error.splitlines()[0]) if run.status == "failed" else ("", "")
    return "", ""


def test_every_statement_does_what_the_page_says(db: Database, worker: WorkerProcess) -> None:  # noqa: F811
    db.rows(SETUP)
    assert len(statements()) == SKILL.count(";\n") + len(re.findall(r";[^\S\n]+-- [^\n]*\n", SKILL))
    for statement, how, message in statements():
        assert outcome(db, statement) == (how, message), statement
    assert "approve" in db.sql("select string_agg(signal_name || status, ',') from df.signals")


@pytest.mark.parametrize("row", [match.groups() for match in GROUPING.finditer(SKILL)], ids=lambda row: row[0])
def test_operators_group_as_the_page_says(db: Database, row: tuple[str, str]) -> None:
    written, meant = (text.replace("\\|", "|") for text in row)
    assert db.sql(f"select ({written}) = ({meant})")
