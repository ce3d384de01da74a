"""From the terminals of the Lark grammars to PostgreSQL regular expressions and rows of SQL data."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lark import Lark

GRAMMARS = Path(__file__).resolve().parent / "grammar"
CRON_FIELDS = {"minute": "MINUTE", "hour": "HOUR", "day of month": "DAY", "month": "MONTH", "day of week": "WEEKDAY"}


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
def terminals(grammar: str) -> dict[str, str]:
    """Name -> regular expression of every terminal of a grammar, in syntax common to Python and PostgreSQL."""
    parser = Lark((GRAMMARS / f"{grammar}.lark").read_text(), parser="earley")
    return {terminal.name: terminal.pattern.to_regexp() for terminal in parser.terminals}


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
    return [
        cron_field(position, name, known[value], day_wildcard if "day" in name else known["EVERY"], known["STEP"])
        for position, (name, value) in enumerate(CRON_FIELDS.items(), start=1)
    ]


def context() -> dict[str, Any]:
    """What the templates of cron and substitution see."""
    return {"cron_fields": cron_fields()}
