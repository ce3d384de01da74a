"""df.to_flow: canonical text of a graph, from which df.flow gives the same graph."""

import random
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.language.flows import Writer, compact, graph
from tests.support import Database

Ask = Callable[..., Any]
LONG = "select 'a statement that is long enough to need a line of its own, for it has ' || 'to say'"


@pytest.mark.parametrize("seed", range(8))
def test_text_gives_the_graph_back_and_formatting_it_again_changes_nothing(ask: Ask, seed: int) -> None:
    rng = random.Random(1000 + seed)
    for _ in range(40):
        envelope = compact(graph(rng, rng.randint(1, 40)))
        text = ask("select df.to_flow(%s)", envelope)
        assert ask("select df.flow(%s)", text) == envelope, text
        assert ask("select df.to_flow(df.flow(%s))", text) == text


WRITTEN = [
    ("  'a'~>'b'", "'a' ~> 'b'"),
    ("('a' ~> ('b'))", "'a' ~> 'b'"),
    ("('a' ~> 'b') ~> 'c'", "'a' ~> 'b' ~> 'c'"),
    ("'a' ~> ('b' ~> 'c')", "'a' ~> ('b' ~> 'c')"),
    ("('a' & 'b') & 'c'", "('a' & 'b') & 'c'"),
    ("('a' | 'b') |=> x", "('a' | 'b') |=> x"),
    ("'c' ?> 'a' ~> 'b'", "'c' ?> 'a' ~> 'b'"),
    ("sleep('$a') ~> sleep_until('$b')", "sleep('$a') ~> sleep_until('$b')"),
    ("sleep_until('2030-01-01 01:00:00+01')", "sleep_until('2030-01-01T00:00:00Z')"),
    *[(sleep, sleep) for sleep in ['{"node_type":"SLEEP","query":"{\\"until\\":\\"tomorrow\\"}"}']],
    ("('c' ?> 'a') |=> n ~> ('d' ?> 'b')", "('c' ?> 'a') |=> n ~> ('d' ?> 'b')"),
    ("'c' ?> ('d' ?> 'a') !> 'b'", "'c' ?> ('d' ?> 'a') !> 'b'"),
    ("'c' ?> 'd' ?> 'a' !> 'b'", "'c' ?> ('d' ?> 'a' !> 'b')"),
    ("if('c', 'a')", "'c' ?> 'a'"),
    ("'a' |=> \"break\"", "'a' |=> 'break'"),
    ("'it''s'", "$$it's$$"),
    ("E'it''s $$'", "'it''s $$'"),
    ("DF.SLEEP('1 day')", "sleep(86400)"),
    ("loop('a', 'b')", "loop('a', while => 'b')"),
    ("break 'x' | break", "break 'x' | break"),
    ("call('a' ~> ('b' & call('c')), label => 'l')", "call('a' ~> 'b' & call('c'), label => 'l')"),
    ("call('a', '{}') |=> n", "call('a', input => '{}') |=> n"),
    (f"call('a' ~> $${LONG}$$)", f"call(\n  'a'\n  ~> $${LONG}$$\n)"),
    *[(call, call) for call in ['{"node_type":"CALL","query":"{\\"flow\\":\\"select 1\\"}"}']],
    ("retry('a', 2, exhausted => 'pause')", "retry('a', max_attempts => 2, exhausted => 'pause')"),
    ("retry('a', max_delay => '1 min', retry_on => '{40}')", "retry('a', max_delay => '60 s', retry_on => [\"40\"])"),
    ("http('https://h', 'post', timeout_seconds => 30)", "http('https://h')"),
    ('{"node_type":"SLEEP","query":"soon"} ~> \'a\'', '{"node_type":"SLEEP","query":"soon"} ~> \'a\''),
    (f"'a' ~> 'b' ~> $${LONG}$$ |=> x", f"'a'\n~> 'b'\n~> $${LONG}$$ |=> x"),
    (f"'c' ?> 'a' !> 'd' ?> $${LONG}$$ !> 'f'", f"'c'\n?> 'a'\n!> 'd'\n?> $${LONG}$$\n!> 'f'"),
    (f"('a' & $${LONG}$$ & 'b') |=> x", f"(\n  'a'\n  & $${LONG}$$\n  & 'b'\n) |=> x"),
    (f"@> 'a' ~> $${LONG}$$", f"@> (\n  'a'\n  ~> $${LONG}$$\n)"),
    (f"loop('a' ~> $${LONG}$$, while => 'c') |=> x", f"loop(\n  'a'\n  ~> $${LONG}$$,\n  while => 'c'\n) |=> x"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "canonical"), WRITTEN)
def test_the_canonical_form(ask: Ask, text: str, canonical: str) -> None:
    assert ask("select df.to_flow(df.flow(%s))", text) == canonical


def test_a_statement_is_a_flow(ask: Ask) -> None:
    assert ask("select df.to_flow('SELECT 1')") == "'SELECT 1'"


def test_a_graph_that_is_not_valid_is_refused(ask: Ask) -> None:
    with pytest.raises(psycopg.Error, match="Unknown node_type 'X'"):
        ask("""select df.to_flow('{"node_type":"X"}')""")


def test_a_run_is_written_from_its_nodes_for_those_who_may_see_it(app: Database) -> None:
    app.sql("select df.setvar('v', '1')")
    rng = random.Random(7)
    for _ in range(5):
        node = graph(rng, 20)
        text = Writer(rng).write(node)
        run = app.sql("select df.start(df.flow(%s))", text)
        assert app.sql("select df.flow(df.to_flow(%s))", run) == compact(node)
    for stranger in (run, "00000000"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="not found or access denied"):
            app.sql("select df.to_flow(%s)", stranger, user="other")
