"""The documentation as a site: every page is in the navigation, and llms.txt has a line on each."""

import pytest

from generator import site

ENTRIES = site.navigation()


def test_every_page_is_in_the_navigation_of_mkdocs_yml_once() -> None:
    assert sorted(entry.page for entry in ENTRIES) == sorted(site.pages().values())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.page)
def test_llms_txt_has_a_line_on_each(entry: site.Entry) -> None:
    what = site.description(entry.page)
    assert len(what) > 15
    assert f"]({entry.page}): {what}\n" in site.llms_txt()


def test_prose_is_put_into_the_dialect_of_the_site() -> None:
    assert site.dialect("**df.sql** (`a`)\\\nThe node") == "**df.sql** (`a`)  \nThe node"
    assert site.dialect("| `a \\| b` | c |") == "| `a | b` | c |"
