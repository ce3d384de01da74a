"""docs/reliability.md: each line of its tables names tests, and these exist."""

import ast
import re

import pytest

from generator.render import ROOT

TEXT = (ROOT / "docs/reliability.md").read_text("utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINES = [line for line in TEXT.splitlines() if re.match(r"\| (?!---|.* Tested by \|$)", line)]


@pytest.mark.parametrize("line", [line for line in LINES if not line.startswith("|---")], ids=lambda line: line[2:40])
def test_every_line_names_tests_that_exist(line: str) -> None:
    named = NAMED.findall(line)
    assert named, "no test is named"
    for path, function in named:
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{path}::{function}"
