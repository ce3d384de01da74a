"""A Lark grammar as the numbers of a table-driven LALR(1) parser.

The parser reads one table: row = state, column = symbol. A positive entry is the row to go to (after shifting a
terminal, or after reducing to a nonterminal), a negative one the rule to reduce by, 0 an error. States are stored as
the offset of their row, so that `table[state + symbol]` is the next move.
"""

from dataclasses import dataclass
from functools import cached_property

from lark import Lark
from lark.grammar import NonTerminal, Rule, Symbol, Terminal
from lark.lexer import PatternStr, TerminalDef
from lark.parsers.lalr_analysis import IntParseTable, Shift

END = "$END"
UNKNOWN = "$UNKNOWN"  # what the lexer finds where no terminal matches; no state has a move for it


class GrammarError(ValueError):
    """The grammar uses something that the parser in the database has no form for."""


@dataclass(frozen=True)
class Grammar:
    """A compiled grammar. Symbols, rules and items are numbered from 1; terminals come before nonterminals."""

    lark: Lark

    @classmethod
    def compile(cls, text: str) -> "Grammar":
        """Reads a grammar whose start symbol is `start`; raises on LALR conflicts."""
        return cls(Lark(text, parser="lalr", lexer="basic", propagate_positions=True, maybe_placeholders=False))

    @cached_property
    def rules(self) -> list[Rule]:
        """The rules, in the order of their numbers."""
        for rule in self.lark.rules:
            if not rule.expansion:
                raise GrammarError(f"{rule}: an empty rule")
        return list(self.lark.rules)

    @cached_property
    def definitions(self) -> list[TerminalDef]:
        """Terminals that the parser sees, in the order of their numbers; the end of the text comes after them."""
        return [terminal for terminal in self.lark.terminals if terminal.name not in self.lark.ignore_tokens]

    @cached_property
    def ignored(self) -> list[TerminalDef]:
        """Terminals that the lexer drops."""
        return [terminal for terminal in self.lark.terminals if terminal.name in self.lark.ignore_tokens]

    @cached_property
    def symbols(self) -> dict[str, int]:
        """The number of each terminal and nonterminal."""
        heads = dict.fromkeys(rule.origin.name for rule in self.rules)
        names = [*(terminal.name for terminal in self.definitions), END, UNKNOWN, *heads]
        return {name: number for number, name in enumerate(names, 1)}

    @cached_property
    def table(self) -> list[int]:
        """All moves, row by row."""
        compiled: IntParseTable = self.lark.parser.parser._parse_table
        width = len(self.symbols)
        offset = {state: index * width for index, state in enumerate(self._states(compiled))}
        number = {rule: index for index, rule in enumerate(self.rules, 1)}
        moves = [0] * (width * len(offset))
        for state, row in compiled.states.items():
            for name, (action, target) in row.items():
                move = offset[target] if action is Shift else -number[target]
                moves[offset[state] + self.symbols[name] - 1] = move
        accepting = offset[compiled.end_states["start"]]
        moves[accepting + self.symbols[END] - 1] = accepting
        return moves

    def _states(self, compiled: IntParseTable) -> list[int]:
        """States as a walk from the first one meets them: Lark's own numbers differ from run to run."""
        order = [compiled.start_states["start"]]
        for state in order:
            row = compiled.states[state]
            for name in sorted(row, key=self.symbols.__getitem__):
                action, target = row[name]
                if action is Shift and target not in order:
                    order.append(target)
        return order

    @cached_property
    def items(self) -> list[str]:
        """The names of the tree's nodes, in the order of their numbers."""
        return list(dict.fromkeys(self._item(rule) for rule in self.rules if self._item(rule)))

    @cached_property
    def rule_items(self) -> list[int]:
        """For each rule the number of the tree node it makes, 0 when it makes none."""
        number = {name: index for index, name in enumerate(self.items, 1)}
        return [number.get(self._item(rule), 0) for rule in self.rules]

    @cached_property
    def rule_lengths(self) -> list[int]:
        """For each rule the number of symbols that it replaces."""
        return [len(rule.expansion) for rule in self.rules]

    @cached_property
    def rule_heads(self) -> list[int]:
        """For each rule the symbol that it makes."""
        return [self.symbols[rule.origin.name] for rule in self.rules]

    @cached_property
    def kept(self) -> list[bool]:
        """For each terminal whether it is a leaf of the tree; Lark decides that for each use, here all must agree."""
        uses: dict[str, set[bool]] = {}
        for symbol in (symbol for rule in self.rules for symbol in rule.expansion if isinstance(symbol, Terminal)):
            uses.setdefault(symbol.name, set()).add(not symbol.filter_out)
        for name, kept in uses.items():
            if len(kept) > 1:
                raise GrammarError(f"{name} is a leaf of the tree in one rule and not in another")
        return [True in uses.get(terminal.name, set()) for terminal in self.definitions]

    def text_of(self, name: str) -> str | None:
        """What a terminal that stands for one fixed text looks like."""
        pattern = self.lark.get_terminal(name).pattern
        return str(pattern.value) if isinstance(pattern, PatternStr) else None

    def _item(self, rule: Rule) -> str:
        """The name of the tree node that a rule makes; empty when its children take its place."""
        if rule.alias:
            return str(rule.alias)
        if rule.origin.name.startswith("_") or (rule.options.expand1 and self._leaves(rule) == 1):
            return ""
        return str(rule.origin.name)

    def _leaves(self, rule: Rule) -> int:
        return sum(self._width(symbol) for symbol in rule.expansion)

    def _width(self, symbol: Symbol) -> int:
        """How many tree nodes a symbol gives."""
        if isinstance(symbol, Terminal):
            return int(not symbol.filter_out)
        assert isinstance(symbol, NonTerminal)
        if not symbol.name.startswith("_"):
            return 1
        widths = {self._leaves(rule) for rule in self.rules if rule.origin == symbol}
        if len(widths) != 1:
            raise GrammarError(f"{symbol.name} gives sometimes one node and sometimes more")
        return widths.pop()
