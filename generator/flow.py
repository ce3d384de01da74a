"""What the templates of the flow language need to know: its lexer, its tables, its graph builders."""

from functools import cache
from pathlib import Path
from typing import Any

from lark.lexer import TerminalDef

from generator.flow_builders import BUILDERS, MODIFIERS, catalogue
from generator.lalr import END, UNKNOWN, Grammar

GRAMMAR = Path(__file__).parent / "grammar" / "flow.lark"

# What ends a terminal that the user may forget to end. In the database it is optional, so that an open quote takes the
# rest of the text at once instead of being looked for again at every later quote.
CLOSINGS = {"STRING": "'", "ESCAPE_STRING": "'", "JSON_STRING": '"', "BLOCK_COMMENT": r"\*+\/"}

# Dollar quotes are no regular language: the database adds one alternative for each tag that the text uses.
DOLLAR = "DOLLAR_STRING"
DOLLAR_TAGGED = r"|\$@tag@\$(?:[^$]|\$(?!@tag@\$))*\$@tag@\$"
DOLLAR_PATTERNS = {DOLLAR: r"\$\$(?:[^$]|\$[^$])*\$\$"}
DOLLAR_TEST = r"\$[^$]*\$.*\$[^$]*\$"

# How error messages call the terminals that are no fixed texts; terminals with an empty word are never suggested.
WORDS = {
    "NAME": "a name",
    "_DF": "",
    "NUMBER": "a number",
    "STRING": "SQL in quotes",
    "ESCAPE_STRING": "SQL in quotes",
    DOLLAR: "SQL in quotes",
    "JSON_STRING": "text in double quotes",
    END: "the end",
}

# How the signatures of builders call the tokens that may be arguments.
CLASSES = {
    "NAME": "name",
    "NUMBER": "number",
    "STRING": "string",
    "ESCAPE_STRING": "string",
    DOLLAR: "string",
    "JSON_STRING": "quoted",
    "TRUE": "boolean",
    "FALSE": "boolean",
    "NULL": "null",
    "LBRACE": "json",
    "LSQB": "json",
}


@cache
def grammar() -> Grammar:
    return Grammar.compile(GRAMMAR.read_text())


def pattern(terminal: TerminalDef) -> str:
    """A terminal as a regular expression of PostgreSQL, without what may be missing at its end."""
    value = DOLLAR_PATTERNS.get(terminal.name, terminal.pattern.to_regexp())
    closing = CLOSINGS.get(terminal.name)
    if closing is None:
        return value
    if not value.endswith(closing):
        raise ValueError(f"{terminal.name} does not end with {closing}")
    return f"{value.removesuffix(closing)}(?:{closing})?"


def test(terminal: TerminalDef) -> str:
    """What a whole token of this terminal matches."""
    value = DOLLAR_TEST if terminal.name == DOLLAR else terminal.pattern.to_regexp()
    return f"^(?:{value})$"


def word(name: str) -> str:
    text = None if name == END else grammar().text_of(name)
    return WORDS[name] if text is None else text if text.isalpha() else f'"{text}"'


def context() -> dict[str, Any]:
    """What the templates see as `flow`."""
    compiled = grammar()
    terminals = [*compiled.ignored, *compiled.definitions]
    matched = [terminal for terminal in terminals if compiled.text_of(terminal.name) is None]
    fixed = {text: compiled.symbols[t.name] for t in terminals if (text := compiled.text_of(t.name)) is not None}
    signs = [t for t in terminals if t not in matched and not fixed_is_word(t)]
    signs.sort(key=lambda terminal: -len(terminal.pattern.value))
    return {
        "pattern": "|".join(pattern(terminal) for terminal in [*matched, *signs]) + "@tags@|.",
        "tagged": DOLLAR_TAGGED,
        "fixed": fixed,
        "tests": [(test(terminal), compiled.symbols.get(terminal.name, -1)) for terminal in matched],
        "symbols": compiled.symbols,
        "end": compiled.symbols[END],
        "unknown": compiled.symbols[UNKNOWN],
        "table": compiled.table,
        "rule_items": compiled.rule_items,
        "rule_lengths": compiled.rule_lengths,
        "rule_heads": compiled.rule_heads,
        "kept": [int(kept) for kept in compiled.kept],
        "item_names": compiled.items,
        "item": {name: number for number, name in enumerate(compiled.items, 1)},
        "words": [word(name) for name in list(compiled.symbols)[: compiled.symbols[END]]],
        "classes": [CLASSES.get(name, "") for name in compiled.symbols],
        "signatures": [signature for signatures in BUILDERS.values() for signature in signatures],
        "catalogue": catalogue(),
        "modifiers": {name: BUILDERS[name][0].number for name in MODIFIERS},
    }


def fixed_is_word(terminal: TerminalDef) -> bool:
    """Whether a fixed text looks like a name: the lexer reads it as one, then looks it up."""
    return str(terminal.pattern.value).isidentifier()
