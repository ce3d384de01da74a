"""Lark's LALR tables as numbers: what the parser in the database relies on."""

import pytest

from generator.lalr import END, UNKNOWN, Grammar, GrammarError

SUMS = """
start: sum
?sum: product | sum "+" product -> add
?product: NUMBER | product "*" NUMBER -> times
NUMBER: /[0-9]+/
%ignore " "
"""


def accepts(grammar: Grammar, names: list[str]) -> list[str] | None:
    """Runs the tables over terminals, as the database does; the tree's nodes in post-order, None for an error."""
    stack, items = [0], []
    for name in [*names, END]:
        symbol = grammar.symbols[name]
        while (move := grammar.table[stack[-1] + symbol - 1]) < 0:
            rule = -move - 1
            del stack[len(stack) - grammar.rule_lengths[rule] :]
            stack.append(grammar.table[stack[-1] + grammar.rule_heads[rule] - 1])
            if grammar.rule_items[rule]:
                items.append(grammar.items[grammar.rule_items[rule] - 1])
        if move == 0:
            return None
        if name != END:
            stack.append(move)
            if grammar.kept[symbol - 1]:
                items.append(name)
    return items


def test_operators_bind_as_the_layers_say() -> None:
    grammar = Grammar.compile(SUMS)
    read = accepts(grammar, ["NUMBER", "PLUS", "NUMBER", "STAR", "NUMBER"])
    assert read == ["NUMBER", "NUMBER", "NUMBER", "times", "add", "start"]


def test_errors_are_errors() -> None:
    grammar = Grammar.compile(SUMS)
    for names in ([], ["PLUS"], ["NUMBER", "NUMBER"], ["NUMBER", "PLUS"], [UNKNOWN]):
        assert accepts(grammar, names) is None


def test_a_new_operator_of_a_known_shape_is_only_a_line_in_the_grammar() -> None:
    grammar = Grammar.compile(SUMS.replace("-> add", '-> add | sum "-" product -> subtract'))
    assert accepts(grammar, ["NUMBER", "MINUS", "NUMBER"]) == ["NUMBER", "NUMBER", "subtract", "start"]


def test_every_table_is_built_the_same_way_twice() -> None:
    assert Grammar.compile(SUMS).table == Grammar.compile(SUMS).table


def test_the_start_is_the_first_row() -> None:
    grammar = Grammar.compile(SUMS)
    assert len(grammar.table) % len(grammar.symbols) == 0
    assert grammar.table[grammar.symbols["NUMBER"] - 1] > 0


REFUSED = [
    ('start: a "x"\na:\n', "empty rule"),
    ('start: a | b\na: X "y"\n!b: X "z" Y\n!c: "y"\nX: "x"\nY: "y"\n', "leaf of the tree in one rule"),
    ('?start: _a\n_a: X | X X\nX: "x"\n', "sometimes one node"),
]


@pytest.mark.parametrize(("text", "says"), REFUSED)
def test_what_has_no_form_in_the_database_is_refused(text: str, says: str) -> None:
    with pytest.raises(GrammarError, match=says):
        grammar = Grammar.compile(text)
        assert grammar.rules and grammar.rule_items and grammar.kept
