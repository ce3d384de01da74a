"""One word for each thing: what is built has no synonym of a word in ARCHITECTURE.md's glossary."""

import re
from collections.abc import Iterator
from itertools import chain

import pytest

from generator.render import ROOT

FOLDERS = ("templates", "generator", "worker/pg_durable")
KINDS = {".py", ".j2", ".sql", ".lark", ".control"}
RUNS = r"(?:run|race|thread|step|branch)(?:s|es)?"
ONE = r"(?:a|an|the|its|their|this)"

# What is not said, and what is said instead.
SYNONYMS = {
    r"\w*accus\w*|\w*acquit\w*|\w*inquest\w*": "crash score, crash attribution",
    r"\bdeaths?\b": "crash, loss",
    r"\w*outbox\w*": "command queue",
    r"\w*census\w*": "metrics, metrics collector",
    r"\w*agenda\w*": "work list",
    r"\w*cadence\w*": "polling",
    r"\w*announc\w*": "say idle, wake up",
    r"\blook(?:s|ed|ing)?\b(?! (?:it )?(?:up|for|like|through)\b)|\w*(?:_look|look_|looked_)\w*": "poll, try",
    r"\bjobs?\b": "instance, run",
    r"\btasks?\b": "step, node",
    r"\bexecutions?\b": "generation; instance, run",
    rf"\bturns? of {ONE} (?:\w+ )?loop|\bloop's turns?\b": "iteration",
    r"\bframes?\b|\bthreads? of control\b": "scope, activation, thread",
    r"\bready[ _]rows?\b": "row of the queue",
    rf"\b{RUNS} (?:(?:is|are|was|were) held|(?:that )?(?:somebody|anybody) holds)\b": "lock",
    rf"\b(?:hold|holds|holding) {ONE} {RUNS}\b": "lock",
    r"\bhold_\w+|\bheld_\w+|\w+_held\b|\bhold at once\b": "lock, try-lock, claim",
    r"\b(?:take|takes|taken|took|taking) (?:\w+ ){0,2}over\b": "claim",
    rf"\bmov(?:e|es|ed|ing) (?:{ONE} {RUNS}(?: on)?|on)\b": "transition",
    r"\bpass(?:es|ed)? on\b|\bclimb\w*": "transition",
    r"\w*settl\w*|\bend(?:s|ed)?[ _]well\b|\bgood end\b": "complete",
    rf"\bfinish_\w+|\bfinish(?:es|ed)? {ONE} (?:\w+ )?(?:node|{RUNS})\b": "complete, fail",
}

# Where such a word is right.
RIGHT = (
    ("", r"SQL execution failed"),  # the contract's message
    (
        "",
        r"\bdf_engine\.executions\b|'executions'|\bnext_execution\b",
    ),  # what the contract's df.instance_executions shows
    ("templates/admin/check.sql.j2", r"nothing moves a run"),  # the contract's name of a problem
    ("worker/", r"\b[Tt]asks?\b"),  # asyncio's
    ("worker/pg_durable/web/app.py", r"frame-ancestors"),  # a header's
)


def lines() -> Iterator[tuple[str, str]]:
    """Each line of what is built, with its place."""
    for path in sorted(chain.from_iterable((ROOT / folder).rglob("*") for folder in FOLDERS)):
        if path.suffix in KINDS:
            file = path.relative_to(ROOT).as_posix()
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                yield f"{file}:{number}", line


def found(place: str, line: str) -> list[str]:
    """The synonyms in a line, where they are not right."""
    for folder, right in RIGHT:
        if place.startswith(folder):
            line = re.sub(right, "", line)
    return [
        f"{place}: {match[0]!r}, not {instead!r}"
        for synonym, instead in SYNONYMS.items()
        for match in re.finditer(synonym, line, re.IGNORECASE)
    ]


def test_the_glossary_says_which_they_are() -> None:
    glossary = (ROOT / "ARCHITECTURE.md").read_text("utf-8").split("## Glossary")[1]
    words = [word for cell in re.findall(r"^\|.*\|.*\| (.+) \|$", glossary, re.M)[1:] for word in cell.split(", ")]
    assert len(words) > 20
    assert [word for word in words if not found("templates/x.sql.j2:1", word)] == []


def test_no_synonym_is_used() -> None:
    assert [problem for place, line in lines() for problem in found(place, line)] == []


@pytest.mark.parametrize(
    "line",
    [
        "select df_engine.accuse(1)", "# a death each", "self._outbox.put(f)",
        "from pg_durable.census import Census", "p_agenda jsonb", "cadence = Cadence()", "def announce(self)",
        "# it is looked at again", "def take_look(self)",
        "-- the job", "-- a task", "-- each execution", "-- the next turn of a loop",
        "-- the frame", "-- thread of control",
        "-- the ready row", "-- its run is held", "-- runs that somebody holds", "-- holds the race",
        "df_engine.hold_step(",
        "-- taken over by another", "-- who takes a run over", "-- moves its run on", "-- moved on", "-- passes on",
        "-- climbs", "async def settle(self)", "-- has ended well", "df_engine.finish_leased(", "-- finishes the step",
    ],
)  # fmt: skip
def test_a_synonym_is_found(line: str) -> None:
    assert found("templates/x.sql.j2:1", line)


@pytest.mark.parametrize(
    "line",
    [
        "-- looked up by hash", "-- what it looks like", "-- a text that holds references",
        "-- a lock that a user can hold",
        "i.finished_at", "from df_engine.executions e", "'SQL execution failed: %'", "-- removes the rest",
    ],
)  # fmt: skip
def test_ordinary_english_is_not(line: str) -> None:
    assert not found("templates/x.sql.j2:1", line)
