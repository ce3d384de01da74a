"""What others wrote does not reach the terminal, or the log, of whoever looks at it as anything but text."""

import ast
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pg_durable.metrics.metrics import Metrics
from pg_durable.printing import printable, printable_json

from generator.render import ROOT
from tests.support import Database
from tests.terminal import command, on_a_terminal
from tests.worker.conftest import spawn, worker  # noqa: F401
from tests.worker.process import WorkerProcess, await_end

# A window's title, a cleared screen in eight bits, a bell, a line like one of ours, text that runs backwards.
NASTY = (
    "\x1b]0;owned\x07\x1b[2J\x9b2J\x08\x7f\r\nInstance: forged"
    "\x0b\x0c\x85\u2028\u202egnp.exe\u2066\u061c\ufeff\U000e0041"
)
STEERS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)
RAISES = "do $$ begin raise exception '{0}' using detail = '{0}', hint = '{0}'; end $$ /* {0} */"


@pytest.fixture
def nasty(db: Database, worker: WorkerProcess) -> dict[str, str]:  # noqa: F811
    """Runs with such texts wherever a user may write any: one waits, one has failed, one has returned them."""
    waits = db.sql("select df.start(df.wait_for_signal(%s), %s)", NASTY, NASTY)
    fails = db.sql("select df.start(%s, %s)", RAISES.format(NASTY), NASTY)
    returns = db.sql("select df.start(%s, %s)", f"select '{NASTY}' as a, 1 as \"{NASTY[:20]}\"", NASTY)
    db.sql("select df.signal(%s, %s, %s)", waits, f"x{NASTY}", json.dumps(NASTY))
    assert [await_end(db, run) for run in (fails, returns)] == ["failed", "completed"]
    return {"waits": waits, "fails": fails, "returns": returns}


def harmless(text: str) -> bool:
    return STEERS.findall(text) == []


def printed(db: Database, *arguments: str) -> str:
    """Both streams of a command in a pipe."""
    done = command(*arguments, "--dsn", db.dsn("app"))
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_lists_and_runs_are_text(db: Database, nasty: dict[str, str], form: tuple[str, ...]) -> None:
    db.admin("grant execute on function df.check() to app")
    commands = [("list",), ("top", "--once"), ("check",), *(("show", run) for run in nasty.values())]
    commands += [("watch", nasty["fails"]), ("watch", nasty["returns"])]
    for line in commands:
        text = printed(db, *line, *form)
        assert text and harmless(text), line
        if form:
            json.loads(text)


def test_acts_are_text(db: Database, nasty: dict[str, str]) -> None:
    run = nasty["waits"]
    for line in (("signal", run, NASTY, NASTY), ("cancel", run, "--reason", NASTY), ("show", run), ("explain", run)):
        text = printed(db, *line)
        assert text and harmless(text), line


def test_drawings_are_text(db: Database, nasty: dict[str, str]) -> None:
    for run in nasty.values():
        text = printed(db, "explain", run)
        assert harmless(text)
        assert len([line for line in text.split("\n") if line.startswith("Instance:")]) == 1


@pytest.fixture
def file() -> Iterator[Path]:
    """A flow, of a file whose name is such a text."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"x{NASTY.replace('/', '')}.flow"
        path.write_text(f"'select ''{NASTY}'' as a'", newline="")
        yield path


def test_flows_of_files_are_text(db: Database, nasty: dict[str, str], file: Path) -> None:
    ended = printed(db, "start", str(file), "--label", NASTY, "--wait")
    assert harmless(ended)
    assert json.loads(ended.split("\n")[1])["rows"] == [{"a": NASTY}]
    for line in (("explain", str(file)), ("fmt", str(file), "--check"), ("explain", NASTY), ("start", f"{file}x")):
        assert harmless(printed(db, *line)), line
    file.write_text(f"'{RAISES.format(NASTY).replace(chr(39), chr(39) * 2)}'", newline="")
    assert harmless(printed(db, "start", str(file), "--wait"))


@pytest.mark.parametrize("width", ["160", "50"])
@pytest.mark.parametrize("line", ["list", "show", "watch"])
def test_nothing_but_our_own_colours_reaches_a_terminal(
    db: Database, nasty: dict[str, str], line: str, width: str
) -> None:
    arguments = (line,) if line == "list" else (line, nasty["fails"])
    with on_a_terminal(*arguments, "--dsn", db.dsn("app"), COLUMNS=width) as terminal:
        terminal.to_its_end()
        assert "x1b]0;" in terminal.shown
        assert harmless(terminal.shown.replace("\r", ""))  # with which a line is drawn again


def test_the_log_of_a_worker_is_text(nasty: dict[str, str], worker: WorkerProcess) -> None:  # noqa: F811
    worker.logged("run failed")
    assert harmless(worker.log)
    assert not any(line.startswith("Instance: forged") for line in worker.log.split("\n"))


def test_labels_of_metrics_are_quoted() -> None:
    metrics = Metrics()
    metrics.add("calls_total", end=f'a"b\\c{NASTY}')
    shown = metrics.render()
    assert harmless(shown)
    assert 'end="a\\"b\\\\c' in shown
    assert not any(line.startswith("Instance: forged") for line in shown.split("\n"))


def test_what_is_printed_can_be_read() -> None:
    assert printable("Größe 漢字 😀\tx\ny") == "Größe 漢字 😀\tx\ny"
    assert printable(NASTY[:10]) == "\\x1b]0;owned\\x07"
    text = json.dumps(NASTY, ensure_ascii=False)
    assert json.loads(printable_json(text)) == NASTY
    assert harmless(printable_json(text))


def test_there_is_one_way_to_print() -> None:
    """Other modules write through printing, through the log, or as a Text of rich that was made printable."""
    package = ROOT / "worker" / "pg_durable"
    found = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and re.search(r"(^print|std(out|err)\.write)$", ast.unparse(node.func)):
                found.append(path.relative_to(package).as_posix())
    assert sorted(set(found)) == ["printing.py"]
