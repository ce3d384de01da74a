"""Every link of the documentation leads to a file that is there, and to a heading of it; docs/questions.md answers."""

import re

import pytest

from generator.render import ROOT
from tests.docs.pages import Page

PAGES = [
    Page(path)
    for path in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), ROOT / "tests/README.md",
                 *sorted(ROOT.glob(".agents/skills/*/SKILL.md")))
]  # fmt: skip
QUESTION = re.compile(r"^\| (?!Question|-)(?P<asked>[^|]+) \| (?P<answer>.+) \|$", re.MULTILINE)
ASKED = QUESTION.findall((ROOT / "docs/questions.md").read_text("utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Page) -> None:
    missing = []
    for file, anchor in page.links:
        target = page.path.parent / file if file else page.path
        found = target.exists() and (not anchor or anchor in Page(target).anchors)
        if not found:
            missing.append(f"{file}#{anchor}")
    assert missing == []


def test_there_are_fifty_questions() -> None:
    assert len({asked for asked, _ in ASKED}) == len(ASKED) >= 50


@pytest.mark.parametrize(("asked", "answer"), ASKED, ids=[asked for asked, _ in ASKED])
def test_each_question_has_a_link_to_the_heading_that_answers_it(asked: str, answer: str) -> None:
    assert re.search(r"\]\([\w-]+\.md#[\w-]+\)", answer)


def test_a_link_to_a_heading_that_is_not_there_is_found() -> None:
    anchors = Page(ROOT / "docs/scenarios.md").anchors
    assert "etl-pipeline-examplesetl" in anchors
    assert "etl" not in anchors
