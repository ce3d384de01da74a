"""How the pages look: for screen readers, in the dark, on a telephone; and the pictures of the documentation."""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe_selenium_python
import pytest

from generator.render import ROOT
from tests.support import Database, Pump
from tests.web import sample
from tests.web.browser import Browser

AXE = "axe-core@4.14.1"
RULES = "['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']"
PICTURES = {"runs": "runs", "run": "run", "failed": "run-failed"}
PAGES = ("runs", "runs-failed", "runs-none", "run", "run-failed", "run-waiting", "cancel", "bulk", "missing", "login")


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The newest axe that npm has; without npm the one that comes with its Python package, which is older."""
    folder = tmp_path_factory.mktemp("axe")
    if shutil.which("npm"):
        command = ["npm", "pack", "--silent", "--pack-destination", str(folder), AXE]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            with tarfile.open(next(folder.glob("*.tgz"))) as archive:
                file = archive.extractfile("package/axe.min.js")
                assert file
                return file.read().decode()
    return (Path(axe_selenium_python.__file__).parent / "node_modules/axe-core/axe.min.js").read_text()


@pytest.fixture(scope="module")
def pages(home: Database, work: Pump) -> dict[str, str]:
    """Pages with something on them, by name."""
    found: dict[str, str] = sample.fill(home, work)["pages"]
    return found | {"runs-none": "/runs?label=none"}


@pytest.fixture
def everywhere(app: Browser) -> Iterator[Browser]:
    """The browser, which is as it was afterwards."""
    yield app
    app.scheme("light")
    app.size(1280)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_complain_of(everywhere: Browser, pages: dict[str, str], axe: str, scheme: str) -> None:
    everywhere.scheme(scheme)
    found = {}
    for name in PAGES:
        if name == "login":
            everywhere.forget()
        everywhere.open(pages.get(name, "/login"))
        unfold(everywhere)
        everywhere.script(axe)
        found[name] = [*violations(everywhere), *everywhere.complaints]
    assert not {name: faults for name, faults in found.items() if faults}


def violations(browser: Browser) -> Iterator[str]:
    """What axe has against the page."""
    found: list[dict[str, Any]] = browser.driver.execute_async_script(
        f"const done = arguments[0]; axe.run({{runOnly: {RULES}}}).then((found) => done(found.violations));"
    )
    for rule in found:
        for node in rule["nodes"]:
            yield f"{rule['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"


def unfold(browser: Browser) -> None:
    """Opens what is folded."""
    browser.script("for (const d of document.querySelectorAll('details')) d.open = true")


@pytest.mark.parametrize("width", [320, 2560])
def test_pages_are_as_wide_as_the_window(everywhere: Browser, pages: dict[str, str], width: int) -> None:
    everywhere.size(width)
    for name, path in pages.items():
        everywhere.open(path)
        unfold(everywhere)
        assert everywhere.script("return document.documentElement.scrollWidth") <= width, name


def test_the_dark_is_dark(everywhere: Browser) -> None:
    colours = []
    for scheme in ("light", "dark"):
        everywhere.scheme(scheme)
        everywhere.open("/runs")
        colours.append(everywhere.script("return getComputedStyle(document.documentElement).backgroundColor"))
    assert colours == ["rgb(255, 255, 255)", "rgb(15, 18, 21)"]


def test_pictures_for_the_documentation_can_be_taken(
    everywhere: Browser, pages: dict[str, str], tmp_path: Path
) -> None:
    """PG_DURABLE_PICTURES=1 puts them into docs/pictures."""
    folder = ROOT / "docs" / "pictures" if os.environ.get("PG_DURABLE_PICTURES") else tmp_path
    for name, page in PICTURES.items():
        everywhere.size(1100, 760)
        everywhere.open(pages[page])
        everywhere.wait(lambda: everywhere.script("return document.documentElement.dataset.live") == "yes")
        everywhere.picture(folder / f"{name}.png")
        assert (folder / f"{name}.png").stat().st_size < 200_000
