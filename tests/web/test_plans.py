"""The pages beside many kept runs: nothing that they ask reads all of the big tables."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from pg_durable.web.queries import QUERIES, text_of

from benchmarks.kept import BAD, GOOD, copies
from tests.support import Database, Pump

MANY = 20_000
FILES = ("runs", "overview", "people", "schedules", "definitions", "limits", "workers")
CHANGES = ("answer", "trigger", "pause", "resume", "backfill", "start", "define", "set", "role")
VALUES: dict[str, Any] = {
    "limit": 50, "called": "bill", "owner": "app", "names": ["nightly"], "owners": ["app"], "role": None,
    "shared": False, "flow": "'select 1'", "id": None, "status": None, "label": None, "after": None, "scan": 50,
    "definition": None, "error": None, "since": None,
}  # fmt: skip
READ = """
select coalesce(sum(seq_tup_read), 0)::int from pg_stat_xact_user_tables
where schemaname = 'df_engine' and relname in ('instances', 'outcomes')"""


@pytest.fixture(scope="module")
def crowded(home: Database, work: Pump) -> Iterator[Database]:
    """Many runs have ended; some wait for people, one is scheduled, one has a definition."""
    good = [work.run(flow).id for flow in GOOD]
    bad = [work.run(flow).id for flow in BAD]
    for _ in range(3):
        work.start("'select 1' |=> 'x' ~> df.wait_for_signal('go')")
    home.sql("select df.define('bill', 'select 1'), df.schedule('nightly', '0 3 * * *', '@bill')")
    home.sql("select df.trigger_schedule('nightly'), df.set_limit('api', 1)")
    work.until(lambda: home.sql("select count(*) from df.waiting where kind = 'signal'") == 3)
    with home.connect() as conn, conn.transaction():
        copies(conn, MANY, good, bad, ("app", "other"))
    home.admin("vacuum analyze")
    yield home


def asked() -> list[str]:
    return sorted(name for name in QUERIES if name.split(".")[0] in FILES and name.split(".")[1] not in CHANGES)


@pytest.mark.parametrize("user", ["app", "watcher"])
def test_no_page_reads_all_of_a_big_table(crowded: Database, user: str) -> None:
    ids = [row[0] for row in crowded.rows("select instance_id from df.waiting where kind = 'signal'", user=None)]
    assert len(asked()) > 15
    found = {name: read(crowded, text_of(name, VALUES | {"ids": ids}), user) for name in asked()}
    found["changes"] = read(crowded, "select * from df.changes((select mark from df.changes()))", user)
    assert {name: rows for name, rows in found.items() if rows} == {}
    picture = crowded.sql("select id from df.instances where status = 'completed' limit 1")
    assert read(crowded, f"select df.svg('{picture}'), df.explain('{picture}')", user) == 0


def read(db: Database, text: str, user: str) -> int:
    """How many rows of the big tables a statement reads without an index."""
    with psycopg.connect(db.dsn(user)) as conn:
        conn.execute(text.encode())
        row = conn.execute(READ).fetchone()
    assert row is not None
    return int(row[0])


def test_throughput_counts_what_the_reader_may_see(crowded: Database) -> None:
    query = (
        "select sum(completed)::int, sum(failed)::int, sum(cancelled)::int "
        "from df.recent_throughput('31 days', '1 day')"
    )
    counts = "select count(*) filter (where status = %s)::int from df.instances where finished_at is not null"
    for user in ("app", "other", "watcher"):
        [(completed, failed, cancelled)] = crowded.rows(query, user=user)
        assert completed == crowded.sql(counts, "completed", user=user)
        assert failed == crowded.sql(counts, "failed", user=user)
        assert cancelled == 0
    assert crowded.sql("select count(*) from df.recent_throughput('1 hour')") <= 61


@pytest.mark.parametrize("arguments", ["'0 s'", "'-1 h'", "'400 days'", "'1 h', '0 s'", "'1 h', '2 days'", "null"])
def test_throughput_refuses_what_makes_no_sense(crowded: Database, arguments: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="back must be"):
        crowded.rows(f"select from df.recent_throughput({arguments})")
