"""ARCHITECTURE.md names files and functions: all of them are there, and no room of the house is left out."""

import re
from itertools import chain

import pytest

from generator import contents
from generator.render import ROOT, body

PAGE = (ROOT / "ARCHITECTURE.md").read_text()


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:templates|generator|worker|tests|dist)/[\w./]+)`", PAGE)))
)
def test_paths_are_there(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("part", sorted(set(re.findall(r"\| `((?:session|engine)/\w+)` \|", PAGE))))
def test_parts_are_parts(part: str) -> None:
    assert part in contents.PARTS


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:df_engine\.)?[a-z]+_[a-z_]+)`", PAGE))))
def test_functions_and_tables_are_there(name: str) -> None:
    bare = name.removeprefix("df_engine.")
    defined = rf"create (or replace )?(function|procedure|table|view) df_engine\.{bare}\b"
    assert re.search(defined, body())


def test_every_room_is_on_the_tour() -> None:
    parts = chain(contents.PARTS, *contents.ADDITIONS.values())
    rooms = {part.split("/")[0] for part in parts} - {"install"}
    named = set(re.findall(r"templates/(\w+)/", PAGE)) | set(re.findall(r"`(\w+)/\w+`", PAGE))
    assert rooms <= named


def test_every_part_of_the_worker_is_on_the_tour() -> None:
    parts = {path.parent.name for path in (ROOT / "worker/pg_durable").glob("*/__init__.py")}
    assert parts <= set(re.findall(r"worker/pg_durable/(\w+)/", PAGE))
