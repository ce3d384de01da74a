"""The statements that docs/why.md says are sent are those that are sent."""

import re

from pg_durable import login, statements

from generator.render import ROOT

PAGE = (ROOT / "docs/why.md").read_text("utf-8")
SENT = (statements.WORK, statements.REGISTER, statements.TICK, statements.SAY_IDLE, statements.LISTEN)


def test_the_statements_are_the_workers() -> None:
    lines = re.findall(r"^(?:call|select|listen) .*$", PAGE, re.MULTILINE)
    assert lines == [statement.replace("%s", "…") for statement in SENT]


def test_the_session_settings_are_the_workers() -> None:
    unnamed = [name for name, value in login.SESSION_SETTINGS.items() if f"`{name}={value}`" not in PAGE]
    assert unnamed == ["client_connection_check_interval"]


def test_the_session_is_reset_as_the_page_says() -> None:
    driver = (ROOT / "dist/pg_durable.sql").read_text("utf-8")
    work = driver[driver.index("create or replace procedure df_engine.work(") :]
    loop = work[work.index("\n  loop\n") :]
    places = [loop.index(part) for part in ORDER]
    assert places == sorted(places)


ORDER = (
    "claim_step", "run_statement", "set constraints all immediate", "reset all", "deallocate all", "close all",
    "unlisten *", "pg_advisory_unlock_all", "discard temp", "record_step", "commit;\n        continue;",
)  # fmt: skip
