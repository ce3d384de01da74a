"""From the terminals of the Lark grammars to PostgreSQL regular expressions and rows of SQL data."""

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from lark import Lark

GRAMMARS = Path(__file__).resolve().parent / "grammar"
CRON_FIELDS = {"minute": "MINUTE", "hour": "HOUR", "day of month": "DAY", "month": "MONTH", "day of week": "WEEKDAY"}
TEXTS = ("sql", "literal", "escape_literal", "raw", "placeholders")
PARTS = ("NAME", "PATH", "PLACEHOLDER", "DOLLAR_TAG")
# Blocks of letters beyond ASCII: a name may hold them, while signs, punctuation and emoji end it.
LETTERS = r"\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff"

# Characters that PostgreSQL takes for letters of a name and nobody sees: byte order marks, blanks of other scripts.
INVISIBLE = r"\u0085\u00a0\u00ad\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"


@dataclass(frozen=True)
class CronField:
    """One field of a cron line; `item` captures the wildcard, first value, last value and step of a list item."""

    position: int
    name: str
    low: int
    high: int
    names: tuple[str, ...]
    item: str


@cache
def parser(grammar: str) -> Lark:
    source = (GRAMMARS / f"{grammar}.lark").read_text()
    return Lark(source.replace("@LETTERS@", LETTERS), parser="earley")


def printable(pattern: str) -> str:
    """The same regular expression in ASCII without control characters."""
    return re.sub(r"[^ -~]", lambda char: escape(ord(char[0])), pattern)


def escape(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def terminals(grammar: str) -> dict[str, str]:
    """Name -> regular expression of every terminal of a grammar, in syntax common to Python and PostgreSQL."""
    return {terminal.name: printable(terminal.pattern.to_regexp()) for terminal in parser(grammar).terminals}


def token(grammar: str, rule: str) -> str:
    """A regular expression for any one of the terminals that are the alternatives of a rule."""
    known = terminals(grammar)
    return "|".join(known[r.expansion[0].name] for r in parser(grammar).rules if r.origin.name == rule)


def cron_field(position: int, name: str, value: str, every: str, step: str) -> CronField:
    """The field whose values the regular expression `value` accepts."""
    accepted = [number for number in range(100) if re.fullmatch(value, str(number))]
    names = tuple(re.findall(r"[A-Z]{3}", value))
    item = f"^(?:({every})|({value})(?:-({value}))?)(?:/({step}))?$"
    return CronField(position, name, accepted[0], accepted[-1], names, item)


def cron_fields() -> list[CronField]:
    """The five fields in the order in which a line holds them."""
    known = terminals("cron")
    day_wildcard = f"{known['EVERY']}|{known['ANY_DAY']}"
    fields = [
        cron_field(position, name, known[value], day_wildcard if "day" in name else known["EVERY"], known["STEP"])
        for position, (name, value) in enumerate(CRON_FIELDS.items(), start=1)
    ]
    return [replace(f, item=f"{f.item}|^{known['LAST_DAY']}$") if f.name == "day of month" else f for f in fields]


def context() -> dict[str, Any]:
    """What the templates of cron and substitution see."""
    patterns = {text: token("template", text) for text in TEXTS}
    parts = {name: terminals("template")[name] for name in PARTS}
    return {"cron_fields": cron_fields(), "lexicon": patterns | parts | {"INVISIBLE": INVISIBLE}}
