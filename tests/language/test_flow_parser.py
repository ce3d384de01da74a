"""The parser in the database against Lark, with the same grammar: the same trees, and errors for the same texts."""

import os
import random
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from lark import Token, Tree
from lark.exceptions import LarkError

from generator.flow import grammar
from tests.language.flows import Writer, graph

Ask = Callable[..., Any]
LONG = os.environ.get("PG_DURABLE_LONG_TESTS") == "1"

# Shapes that graphs do not have: they are well-formed, whatever they mean.
SYNTAX = [
    "f()", "f(x => 5, -1.5e3, null)", "DF.f({}, [], {\"a\": [{\"b\": null}, 1e5, true], \"c\": {}})", "[1, [2]] ~> {}",
    "break('x', y => break)", "f(a => 'x' ?> @> 'y' !> g(b => \"q\"))", "'a' |=> \"b\" |=> c & ('d')", "((('a')))",
]  # fmt: skip
FRAGMENTS = [
    *"\"'$\\(){}[],:&|-*/ \n;\x01éx5e", "$$", "$a$", "E'", "=>", "|=>", "~>", "?>", "!>", "@>",
    "break", "null", "df.", "df", "--", "/*", "*/", "'a'", '"b"', "sleep(",
]  # fmt: skip

# A leaf is the number of its token, any other node its name and its children.
Parsed = int | tuple[str, list[Any]]


def by_lark(text: str) -> Parsed | None:
    """Lark's tree; None when it refuses the text."""
    try:
        places = {token.start_pos: nth for nth, token in enumerate(grammar().lark.lex(text), 1)}
        tree = grammar().lark.parse(text)
    except LarkError:
        return None

    def convert(node: Tree[Token] | Token) -> Parsed:
        if isinstance(node, Token):
            return places[node.start_pos]
        return str(node.data), [convert(child) for child in node.children]

    return convert(tree)


def in_database(ask: Ask, text: str) -> Parsed | None:
    """The database's tree, made from its post-order list: a node takes what lies in the tokens that it spans."""
    lists = ask(
        """select case when p.failed_at is null then array[p.items, p.froms] end
           from df_engine.flow_tokens(%s) t, df_engine.flow_parse(t.kinds) p""",
        text,
    )
    if lists is None:
        return None
    stack: list[tuple[int, Parsed]] = []
    for item, first in zip(*lists, strict=True):
        children: list[Parsed] = []
        while item > 0 and stack and stack[-1][0] >= first:
            children.insert(0, stack.pop()[1])
        stack.append((first, (grammar().items[item - 1], children) if item > 0 else first))
    assert len(stack) == 1
    return stack[0][1]


@pytest.mark.parametrize("text", SYNTAX)
def test_the_trees_of_rare_shapes(ask: Ask, text: str) -> None:
    assert by_lark(text) is not None
    assert in_database(ask, text) == by_lark(text)


def flows(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [Writer(rng).write(graph(rng, rng.randint(1, 20))) for _ in range(count)]


@pytest.mark.parametrize("seed", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_trees_of_generated_flows(ask: Ask, seed: int) -> None:
    if seed == 3 and not LONG:
        pytest.skip("ten thousand flows: set PG_DURABLE_LONG_TESTS=1")
    for text in flows(seed, 10_000 if seed == 3 else 150):
        expected = by_lark(text)
        assert expected is not None, text
        assert in_database(ask, text) == expected, text


def mutated(rng: random.Random, text: str) -> str:
    """The text with a few places deleted, doubled, moved or replaced."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        until = min(len(text), at + rng.choice([0, 1, 1, 2, 8]))
        text = text[:at] + rng.choice(["", text[at:until] * 2, rng.choice(FRAGMENTS)]) + text[until:]
    return text


def garbage(rng: random.Random) -> str:
    return "".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(0, 25)))


@pytest.mark.parametrize("seed", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_mutated_and_random_texts_are_refused_with_a_place_or_read_as_lark_reads_them(ask: Ask, seed: int) -> None:
    if seed == 3 and not LONG:
        pytest.skip("ten thousand texts: set PG_DURABLE_LONG_TESTS=1")
    rng = random.Random(seed)
    count = 5_000 if seed == 3 else 150
    texts = [mutated(rng, text) for text in flows(seed, count)] + [garbage(rng) for _ in range(count)]
    for text in texts:
        expected = by_lark(text)
        assert in_database(ask, text) == expected, text
        if expected is None:
            refused(ask, text)


def refused(ask: Ask, text: str) -> None:
    """Asserts that df.flow gives one syntax error, at a place that is in the text."""
    with pytest.raises(psycopg.errors.SyntaxError, match=r"^flow syntax error at line \d+, column \d+: ") as caught:
        ask("select df.flow(%s)", text)
    words = (caught.value.diag.message_primary or "").split(":")[0].replace(",", "").split()
    line, column = int(words[5]), int(words[7])
    lines = text.split("\n")
    assert 1 <= line <= len(lines), text
    assert 1 <= column <= len(lines[line - 1]) + 1, text
