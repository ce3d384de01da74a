"""What the audience sees: sentences, SQL, tables, and the tree of a run, redrawn while it runs on a terminal."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

WIDTH = 80
STYLES = {"✓": "green", "✗": "bold red", "⏳": "bold yellow", "⊘": "dim", "○": "dim"}


class Screen:
    """At most 80 columns; in colour on a terminal, else plain lines."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._console.width = min(WIDTH, self._console.width) if self._console.is_terminal else WIDTH
        self._live: Live | None = None

    def heading(self, text: str) -> None:
        """Begins an act."""
        self._console.print()
        self._console.print(Rule(Text(text, "bold"), align="left", style="cyan"))
        self._console.print()

    def say(self, text: str, mark: str = "", style: str = "", above: int = 0) -> None:
        """A sentence, wrapped and indented; `mark` stands before it, `above` blank lines above it."""
        line = Table.grid(padding=(0, 1))
        line.add_column(width=len(mark))
        line.add_row(Text(mark), Text(text))
        self._console.print(Padding(line, (above, 0, 0, 1), style=style))

    def sql(self, statement: str) -> None:
        """A statement as it is sent."""
        code = Syntax(statement.strip(), "postgresql", theme="ansi_dark", background_color="default")
        self._console.print(Padding(code, (1, 2)))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows of text, the first column to the left, the others to the right."""
        table = Table(box=None, padding=(0, 0, 0, 2), header_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(cell, STYLES.get(cell, "")) for cell in row))
        self._console.print(Padding(table, (1, 0, 0, 0)))

    @contextmanager
    def live(self) -> Iterator[None]:
        """While this lasts, draw() redraws in place; sentences appear above."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, auto_refresh=False) as self._live:
            yield
        self._live = None

    def draw(self, tree: str, note: str) -> None:
        """Redraws the tree; without a terminal it is left to show()."""
        if self._live:
            self._live.update(framed(tree, note), refresh=True)

    def show(self, tree: str, note: str) -> None:
        """The tree as it is now, for an audience that does not see it move."""
        if not self._console.is_terminal:
            self._console.print(framed(tree, note))


def framed(tree: str, note: str) -> Panel:
    """The output of df.explain, each line coloured by the status at its end."""
    lines = [line.rstrip() for line in tree.splitlines()]
    text = Text("\n", no_wrap=True, overflow="ellipsis").join(Text(line, STYLES.get(line[-1:], "")) for line in lines)
    return Panel(
        text, title="df.explain", title_align="left", subtitle=note, subtitle_align="right", border_style="cyan"
    )
