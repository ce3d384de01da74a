"""Documents found by what they mean: loaded, chunked, embedded by a real model, asked; a worker is killed meanwhile."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
from pg_durable.dev import DATABASE, USER, WORKER, prepare
from pg_durable.embedded import EmbeddedServer
from pg_durable.embedder import Embedder

from examples.rag.corpus import Question, documents, questions

HERE = Path(__file__).resolve().parent
INSTALLER = HERE.parents[1] / "dist" / "pg_durable_ai.sql"
MODEL = "all-MiniLM-L6-v2"
SHOWN = 6  # questions of each kind whose answers are shown
WIDTH = 79
KILLED_AT = 30  # percent of the chunks
MOST_SENT = 1.1  # times the different texts
GRANTS = """
select df.grant_usage('app', include_http => true), ai.grant_usage('app'),
       df.http_allow(%s, allow_private => true, note => 'the model of the example')"""
STATUS = "select to_jsonb(s) from ai.status('docs') s"
WAYS = {
    "hybrid": "select doc_id from ai.search_vector('docs', %(vector)s::text, %(query)s, k => 1)",
    "vector": "select doc_id from ai.search_vector('docs', %(vector)s::text, k => 1)",
    "text": "select doc_id from ai.search('docs', %(query)s, k => 1)",
}

Say = Callable[[str], None]


class UnexpectedError(Exception):
    """Something is not as it should be."""


class Story:
    """The story, in the database that `dsn` leads to, with the model at `address`; `say` is told what happens."""

    def __init__(self, dsn: str, worker: "Workers", address: str, say: Say) -> None:
        self._conn = psycopg.connect(dsn, autocommit=True)
        self._workers = worker
        self._address = address
        self._embed = Embedder(f"{address}/v1/embeddings", MODEL)
        self._say = say

    def play(self, count: int) -> None:
        """From the tables to the answers; raises UnexpectedError when something is not as it should be."""
        self._load(count)
        self._work()
        self._account()
        self._ask()
        self._change()
        self._conn.close()

    def _load(self, count: int) -> None:
        """The documents, and a pipeline over them."""
        self._conn.execute((HERE / "setup.sql").read_bytes())
        rows = documents(count)
        columns = "copy documents (id, topic, lang, title, body) from stdin"
        with self._conn.cursor().copy(columns) as copy:
            for row in rows:
                copy.write_row((row.id, row.topic, row.lang, row.title, row.body))
        self._conn.execute("select set_config('example.model', %s, false)", [f"{self._address}/v1/embeddings"])
        self._conn.execute((HERE / "pipeline.sql").read_bytes())
        self._say(f"{len(rows)} documents, and a pipeline over them (examples/rag/pipeline.sql).\n")

    def _work(self) -> None:
        """Until all is embedded; a worker is killed meanwhile."""
        killed, shown = False, -1
        while (status := self._status())["coverage"] < 100 or status["backlog"]:
            percent = int(status["coverage"])
            if percent >= shown + 10:
                shown = percent
                self._say(f"  {percent:3} %  {status['embedded']} chunks embedded")
            if percent >= KILLED_AT and not killed:
                self._say("         SIGKILL to the worker. Another one starts.")
                self._workers.replace()
                killed = True
            time.sleep(0.2)
        self._say(f"  100 %  {status['embedded']} chunks embedded\n")
        if not killed:
            self._say("(All was embedded before the worker could be killed.)\n")

    def _status(self) -> dict[str, Any]:
        found: dict[str, Any] = one(self._conn, STATUS)
        return found

    def _account(self) -> None:
        """What was sent, and what it costs."""
        status, distinct = self._status(), one(self._conn, "select count(distinct content_hash) from documents_chunks")
        sent = self._sent()
        self._say(f"Coverage {status['coverage']} %, {status['tokens']} tokens, cost {status['cost']}.")
        self._say(f"{distinct} different texts; {sent - distinct} of them were embedded twice, for the kill.\n")
        expect(sent <= MOST_SENT * distinct, f"{sent} texts were sent of {distinct}")

    def _sent(self) -> int:
        """How many texts the model has embedded."""
        return int(httpx.get(f"{self._address}/healthz", timeout=60).json()["texts"])

    def _ask(self) -> None:
        """Some questions with what is found first, and how often that is the answer."""
        titles: dict[str, str] = dict(self._conn.execute("select id::text, title from documents").fetchall())
        score = dict.fromkeys(WAYS, 0)
        asked = questions()
        shown = [each for quotes in (False, True) for each in [q for q in asked if q.quotes == quotes][:SHOWN]]
        self._say("Question, and the title that hybrid search finds first; * it is the answer")
        for question in asked:
            found = self._found(question)
            for way, identity in found.items():
                score[way] += identity == str(question.document)
            if question in shown:
                right = "*" if found["hybrid"] == str(question.document) else " "
                title = titles.get(found["hybrid"] or "", "nothing")
                self._say(f"  {question.text[:46]:46} {right} {title}"[:WIDTH])
        figures = ", ".join(f"{way} {count}" for way, count in score.items())
        self._say(f"The answer is first in {len(asked)} questions: {figures}.\n")
        expect(score["hybrid"] >= score["text"], "hybrid search is worse than full text alone")

    def _found(self, question: Question) -> dict[str, str | None]:
        """The document that each way finds first."""
        given = {"query": question.text, "vector": str(self._embed(question.text))}
        return {way: one(self._conn, query, given) for way, query in WAYS.items()}

    def _change(self) -> None:
        """What is embedded again: what has changed, and nothing else."""
        for what, statement, expected in (
            ("A column that is not used changes in all rows", "update documents set touched = now()", 0),
            ("One short document changes", "update documents set body = 'It is closed.' where id = 1", 1),
            ("One document is deleted", "delete from documents where id = 2", 0),
        ):
            before = self._sent()
            self._conn.execute(statement.encode())
            self._wait_done()
            sent = self._sent() - before
            self._say(f"{what}: texts embedded: {sent}.")
            expect(sent == expected, f"expected: {expected}")
        left = one(self._conn, "select count(*) from documents_chunks where doc_id = 2")
        expect(left == 0, "chunks of a deleted document are left")

    def _wait_done(self) -> None:
        """Until the pipeline has nothing to do."""
        while (status := self._status())["backlog"] or status["coverage"] < 100:
            time.sleep(0.1)


class Workers:
    """A worker, and the one after it."""

    def __init__(self, dsn: str) -> None:
        command = [sys.executable, "-m", "pg_durable", "worker", "--log-level", "error", "--dsn", dsn]
        self._command = command
        self._process = subprocess.Popen(command)

    def replace(self) -> None:
        """Kills the worker and starts another."""
        self._process.kill()
        self._process.wait()
        self._process = subprocess.Popen(self._command)

    def stop(self) -> None:
        """Lets the worker end."""
        self._process.terminate()
        self._process.wait()


@contextmanager
def serving_model() -> Iterator[str]:
    """`pg-durable embed` on a free port; its address."""
    command = [sys.executable, "-m", "pg_durable", "embed", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the model has not started")
        try:
            yield line.split()[4].partition("/v1")[0]
        finally:
            process.terminate()


@contextmanager
def database(model: str) -> Iterator[tuple[str, Workers]]:
    """A database with the pipelines on a server of its own, and a worker."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pg-durable-")))
        home.chmod(0o755)
        server = stack.enter_context(EmbeddedServer(home / "data"))
        prepare(server)
        with psycopg.connect(server.dsn(DATABASE)) as administrator:
            administrator.execute("create extension vector")
            body = INSTALLER.read_text("utf-8").split("\n-- body\n", 1)[1].rsplit("commit;", 1)[0]
            administrator.execute(body.encode())
            administrator.execute(GRANTS, [model.removeprefix("http://")])
        workers = Workers(server.dsn(DATABASE, WORKER))
        stack.callback(workers.stop)
        yield server.dsn(DATABASE, USER), workers


def play(count: int, say: Say = print) -> None:
    """Plays the story on a server of its own."""
    with serving_model() as model, database(model) as (dsn, workers):
        say(f"A model at {model}, a worker, and a server with\npg_durable and pgvector.")
        Story(dsn, workers, model, say).play(count)


def one(conn: psycopg.Connection[Any], query: str, given: Any = None) -> Any:
    """The first column of the first row, or None."""
    row = conn.execute(query.encode(), given).fetchone()
    return row[0] if row else None


def expect(holds: bool, problem: str) -> None:
    """Raises when something is not as it should be."""
    if not holds:
        raise UnexpectedError(problem)
