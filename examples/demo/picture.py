"""`make picture`: plays the demo's long run, with its two crashes, and writes what is seen of it as docs/demo.svg."""

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from demo import Demo
from film import Film, coloured, wrapped
from screen import Screen
from stage import stage

TARGET = Path(__file__).resolve().parents[2] / "docs" / "demo.svg"
LEFT, RIGHT, LINES = 58, 60, 28  # characters of the two columns, lines of both
TREE = LEFT + 2
PROOF = 21  # the line under the tree
SLOWER = 2  # so that one can read what happens
LEAD, PAUSE, HOLD = 1.5, 2.0, 6.0  # seconds: to read the statement, in which nothing changes, to read the end
STYLES = {"✓": "good", "✗": "bad", "⏳": "busy", "⊘": "dim", "○": "dim"}
INNER_BLANKS = re.compile(r"(?<=\w) {2,}(?=\w)")
PROVED = 6  # claims that there is room for


class Camera(Screen):
    """A screen that films: the statement and what happens on the left, the run's tree on the right."""

    def __init__(self) -> None:
        super().__init__()
        self.film = Film(TREE + RIGHT, LINES, "make demo")
        self._began = 0.0
        self._line = 0
        self._drawn = 0

    @property
    def now(self) -> float:
        """The time of the film."""
        return LEAD + SLOWER * (time.monotonic() - self._began)

    def sql(self, statement: str) -> None:
        """The film begins with the statement."""
        self._began = time.monotonic()
        for self._line, parts in enumerate(coloured(statement.strip())):
            self.film.put(0, 0, self._line, *parts)
        self._line += 2

    def say(self, text: str, mark: str = "", style: str = "", above: int = 0) -> None:
        """An event, under those before."""
        if mark:
            style = "bad" if "SIGKILL" in text else "text"
            for number, part in enumerate(wrapped(text, LEFT - 7)):
                self.film.put(self.now, 0, self._line, ("       " if number else f"{mark}  ", "dim"), (part, style))
                self._line += 1

    def draw(self, tree: str, note: str) -> None:
        """The tree, where it has changed, and who makes it go on."""
        lines = [INNER_BLANKS.sub(" ", line.rstrip()) for line in tree.splitlines()]
        for number in range(max(self._drawn, len(lines))):
            line = lines[number] if number < len(lines) else ""
            line = line if len(line) <= RIGHT else f"{line[: RIGHT - 3]}… {line[-1]}"
            self.film.put(self.now, TREE, number, *([(line, STYLES.get(line[-1:], ""))] if line else []))
        self._drawn = len(lines)
        who = (f"{note:>{RIGHT - 30}}", "bad" if note == "no worker" else "dim")
        self.film.put(self.now, TREE + 30, 0, who)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """The proof; of the times there is no room."""
        if columns[0]:
            return
        for number, (claim, _, found, mark) in enumerate(rows[:PROVED], PROOF):
            value = f"{found:>{RIGHT - len(claim) - 3}}"
            self.film.put(self.now, TREE, number, (claim, "text"), (value, "dim"), (f"  {mark}", STYLES.get(mark, "")))

    def heading(self, text: str) -> None:
        """Acts are not announced in a film."""

    def show(self, tree: str, note: str) -> None:
        """The tree has been drawn."""

    @contextmanager
    def live(self) -> Iterator[None]:
        """Every draw() is filmed."""
        yield


def main() -> int:
    """Films, and writes the film."""
    camera = Camera()
    with stage() as server:
        demo = Demo(server, camera)
        demo.set_up()
        demo.long_run()
    camera.film.cut(PAUSE)
    TARGET.write_text(camera.film.svg(HOLD), "utf-8")
    print(f"{TARGET}: {TARGET.stat().st_size / 1024:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
