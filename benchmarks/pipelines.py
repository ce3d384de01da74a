"""`python -m benchmarks.pipelines`: a load of short documents through a pipeline with the real model.

Beside it the model's own rate in the same run, before and after: such texts in batches of the same size over as many
connections. Also what the load does to other flows, and to the memory of worker and model.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from pg_durable.embedded import EmbeddedServer
from pg_durable.embedder import Embedder
from rich.console import Console

from benchmarks.bed import Bed
from benchmarks.figures import Figure, at_least, table
from benchmarks.processes import cpu_seconds, resident_megabytes
from examples.rag.corpus import documents
from generator.render import ROOT, artifacts

NAME = "all-MiniLM-L6-v2"
BATCH, CONNECTIONS = 64, 2
SAMPLE = 2_000  # texts the model is asked alone, each time
MODEL = "select ai.set_model('small', url => %s, model => %s, dimensions => 384, batch_size => %s, concurrency => %s)"
PIPELINE = """
select ai.create_pipeline('load', source => ai.table_source('documents'),
                          steps => array[ai.chunk('body', method => 'none'), ai.embed('small', input => 'chunk_text')],
                          trigger => 'on_change', sink => ai.table_sink('documents_chunks'))"""


def main() -> int:
    """Measures once, and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipelines", description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    parser.add_argument("--version", type=int, choices=(16, 18), default=18, help="of PostgreSQL")
    parser.add_argument("--json", type=Path, default=ROOT / ".bench" / "pipelines.json", help="where to write figures")
    arguments = parser.parse_args()
    data = ROOT / ".bench" / f"pipelines-{arguments.version}"
    with EmbeddedServer(data, arguments.version) as server, serving(arguments.threads) as (model, address):
        bed = Bed(server.dsn(), server.bin / "pgbench", "pg_durable_pipelines")
        prepare(bed, address)
        figures = measure(bed, model.pid, address, short_texts(arguments.documents))
    Console(width=100).print(table(f"a pipeline over {arguments.documents} short documents", figures))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps([vars(figure) for figure in figures], indent=2) + "\n")
    return 0


@contextmanager
def serving(threads: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The model in a process of its own, and its address."""
    command = [sys.executable, "-m", "pg_durable", "embed", "--port", "0", "--threads", str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process, process.stdout.readline().split()[4].rstrip(".")
        finally:
            process.terminate()


def prepare(bed: Bed, address: str) -> None:
    """The database, the role `bench`, its model."""
    bed.create(artifacts()["dist/pg_durable.sql"])
    installer = artifacts()["dist/pg_durable_ai.sql"].split("\n-- body\n", 1)[1].rsplit("commit;", 1)[0]
    with bed.connect() as conn:
        conn.execute("create extension vector")
        with conn.transaction():
            conn.execute(installer.encode())
        conn.execute("select df.grant_usage('bench', include_http => true), ai.grant_usage('bench')")
        conn.execute("grant create on schema public to bench")
        host = address.removeprefix("http://").partition("/")[0]
        conn.execute("select df.http_allow(%s, allow_private => true)", [host])
    with bed.connect("bench") as conn:
        conn.execute("create table documents (id int primary key, body text not null)")
        conn.execute(MODEL, [address, NAME, BATCH, CONNECTIONS])


def measure(bed: Bed, model: int, address: str, texts: list[str]) -> list[Figure]:
    """The model alone, the load, the model alone again."""
    sample = texts[:SAMPLE]
    before = alone(address, sample)
    with bed.worker() as worker:
        quiet = latency(bed, threading.Event(), 5.0)
        memory = resident_megabytes(worker.pid), resident_megabytes(model)
        loaded = load(bed, texts)
        stop = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            others = pool.submit(latency, bed, stop, 1e9)
            began, cpu = time.perf_counter(), cpu_seconds(model)
            bed.await_true(
                "select count(*) = %s from documents_chunks where embedding is not null", len(texts), poll=0.2
            )
            took = time.perf_counter() - began + loaded
            share = (cpu_seconds(model) - cpu) / took
            stop.set()
            busy = others.result()
        grown = resident_megabytes(worker.pid), resident_megabytes(model)
    after = alone(address, sample)
    own, rate = (before + after) / 2, len(texts) / took
    return [
        Figure("texts a second, the model alone", own, raw={"before": before, "after": after}),
        Figure("texts a second, the pipeline", rate),
        at_least("the pipeline beside the model alone", rate / own, 0.9),
        Figure("seconds of the load", took),
        Figure("processors that the model used", share),
        Figure("another run of two steps, ms, median before", quiet * 1000),
        Figure("another run of two steps, ms, median meanwhile", busy * 1000),
        Figure("memory of the worker, MB", grown[0], raw={"before": memory[0]}),
        Figure("memory of the model, MB", grown[1], raw={"before": memory[1]}),
    ]


def alone(address: str, texts: Sequence[str]) -> float:
    """Texts a second that the model does for clients that do nothing else."""
    embed = Embedder(address, NAME, timeout=600)
    batches = [texts[at : at + BATCH] for at in range(0, len(texts), BATCH)]
    began = time.perf_counter()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(embed.all, batches))
    return len(texts) / (time.perf_counter() - began)


def load(bed: Bed, texts: list[str]) -> float:
    """Makes the pipeline and copies all documents in one statement; the seconds until that has committed."""
    with bed.connect("bench") as conn:
        conn.execute(PIPELINE.encode())
        began = time.perf_counter()
        with conn.cursor().copy("copy documents (id, body) from stdin") as copy:
            for row in enumerate(texts, 1):
                copy.write_row(row)
        return time.perf_counter() - began


def latency(bed: Bed, stop: threading.Event, seconds: float) -> float:
    """The median of how long runs of two steps take, one after the other, until told to stop."""
    found: list[float] = []
    deadline = time.monotonic() + seconds
    with bed.connect("bench") as conn:
        while not stop.is_set() and time.monotonic() < deadline:
            began = time.perf_counter()
            run = one(conn, "select df.start('select 1' ~> 'select 2')")
            while one(conn, "select status from df.instances where id = %s", run) not in ("completed", "failed"):
                time.sleep(0.002)
            found.append(time.perf_counter() - began)
            stop.wait(0.25)
    return statistics.median(found)


def one(conn: psycopg.Connection[Any], query: str, *args: Any) -> Any:
    """The first column of the first row."""
    row = conn.execute(query.encode(), args).fetchone()
    return row[0] if row else None


def short_texts(count: int) -> list[str]:
    """So many short texts, all different."""
    sentences = [part for document in documents(200) for part in document.body.replace("\n\n", " ").split(". ")]
    return [f"{sentences[number % len(sentences)][:120]} (no. {number})" for number in range(count)]


if __name__ == "__main__":
    sys.exit(main())
