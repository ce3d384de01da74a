"""A film in one SVG: lines of text that come, change and go, without a script, in light or in dark colours."""

import re
from collections import defaultdict
from html import escape
from itertools import pairwise

COLUMN, LINE, MARGIN, BAR = 7.83, 19, 20, 36  # pixels: a character of 13 px, a line, around the text, above it
COLOURS = {  # light, dark
    "paper": ("#fbfbfa", "#14181d"), "edge": ("#d5d8dc", "#2c333b"), "text": ("#24292f", "#d5dae0"),
    "dim": ("#8a929b", "#6c757f"), "good": ("#1a7f37", "#57c26b"), "bad": ("#cf222e", "#ff7b72"),
    "busy": ("#9a6700", "#e3b341"), "sign": ("#8250df", "#c49bff"), "call": ("#0550ae", "#79b8ff"),
    "quote": ("#57606a", "#a5b4c3"),
}  # fmt: skip
Part = tuple[str, str]  # text, style


class Film:
    """What stands where from when on; the last state of it is what a reader sees who wants nothing to move."""

    def __init__(self, columns: int, lines: int, title: str) -> None:
        self.width, self.height = round(columns * COLUMN + 2 * MARGIN), lines * LINE + BAR + MARGIN
        self._title = title
        self._cells: defaultdict[tuple[int, int], list[tuple[float, tuple[Part, ...]]]] = defaultdict(list)

    def put(self, at: float, column: int, line: int, *parts: Part) -> None:
        """From `at` seconds on these parts stand there; without parts, nothing does."""
        states = self._cells[column, line]
        if not states or states[-1][1] != parts:
            states.append((at, parts))

    def cut(self, longest: float) -> None:
        """Makes pauses in which nothing changes last so long at most."""
        times = sorted({at for states in self._cells.values() for at, _ in states})
        later = {times[0]: times[0]}
        for before, at in pairwise(times):
            later[at] = later[before] + min(at - before, longest)
        for states in self._cells.values():
            states[:] = [(later[at], parts) for at, parts in states]

    def svg(self, hold: float) -> str:
        """The film, which begins again when its end has been seen for so many seconds."""
        seconds = hold + max(at for states in self._cells.values() for at, _ in states)
        spans: dict[tuple[float, float], str] = {}
        lines = []
        for (column, line), states in sorted(self._cells.items(), key=lambda item: item[0][::-1]):
            ends = [at for at, _ in states[1:]] + [seconds]
            for (begin, parts), end in zip(states, ends, strict=True):
                if parts:
                    name = spans.setdefault((begin, end), f"t{len(spans)}")
                    lines.append(text(column, line, parts, name))
        style = sheet(spans, seconds)
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img">'
        return "\n".join([head, f"<title>{escape(self._title)}</title>", style, self._window(), *lines, "</svg>\n"])

    def _window(self) -> str:
        dots = "".join(f'<circle class="edge" cx="{20 + 18 * n}" cy="18" r="5.5"/>' for n in range(3))
        return (
            f'<rect class="paper" x=".5" y=".5" width="{self.width - 1}" height="{self.height - 1}" rx="9"/>{dots}'
            f'<text class="dim" x="{self.width / 2}" y="22" text-anchor="middle">{escape(self._title)}</text>'
        )


def text(column: int, line: int, parts: tuple[Part, ...], name: str) -> str:
    """A line; what all of it has in common stands in front."""
    x, y = MARGIN + column * COLUMN, BAR + (line + 0.7) * LINE
    spans = "".join(
        f'<tspan class="{style}">{escape(words, quote=False)}</tspan>' if style else escape(words, quote=False)
        for words, style in parts
    )
    return f'<text class="{name}" x="{x:.4g}" y="{y:.4g}" xml:space="preserve">{spans}</text>'


def sheet(spans: dict[tuple[float, float], str], seconds: float) -> str:
    """Colours, and when each line is seen."""
    rules = ["text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:var(--text)}"]
    rules += [f".{name}{{fill:var(--{name})}}" for name in COLOURS if name != "text"]
    rules += [".paper{stroke:var(--edge)}"]
    for (begin, end), name in spans.items():
        if (begin, end) != (0, seconds):
            rules.append(motion(name, begin / seconds, end / seconds))
    light, dark = (";".join(f"--{name}:{pair[n]}" for name, pair in COLOURS.items()) for n in (0, 1))
    still = ",".join(f".{name}" for name in spans.values())
    return (
        f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
        + "".join(rules).replace("DURATION", f"{seconds:.4g}s")
        + f"@media(prefers-reduced-motion:reduce){{{still}{{animation:none}}}}</style>"
    )


def motion(name: str, begin: float, end: float) -> str:
    """Hidden, but from one share of the film to another."""
    frames = [(0.0, "hidden")] if begin > 0 else []
    frames += [(begin, "visible"), *([(end, "hidden")] if end < 1 else [])]
    steps = "".join(f"{100 * share:.5g}%{{visibility:{state}}}" for share, state in frames)
    rest = "visible" if end >= 1 else "hidden"
    return f".{name}{{visibility:{rest};animation:{name} DURATION step-end infinite}}@keyframes {name}{{{steps}}}"


SQL_PART = re.compile(r"(?P<quote>'(?:[^']|'')*')|(?P<sign>~>|\|=>|[?!]>|&)|(?P<call>\bdf\.\w+|\bSELECT\b)")


def coloured(sql: str) -> list[list[Part]]:
    """A statement, line by line."""
    parts: list[Part] = []
    place = 0
    for match in SQL_PART.finditer(sql):
        parts += [(sql[place : match.start()], ""), (match.group(), match.lastgroup or "")]
        place = match.end()
    lines: list[list[Part]] = [[]]
    for words, style in [*parts, (sql[place:], "")]:
        for number, piece in enumerate(words.split("\n")):
            lines += [[]] if number else []
            lines[-1] += [(piece, style)] if piece else []
    return lines


def wrapped(words: str, width: int) -> list[str]:
    """A sentence in lines of at most so many characters."""
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return lines
