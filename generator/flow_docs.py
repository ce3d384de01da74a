"""The rules of the flow language as diagrams, for docs/language.md."""

import re
from pathlib import Path

from lark.grammar import NonTerminal, Rule

from generator.flow import grammar

PAGE = Path("docs/language.md")
SECTION = re.compile(r"(?<=<!-- generated: rules -->\n).*?(?=<!-- end of what is generated -->)", re.DOTALL)


def page(text: str) -> str:
    """The page with its generated section as the grammar has it."""
    return SECTION.sub(lambda _: f"```text\n{diagrams()}```\n", text)


def diagrams() -> str:
    """One diagram for each nonterminal: read from left to right, each line is a way through."""
    rules: dict[str, list[Rule]] = {}
    for rule in grammar().rules:
        rules.setdefault(rule.origin.name.lstrip("_"), []).append(rule)
    return "\n".join(diagram(name, alternatives) for name, alternatives in rules.items())


def diagram(name: str, alternatives: list[Rule]) -> str:
    ways = [
        " ─ ".join(shown(symbol.name, isinstance(symbol, NonTerminal)) for symbol in r.expansion) for r in alternatives
    ]
    builders = [
        f"   df.{rule.alias}" if rule.alias in ("loop", "if", "seq", "race", "join", "join3", "as") else ""
        for rule in alternatives
    ]
    width = max(map(len, ways))
    if len(ways) == 1:
        return f"{name} ── {ways[0]} ──{builders[0]}\n"
    lines = []
    for index, (way, builder) in enumerate(zip(ways, builders, strict=True)):
        left, right = ("┬", "┬──") if index == 0 else ("└", "┘") if index == len(ways) - 1 else ("├", "┤")
        lead = f"{name} ──" if index == 0 else " " * (len(name) + 3)
        lines.append(f"{lead}{left}─ {way} {'─' * (width - len(way) + 1)}{right}{builder}\n")
    return "".join(lines)


def shown(name: str, nonterminal: bool) -> str:
    """A symbol as the diagrams show it: rules by name, terminals in capitals, fixed texts in quotes."""
    if nonterminal:
        return name.lstrip("_")
    text = grammar().text_of(name)
    if text is not None:
        return f'"{text}"'
    return '"df."' if name == "_DF" else name
