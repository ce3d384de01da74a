"""What docs/how-to.md promises beyond its SQL: command lines that parse, a dump that goes on where it was taken."""

import json
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pg_durable import cli

from generator.render import ROOT
from tests.cluster import client
from tests.support import Database, wait_until
from tests.worker.process import WorkerProcess, await_end, start

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
TEXTS = [page.read_text("utf-8") for page in PAGES]
FENCE = re.compile(r"^```(?:sh|ini|dockerfile|bash)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^(?:ExecStart=)?(?:[\w./]*/)?pg-durable (.*)$", re.MULTILINE)
CONTAINER = re.compile(r"^CMD (\[.*\])$", re.MULTILINE)
BLOCKS = [block for text in TEXTS for block in FENCE.findall(text)]
LINES = [shlex.split(re.split(r" [#<>] ", line)[0]) for block in BLOCKS for line in COMMAND.findall(block)]
LINES += [
    shlex.split(line) for text in TEXTS for line in re.findall(r"^\| `pg-durable ([^`]*)` \|", text, re.MULTILINE)
]
LINES += [json.loads(line)[1:] for block in BLOCKS for line in CONTAINER.findall(block)]


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_commands_that_pages_show_are_understood(line: list[str]) -> None:
    assert cli.parser().parse_args(line)


def test_the_python_of_the_page_runs() -> None:
    code = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/how-to.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        names: dict[str, Any] = {}
        exec(code[0].replace("/tmp/flow-tests", home), names)
    assert names["worker"].returncode == 0


@pytest.fixture
def restored(db: Database) -> Iterator[Database]:
    """A database to restore into."""
    copy = Database.clone(db.server, "template0")
    yield copy
    copy.drop()


def test_a_restored_dump_goes_on_where_it_was_taken(db: Database, restored: Database) -> None:
    db.sql("create table effect (what text)")
    first = WorkerProcess(db).logged("registered")
    run = start(db, FLOW)
    next_at = db.sql("select df.schedule('nightly', '0 3 * * *', 'select 1')")
    wait_until(lambda: db.sql("select count(*) from df.waiting") == 1)
    first.kill()
    copy(db, restored)
    second = WorkerProcess(restored).logged("registered")
    try:
        restored.sql("select df.signal(%s, 'go')", run)
        assert await_end(restored, run) == "completed"
        assert restored.rows("select what from effect order by what") == [("after: kim",), ("before",)]
        assert await_end(restored, start(restored, "'select 1' & 'select 2'")) == "completed"
        assert restored.rows("select name, next_at, owner::text from df.schedules") == [("nightly", next_at, "app")]
        assert await_end(restored, restored.sql("select df.trigger_schedule('nightly')")) == "completed"
        assert restored.rows("select * from df.check()", user=None) == []
    finally:
        second.kill()


def copy(source: Database, target: Database) -> None:
    """pg_dump | psql"""
    version = int(source.admin("show server_version_num")) // 10000
    dump = subprocess.run([str(client("pg_dump", version)), source.dsn()], capture_output=True, check=True).stdout
    load = [str(client("psql", version)), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", target.dsn()]
    done = subprocess.run(load, input=dump, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


FLOW = """
  'insert into effect values (''before'') returning ''kim'' as who' |=> 'n'
  ~> df.wait_for_signal('go') ~> 'insert into effect values (''after: $n'')'"""
