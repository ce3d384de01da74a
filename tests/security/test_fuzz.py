"""Hostile input: whatever text comes in, what comes out is an error that was meant, and the worker's calls never fail.

`FUZZ_EXAMPLES=5000 pytest tests/security/test_fuzz.py` looks at so many inputs a function, at others each time.
"""

import json
import os
import re
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support import Database, Pump

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
PROFILE = settings(
    max_examples=EXAMPLES or 40,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)

MEANT = {
    "22004": "a NULL argument",
    "22023": "a bad argument",
    "22P02": "a malformed graph, or text that is no value of its type",
    "22003": "a number out of range",
    "22007": "text that is no interval",
    "22008": "an interval out of range",
    "22P05": "an escape for a character that text cannot hold",
    "3D000": "an unknown database",
    "42501": "an unknown run",
    "54000": "a limit of the product",
    "55000": "a wrong context",
}

PIECES = [
    "$",
    "$$",
    "$a",
    "$a.",
    "$a.*",
    "$a?",
    "$a.b?",
    "$1",
    "{",
    "}",
    "{v",
    "{v}",
    "'",
    "''",
    "E'\\",
    '"',
    "--",
    "/*",
    "*/",
    "U&'",
    "$t$",
    ";",
    "(",
    ")",
    "~>",
    "|=>",
    "?>",
    "!>",
    "@>",
    "&",
    "|",
    "df.",
    "select 1",
    "if",
    "then",
    "else",
    "loop",
    "break",
    "while",
    "end",
    "sleep",
    "race",
    "join",
    ":=",
    ":",
    ",",
    "\\",
    "\n",
    "\t",
    " ",
    "é",
    "\u2028",
    "\U0001f600",
    "0",
    "-1",
    "1e400",
    "NaN",
    "Infinity",
    "9" * 40,
    "* * * * *",
    "*/0",
    "1-",
    "@daily",
    "Europe/Berlin",
    "infinity",
]
KEYS = ["node_type", "left_node", "right_node", "condition_node", "extra_nodes", "query", "result_name", "retry", "x"]
TYPES = [
    "SQL",
    "THEN",
    "IF",
    "JOIN",
    "LOOP",
    "RACE",
    "BREAK",
    "SLEEP",
    "WAIT_SCHEDULE",
    "SIGNAL",
    "HTTP",
    "HTTP_MULTIPART",
]
CONFIGS = [
    "cron_expr",
    "timezone",
    "signal_name",
    "timeout_seconds",
    "break_value",
    "condition_type",
    "result_name",
    "url",
    "method",
    "body",
    "headers",
    "parts",
    "name",
    "data_b64",
    "max_attempts",
    "initial_delay",
    "backoff",
    "retry_on",
]

soup = st.lists(
    st.sampled_from(PIECES) | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3),
    max_size=12,
).map("".join)
numbers = st.sampled_from([0, -1, 1, 0.5, 1e300, -1e300, 10**30, 2**31, 2**63, -(2**63)]) | st.integers(-5, 5)
escapes = st.sampled_from(["\0", "\ud800", "\udfff\ud800", "a\0b", "\x7f", "\ufffe"])
scalars = st.none() | st.booleans() | numbers | soup | escapes | st.sampled_from(TYPES)


def objects(keys: list[str], values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(keys), values, max_size=5)


junk = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | objects(KEYS, inner) | objects(CONFIGS, inner), max_leaves=12
)
configs = objects(CONFIGS, junk).map(json.dumps) | soup


@st.composite
def graphs(draw: st.DrawFn, depth: int = 0) -> Any:
    """Right in most places, junk in some."""
    if draw(st.integers(0, 11)) == 0:
        return draw(junk)
    kind = draw(
        st.sampled_from(TYPES if depth < 3 else [t for t in TYPES if t not in ("THEN", "IF", "JOIN", "LOOP", "RACE")])
    )
    node: dict[str, Any] = {"node_type": kind}
    if kind in ("THEN", "IF", "JOIN", "RACE", "LOOP"):
        node["left_node"] = draw(graphs(depth + 1))
        if kind != "LOOP":
            node["right_node"] = draw(graphs(depth + 1))
        if kind == "IF":
            node["condition_node"] = draw(graphs(depth + 1))
    else:
        node["query"] = draw(soup if kind == "SQL" else configs)
    if draw(st.integers(0, 5)) == 0:
        node[draw(st.sampled_from(KEYS))] = draw(junk)
    if draw(st.integers(0, 2)) == 0:
        node["result_name"] = draw(st.sampled_from(["a", "b"]))
    return node


envelopes = graphs().map(json.dumps)
EXPRESSION = re.compile(r"~>|\|=>|[?!@]>|df\.")  # df.explain evaluates a text that has one of these


@pytest.fixture(scope="module")
def db(shared: Database) -> Database:
    """One database for all inputs."""
    shared.sql("select df.setvar('v', '$a')")
    return shared


def attempt(db: Database, query: str, *args: Any, user: str | None = "app") -> Any:
    """The answer, or None when it was refused in a way that was meant."""
    try:
        return db.sql(query, *args, user=user)
    except psycopg.Error as error:
        state = error.sqlstate or ""
        flow = state == "42601" and "df.flow" in query  # a syntax error of its language
        assert flow or state[:2] == "DF" or state in MEANT, f"{state}: {error}"
        return None


CALLS: dict[str, tuple[str, tuple[st.SearchStrategy[Any], ...]]] = {
    "start": ("select df.start(%s, %s)", (envelopes | soup, soup)),
    "start in a database": ("select df.start('select 1', database => %s, transaction_mode => %s)", (soup, soup)),
    "seq": ("select df.seq(%s, %s)", (envelopes | soup, envelopes | soup)),
    "as": ("select df.as(%s, %s)", (envelopes | soup, soup)),
    "if": ("select df.if(%s, %s, %s)", (envelopes, soup, envelopes)),
    "if_rows": ("select df.if_rows(%s, %s, %s)", (soup, envelopes, soup)),
    "break": ("select df.break(%s)", (soup,)),
    "partials": ("select df.if_else_op(%s, %s)", (junk.map(json.dumps), soup)),
    "explain": ("select df.explain(%s)", (envelopes.filter(lambda text: not EXPRESSION.search(text)),)),
    "svg": ("select df.svg(%s)", (envelopes.filter(lambda text: not EXPRESSION.search(text)),)),
    "mermaid": ("select df.mermaid(%s)", (envelopes.filter(lambda text: not EXPRESSION.search(text)),)),
    "flow": ("select df.flow(%s)", (soup,)),
    "schedule": ("select df.wait_for_schedule(%s, %s)", (soup, soup)),
    "sleep": ("select df.sleep(%s::text::numeric)", (soup,)),
    "signal wait": ("select df.wait_for_signal(%s, %s)", (soup, st.integers(-(2**31), 2**31 - 1))),
    "list": ("select count(*) from df.list_instances(%s, %s, %s, %s)", (soup, st.integers(-3, 2000), soup, soup)),
    "cursor": (
        "select count(*) from df.list_instances(null, 5, null, encode(convert_to(%s, 'UTF8'), 'hex'))",
        (
            st.just("v1|2026-01-01T00:00:00.000000+00|abcd")
            | st.builds("v1|{}|{}".format, soup, soup)
            | st.builds("v1|{:04}-{:02}-{:02}T{:02}:00:00.000000+{:02}|a".format, *[st.integers(0, 99)] * 5),
        ),
    ),
    "nodes": ("select count(*) from df.instance_nodes(%s)", (soup,)),
    "executions": ("select count(*) from df.instance_executions(%s, %s)", (soup, st.integers(-2, 2))),
    "setvar": ("select df.setvar(%s, %s)", (soup, soup)),
    "await": ("select df.await_instance(%s, %s)", (soup, st.integers(-2, 2))),
    "cancel": ("select df.cancel(%s, %s)", (soup, soup)),
    "signal": ("select df.signal(%s, %s, %s)", (soup, soup, soup)),
    "http": (
        "select df.http(%s, %s, %s, %s::text::jsonb, %s)",
        (soup.map("http://{}".format), soup | st.just("GET"), soup, junk.map(json.dumps), st.integers(-5, 400)),
    ),
    "multipart": ("select df.http_multipart('http://a', 'POST', %s::text::jsonb)", (junk.map(json.dumps),)),
    "retry": (
        "select df.retry(%s, %s, %s::text::interval, %s::text::numeric, null, %s::text[])",
        (
            soup,
            st.integers(-3, 2000),
            soup | st.just("1 s"),
            soup | st.just("2"),
            st.lists(soup | st.none(), max_size=3),
        ),
    ),
}

FOR_ADMINISTRATORS: dict[str, tuple[str, tuple[st.SearchStrategy[Any], ...]]] = {
    "http_allow": ("select df.http_allow(%s)", (soup,)),
    "http_disallow": ("select df.http_disallow(%s)", (soup,)),
    "setting": ("select df.setting(%s)", (soup,)),
}


def attempt_all(db: Database, call: tuple[str, tuple[st.SearchStrategy[Any], ...]], user: str | None) -> None:
    query, strategies = call

    @PROFILE
    @given(st.tuples(*strategies))
    def check(args: tuple[Any, ...]) -> None:
        attempt(db, query, *args, user=user)

    check()


@pytest.mark.parametrize("name", CALLS)
def test_functions_refuse_what_they_do_not_take(db: Database, name: str) -> None:
    attempt_all(db, CALLS[name], "app")


@pytest.mark.parametrize("name", FOR_ADMINISTRATORS)
def test_administration_refuses_what_it_does_not_take(db: Database, name: str) -> None:
    attempt_all(db, FOR_ADMINISTRATORS[name], None)


def test_settings_take_no_junk(db: Database) -> None:
    names = [row[0] for row in db.rows("select name from df.settings", user=None)]

    @PROFILE
    @given(st.sampled_from(names), soup | st.sampled_from(PIECES) | st.none())
    def check(name: str, value: str | None) -> None:
        attempt(db, "select df.set_setting(%s, %s)", name, value, user=None)

    check()
    for name in names:
        db.admin("select df.set_setting(%s, null)", name)


def test_a_deeply_nested_text_is_refused(db: Database) -> None:
    for text in (
        '{"node_type":"THEN","left_node":' * 5000,
        "[" * 100000,
        '{"a":' * 100000 + "1" + "}" * 100000,
        "(" * 20000,
    ):
        attempt(db, "select df.seq(%s, %s)", text, text)
        attempt(db, "select df.start(%s)", text)
        attempt(db, "select df.explain(%s)", "{" + text)
        attempt(db, "select df.flow(%s)", text)


def test_whatever_a_run_contains_its_worker_goes_on(db: Database) -> None:
    pump = Pump(db)

    @PROFILE
    @given(envelopes, soup)
    @example(json.dumps({"node_type": "BREAK", "query": '{"break_value": 1}'}), "")
    def check(envelope: str, data: str) -> None:
        run = attempt(db, "select df.start(%s)", envelope)
        if run:
            attempt(db, "select df.signal(%s, 'a', %s)", run, data)
            drive(pump)
            attempt(db, "select df.explain(%s)", run)
            db.sql("select df.cancel(%s)", run)

    check()
    pump.close()


def drive(pump: Pump) -> None:
    """What a worker calls, a few times."""
    for _ in range(4):
        report = pump.work()
        assert not report.startswith("interrupted"), report
        pump.tick()
        for lane in ("http", "direct"):
            pump.supervisor.execute("select * from df_engine.claim_leased(%s, %s, 100)", [pump.worker, lane])
