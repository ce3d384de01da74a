"""docs/demo.svg, the film in the README: what a browser that runs no scripts and loads nothing can show, small."""

import re
import runpy
from xml.etree import ElementTree

from generator.render import ROOT

PICTURE = ROOT / "docs" / "demo.svg"
TEXT = PICTURE.read_text("utf-8")
SVG = "{http://www.w3.org/2000/svg}"
Film = runpy.run_path(str(ROOT / "examples" / "demo" / "film.py"))["Film"]


def shown(svg: str) -> list[str]:
    """The lines that are seen when nothing moves."""
    hidden = set(re.findall(r"\.(t\d+)\{visibility:hidden;", svg))
    lines = ElementTree.fromstring(svg).iter(f"{SVG}text")
    return ["".join(line.itertext()) for line in lines if line.get("class") not in hidden]


def test_the_picture_is_small_and_asks_for_nothing() -> None:
    tags = {element.tag.removeprefix(SVG) for element in ElementTree.fromstring(TEXT).iter()}
    assert tags == {"svg", "title", "style", "rect", "circle", "text", "tspan"}
    assert not re.search(r"url\(|@import|href", TEXT)
    assert len(TEXT.encode()) < 100_000


def test_the_picture_knows_light_dark_and_stillness() -> None:
    assert "prefers-color-scheme:dark" in TEXT
    assert "prefers-reduced-motion:reduce" in TEXT


def test_its_end_is_that_of_the_demo() -> None:
    end = shown(TEXT)
    assert "Status:   ✓ completed" in end
    assert not [line for line in end if "⏳" in line or "○" in line]
    assert sum("SIGKILL" in line for line in end) == 2
    assert any(re.fullmatch(r"attempts at a batch: 8, and the killed one +9  ✓", line) for line in end)


def test_a_line_is_seen_from_its_time_until_the_next() -> None:
    film = Film(10, 2, "title")
    film.put(0, 0, 0, ("first", ""))
    film.put(100, 0, 0, ("second", "good"))
    film.put(100, 0, 0, ("second", "good"))
    film.cut(2)
    svg = film.svg(hold=2)
    assert shown(svg) == ["title", "second"]
    assert "@keyframes t0{0%{visibility:visible}50%{visibility:hidden}}" in svg
    assert "@keyframes t1{0%{visibility:hidden}50%{visibility:visible}}" in svg
    assert svg.count("second") == 1
