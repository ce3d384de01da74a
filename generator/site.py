"""`make docs`: writes the pages of the site to .site, has mkdocs build site/ from them, and adds llms.txt.

A page of the site is a Markdown file of the project. Its links are those that hold in the project; a file that is no
page, and a folder, gets a page of its own below source/ where some page links to it.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

import yaml

from generator.render import ROOT

CONFIGURATION = ROOT / "mkdocs.yml"
STAGE = ROOT / ".site"
SITE = ROOT / "site"
OUTSIDE_DOCS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "ARCHITECTURE.md": "architecture.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "tests/README.md": "tests.md",
    ".agents/skills/pg-durable-sql/SKILL.md": "skill.md",
}
PICTURES = (".svg", ".png", ".jpg")  # in docs/
ALONE = ("index.md", "tutorial.md")  # in their sections
DESCRIPTIONS = {
    "security.md": "what is promised to whom, how what is shared is bounded, what is not promised, how to report",
    "changelog.md": "what each release has changed",
}
STYLE = """\
.md-grid { max-width: 82rem; }
.md-typeset h1, .md-typeset h2 { color: inherit; font-weight: 500; }
.md-typeset pre > code { font-size: .8em; }
.md-typeset table:not([class]) { display: table; width: 100%; }
.md-typeset table:not([class]) td, .md-typeset table:not([class]) th { min-width: 6rem; padding: .6em .8em; }
.md-typeset td code, .md-typeset th code { overflow-wrap: anywhere; }
"""
LANGUAGES = {
    ".sql": "sql", ".py": "python", ".j2": "sql", ".yml": "yaml", ".yaml": "yaml", ".json": "json", ".service": "ini"
}  # fmt: skip

FENCED = re.compile(r"^(```.*?^```)$", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"^<!--.*?-->\n", re.DOTALL | re.MULTILINE)
FRONT = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
HARD_BREAK = re.compile(r"\\$", re.MULTILINE)
TABLE_ROW = re.compile(r"^\|.*$", re.MULTILINE)
CODE_SPAN = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\((?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")
DESCRIBED = re.compile(r"^- \[[^\]]*\]\((?P<path>[^)]*)\): (?P<what>.+)$", re.MULTILINE)
FOREIGN = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=\"?(https?:)?//[^>]*>")


class SiteError(Exception):
    """A page or link that the site cannot have; the message says which."""


@dataclass(frozen=True)
class Entry:
    """A page in the navigation."""

    section: str
    title: str
    page: str


def main() -> int:
    """Builds all of it; 1 when a link or a page is missing."""
    try:
        stage()
    except SiteError as why:
        sys.stderr.write(f"{why}\n")
        return 1
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean", "--quiet"]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    if failed := subprocess.run(command, cwd=ROOT, env=quiet, check=False).returncode:
        return failed
    add_texts()
    foreign = sorted(loaded_from_elsewhere())
    sys.stderr.writelines(f"{line}\n" for line in foreign)
    return int(bool(foreign))


def pages() -> dict[str, str]:
    """The page of each Markdown file of the project that has one."""
    docs = {f"docs/{path.name}": path.name for path in sorted((ROOT / "docs").glob("*.md"))}
    return docs | OUTSIDE_DOCS


def stage() -> None:
    """Writes .site anew."""
    shutil.rmtree(STAGE, ignore_errors=True)
    STAGE.mkdir()
    known = pages()
    linked: set[str] = set()
    for file, page in known.items():
        (STAGE / page).write_text(staged(file, page, known, linked), "utf-8")
    for path in sorted(linked):
        write_source(path)
    for picture in (ROOT / "docs").rglob("*"):
        if picture.suffix in PICTURES:
            copy = STAGE / picture.relative_to(ROOT / "docs")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, copy)
    (STAGE / "site.css").write_text(STYLE)


def staged(file: str, page: str, known: dict[str, str], linked: set[str]) -> str:
    """A page's text as the site has it; what is to be shown as source is added to `linked`."""
    text = FRONT.sub("", COMMENT.sub("", (ROOT / file).read_text("utf-8")))
    if file == "README.md":
        text = text.split("\n## More\n")[0] + "\n"

    def elsewhere(match: re.Match[str]) -> str:
        target = normpath(str(PurePosixPath(file).parent / match["target"]))
        if not (ROOT / target).exists():
            raise SiteError(f"{file}: there is no {target}")
        picture = PurePosixPath(target).suffix in PICTURES
        to = known.get(target) or (target.removeprefix("docs/") if picture else source_page(target))
        if to.startswith("source/"):
            linked.add(target)
        return f"]({relpath(to, PurePosixPath(page).parent)}{match['anchor'] or ''})"

    parts = FENCED.split(text)
    parts[::2] = (LINK.sub(elsewhere, dialect(part)) for part in parts[::2])
    alone = "---\nhide: [navigation]\n---\n" if page in ALONE else ""
    return alone + "".join(parts)


def dialect(text: str) -> str:
    """Prose as Python-Markdown reads it: a line break is two spaces; a bar in code has no backslash in a table."""

    def row(match: re.Match[str]) -> str:
        return CODE_SPAN.sub(lambda code: code[0].replace("\\|", "|"), match[0])

    return TABLE_ROW.sub(row, HARD_BREAK.sub("  ", text))


def source_page(path: str) -> str:
    """Where a file or folder of the project is shown."""
    return f"source/{path}.md"


def write_source(path: str) -> None:
    """The page that shows a file, or lists a folder and shows what is in it."""
    target = STAGE / source_page(path)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    head = f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n"
    if (ROOT / path).is_dir():
        files = tracked(path)
        to = [relpath(source_page(file), PurePosixPath(source_page(path)).parent) for file in files]
        body = "".join(f"- [{file}]({page})\n" for file, page in zip(files, to, strict=True))
        for file in files:
            write_source(file)
    else:
        language = LANGUAGES.get(PurePosixPath(path).suffix, "text")
        body = f"`````{language}\n{(ROOT / path).read_text('utf-8')}`````\n"
    target.write_text(head + body, "utf-8")


def tracked(folder: str) -> list[str]:
    """The files of a folder that belong to the project."""
    files = (path for path in sorted((ROOT / folder).rglob("*")) if path.is_file())
    return [path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts]


def navigation() -> list[Entry]:
    """The pages in their order."""
    return list(chain.from_iterable(entries(item, "") for item in yaml.safe_load(CONFIGURATION.read_text())["nav"]))


def entries(item: Any, section: str) -> Iterator[Entry]:
    """The pages of one item of the navigation: a page, a titled page, or a section."""
    if isinstance(item, str):
        yield Entry(section, title(item), item)
        return
    for name, content in item.items():
        if isinstance(content, str):
            yield Entry(section, name, content)
        else:
            for inner in content:
                yield from entries(inner, name)


def file_of(page: str) -> Path:
    """The Markdown file behind a page."""
    return ROOT / next(file for file, made in pages().items() if made == page)


def title(page: str) -> str:
    """The first heading of a page."""
    match = re.search(r"^# (.+)$", file_of(page).read_text("utf-8"), re.MULTILINE)
    if match is None:
        raise SiteError(f"{page} has no heading")
    return match[1]


def description(page: str) -> str:
    """One line on a page: what is written above, what the README says of it, or its first sentence."""
    said = {match["path"]: match["what"] for match in DESCRIBED.finditer((ROOT / "README.md").read_text("utf-8"))}
    file = file_of(page)
    what = (
        DESCRIPTIONS.get(page) or said.get(file.relative_to(ROOT).as_posix()) or first_sentence(file.read_text("utf-8"))
    )
    if not what:
        raise SiteError(f"{page} has neither a line in the README nor a first sentence")
    return what


def first_sentence(text: str) -> str:
    """The first sentence of prose behind the title."""
    text = FENCED.sub("", COMMENT.sub("", FRONT.sub("", text)))
    for paragraph in text.split("\n\n"):
        line = " ".join(paragraph.split())
        if line and not line.startswith(("#", "|", "-", "*", "<", "[!")):
            return re.split(r"(?<=[.:])\s", line)[0]
    return ""


def llms_txt() -> str:
    """The navigation for language models: https://llmstxt.org."""
    lines = ["# pg_durable", "", f"> {description('index.md')}"]
    section = None
    for entry in navigation():
        if entry.section != section:
            section = entry.section
            lines += ["", f"## {section or 'Overview'}", ""] if section else ["", "## Overview", ""]
        lines.append(f"- [{entry.title}]({entry.page}): {description(entry.page)}")
    return "\n".join(lines) + "\n"


def add_texts() -> None:
    """llms.txt, and the Markdown of each page beside it."""
    (SITE / "llms.txt").write_text(llms_txt(), "utf-8")
    for page in STAGE.glob("*.md"):
        shutil.copy(page, SITE)


def loaded_from_elsewhere() -> Iterator[str]:
    """What a page of the site would fetch from another server in order to be read."""
    for path in SITE.rglob("*.html"):
        for match in FOREIGN.finditer(path.read_text("utf-8")):
            yield f"{path.relative_to(SITE)} loads {match[0]}"


if __name__ == "__main__":
    sys.exit(main())
