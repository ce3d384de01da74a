"""pgspot over the installer: what could be looked up in a schema that somebody else fills."""

import re
from argparse import Namespace
from collections import defaultdict

import pytest
from pglast.parser import ParseError, split
from pgspot.state import Counter, State
from pgspot.visitors import visit_sql

from generator.render import body
from tests.security.test_static import UNPINNED

DEFINITION = re.compile(r"create (?:or replace )?(?:function|procedure) ([\w.]+)\(", re.I)
CALLED = re.compile(r"\b(df(?:_engine)?\.\w+)\s*\(")

# Its parser knows no composite types: their variables are records to it.
COMPOSITE = re.compile(r"^(  \w+ (?:constant )?)df_engine\.\w+(?= :=|;)", re.M)
# Bodies that are parsed when they are made, with the installer's search_path; it does not read them.
PARSED = re.compile(r"^return ", re.M)

# Code -> why what it finds may stay, other than in what the caller's search_path reaches.
EXCEPTED = {
    "PS004": "search_path is '': pg_temp is then searched first, but only for types and relations, which are qualified",
    "PS005": "called by functions that pin it; which may be entered from outside is tested in test_static.py",
    "PS001": "operators are never looked up in pg_temp, and functions that pin the search_path are above",
    "PS009": "the comparison of CASE: as PS001",
    "PS016": "functions are never looked up in pg_temp: as PS001",
    "PS010": "the installer refuses schemas that belong to another role: tests/engine/test_install.py",
}

# Set at the head of the installer; functions that have none of their own are looked at without it.
SEARCH_PATH = "set local search_path = pg_catalog, pg_temp;\n"

# What its parser cannot read although PostgreSQL can; plpgsql_check reads them.
UNREAD = {"df_engine.fold_states", "df_engine.flow_open"}


def definitions() -> dict[str, str]:
    """Function -> the statements that define it, overloads together; other statements under their beginning."""
    found: defaultdict[str, str] = defaultdict(str)
    for statement in map(str, split(body())):
        name = DEFINITION.search(statement)
        if name and PARSED.search(statement.split("$")[0]):
            continue
        found[name[1] if name else statement.strip()[:60]] += COMPOSITE.sub(r"\1record", statement) + ";\n"
    return dict(found)


class Findings(Counter):  # type: ignore[misc]
    """Collects codes instead of printing lines."""

    def __init__(self) -> None:
        lists = ("proc_without_search_path", "ignore", "ignore_lang", "sql_fn")
        super().__init__(Namespace(summary_only=False, plpgsql=True, **{name: [] for name in lists}))
        self.codes: set[str] = set()

    def print_issue(self, code: str, context: object) -> None:
        self.codes.add(code)


@pytest.fixture(scope="module")
def findings() -> dict[str, set[str]]:
    """Function -> codes; `unread` where pgspot gives up."""
    found = {}
    for name, statements in definitions().items():
        counter = Findings()
        state = State(counter)
        state.created_schemas = ["df", "df_engine"]
        try:
            visit_sql(state, SEARCH_PATH + statements, toplevel=True)
        except ParseError:
            counter.codes.add("unread")
        found[name] = counter.codes
    return found


def reached() -> set[str]:
    """What runs with the search_path of who calls it."""
    sources = definitions()
    pinned = {name for name, text in sources.items() if "set search_path" in text.split("$")[0]}
    todo = [name.partition("(")[0] for name in UNPINNED]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in sources and name not in pinned | seen:
            seen.add(name)
            todo += CALLED.findall(sources[name])
    return seen


def test_every_finding_has_a_reason(findings: dict[str, set[str]]) -> None:
    found = {(code, name) for name, codes in findings.items() for code in codes if code not in EXCEPTED}
    assert found == {("unread", name) for name in UNREAD}


def test_what_the_callers_search_path_reaches_qualifies_everything(findings: dict[str, set[str]]) -> None:
    names = reached()
    assert {"df_engine.work", "df_engine.tick", "df_engine.run_statement"} <= names
    assert {name: codes for name in names if (codes := findings[name] - {"PS005"})} == {}
