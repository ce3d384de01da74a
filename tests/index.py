"""`python -m tests.index` writes tests/README.md: of each folder and file what it says of itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PAGE = ROOT / "README.md"
HEAD = """\
# Tests by subject

<!-- written by `python -m tests.index`, which is part of `make build`; do not edit -->

What each folder and file of `tests` is about. [CONTRIBUTING](../CONTRIBUTING.md#run-tests) has how they are run.
"""


def main() -> None:
    """Writes the page."""
    PAGE.write_text(index(), "utf-8")


def index() -> str:
    """The page: a table of the files of each folder."""
    folders = sorted(path.parent for path in ROOT.glob("*/__init__.py"))
    return "\n".join([HEAD, *(section(folder) for folder in [*folders, ROOT])])


def section(folder: Path) -> str:
    """A folder, its tests first, then what they use."""
    title = "What all of them use" if folder == ROOT else folder.name
    lines = [f"## {title}", "", about(folder / "__init__.py"), "", "| File | About |", "|---|---|"]
    return "\n".join([*lines, *(row(path) for path in files(folder))]) + "\n"


def files(folder: Path) -> Iterator[Path]:
    """The modules of a folder, without those that hold fixtures only."""
    modules = [path for path in sorted(folder.glob("*.py")) if path.name not in ("__init__.py", "conftest.py")]
    yield from sorted(modules, key=lambda path: not path.name.startswith("test_"))


def row(path: Path) -> str:
    """A file and what it says of itself."""
    name = path.relative_to(ROOT).as_posix()
    return f"| [{path.stem}]({name}) | {about(path).replace('|', chr(92) + '|')} |"


def about(path: Path) -> str:
    """The first paragraph of a module's docstring, in one line; empty where it has none."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


if __name__ == "__main__":
    main()
