"""What `pg-durable doctor` looks for, asked by the page as the role that has logged in: at most once a minute."""

import time
from dataclasses import dataclass

from psycopg import errors, sql

from pg_durable.cli.asking import explained
from pg_durable.cli.doctor import CHECKS, LIMITS, Check, Finding
from pg_durable.web.database import Database, Pool
from pg_durable.web.queries import PLACE
from pg_durable.web.view import View

AGAIN = 60.0  # seconds for which an answer holds


@dataclass(frozen=True)
class Examination:
    """What was found, what this role may not ask, and the statements."""

    at: float
    findings: list[Finding]
    unseen: list[str]
    statements: list[str]


async def examined(view: View, anew: bool = False) -> Examination:
    """The newest examination of this role, or another one when that is too old."""
    state = view.request.app.state
    if not hasattr(state, "examinations"):
        state.examinations = {}
    key = (view.session.role, view.session.password)
    known: Examination | None = state.examinations.get(key)
    if known is None or anew or time.monotonic() > known.at + AGAIN:
        database: Database = state.database
        known = state.examinations[key] = await examine(database.pool(view.session))
    return known


async def examine(pool: Pool) -> Examination:
    """Asks everything that the role may ask."""
    findings: list[Finding] = []
    unseen: list[str] = []
    statements: list[str] = []
    for check in CHECKS:
        text = text_of(check)
        try:
            rows = await pool.read(text)
        except (errors.InsufficientPrivilege, errors.QueryCanceled) as error:
            unseen.append(f"{check.group}.{check.name}: {explained(error)}")
            continue
        statements.append(text)
        said = [str(next(iter(row.values()))) for row in rows]
        findings += [Finding(check.group, check.name, check.level, one, check.todo) for one in said]
    return Examination(time.monotonic(), findings, unseen, statements)


def text_of(check: Check) -> str:
    """The statement of a check, with its limits as literals."""
    if "%(" not in check.query:
        return check.query.strip()
    query = PLACE.sub(lambda place: sql.Literal(LIMITS[place[1]]).as_string(None).strip(), check.query)
    return query.replace("%%", "%").strip()
