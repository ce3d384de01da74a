"""df.list_instances: order, filters, the cap, and the cursor."""

from typing import Any

import psycopg
import pytest

from tests.state import ANALYZE_RUNS, KEPT_RUNS
from tests.support import Database, Pump, wait_until

LIST = "select * from df.list_instances(%s, %s, %s, %s)"


def seed(db: Database, count: int) -> None:
    """Runs 00000001 ..., three of them at each moment, every second one labelled and every fifth failed."""
    db.admin(
        KEPT_RUNS.format(
            """select lpad(to_hex(g), 8, '0'), case when mod(g, 2) = 0 then 'even' end,
                      case when mod(g, 5) = 0 then 'failed' else 'completed' end,
                      timestamptz '2026-01-01 00:00:00.000001+00' - (g / 3) * interval '1 minute', now()
               from generate_series(1, %s) g"""
        ),
        count,
    )


def pages(db: Database, status: str | None, limit: int, label: str | None) -> list[list[str]]:
    """The ids of all pages, by following the cursor."""
    found: list[list[str]] = []
    cursor = None
    while not found or cursor:
        rows = db.rows(LIST, status, limit, label, cursor, user=None)
        found.append([row[0] for row in rows])
        cursors = {row[8] for row in rows}
        assert len(cursors) <= 1
        cursor = cursors.pop() if cursors else None
    return found


@pytest.mark.parametrize(("status", "label"), [(None, None), ("failed", None), (None, "even"), ("failed", "even")])
def test_pages_hold_every_run_once_and_in_order(db: Database, status: str | None, label: str | None) -> None:
    seed(db, 30)
    ordered = "select id from df.instances where status = coalesce(%s, status) and (%s::text is null or label = %s) " \
              "order by created_at desc, id"  # fmt: skip
    wanted = [row[0] for row in db.rows(ordered, status, label, label, user=None)]
    for limit in (1, 2, 3, 4, 7, 15, 29, 30, 31):
        found = pages(db, status, limit, label)
        assert [run for page in found for run in page] == wanted
        assert {len(page) for page in found[:-1]} <= {limit}
        assert len(found) == -(-len(wanted) // limit)


def test_the_cursor_is_encoded_as_documented(db: Database) -> None:
    seed(db, 2)
    db.admin("set timezone = 'Asia/Kolkata'")
    cursor = db.rows(LIST, None, 1, None, None, user=None)[0][8]
    assert bytes.fromhex(cursor).decode() == "v1|2026-01-01T00:00:00.000001+00|00000001"


@pytest.mark.parametrize("moment", ["2026-01-01T00:00:00.000001+00", "2026-01-01T05:30:00.000001+05:30"])
@pytest.mark.parametrize("write", [str.upper, str.lower])
def test_any_offset_and_letter_case_is_understood(db: Database, moment: str, write: Any) -> None:
    seed(db, 3)
    cursor = write(f"v1|{moment}|00000001".encode().hex())
    assert [row[0] for row in db.rows(LIST, None, 9, None, cursor, user=None)] == ["00000002", "00000003"]


GOOD = "v1|2026-01-01T00:00:00.000001+00|00000001"


@pytest.mark.parametrize(
    "cursor",
    ["", "0", "zz", "76 31", GOOD.encode().hex()[:-1], GOOD.encode().hex() + "\n", "ff" * 20, "00" * 20,
     *(text.encode().hex() for text in (
         GOOD.replace("v1", "v2"), GOOD.replace("|00000001", "|"), GOOD.replace("|00000001", ""),
         GOOD.replace("2026-01-01T00:00:00.000001+00", ""), GOOD.replace("T", " "), GOOD.replace(".000001", ""),
         GOOD.replace("+00", ""), GOOD.replace("+00", "Z"), GOOD.replace("-01-", "-13-"),
         GOOD.replace("2026", "infinity"),
         GOOD + "|x", GOOD + "0" * 512, "v1"))],
)  # fmt: skip
def test_anything_else_is_an_invalid_cursor(db: Database, cursor: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="invalid after_cursor"):
        db.rows(LIST, None, 9, None, cursor, user=None)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_raises(db: Database, limit: int) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        db.admin("select df.list_instances(null, %s)", limit)


@pytest.mark.parametrize("call", ["df.list_instances(null, null)", "df.list_instances(null, null, null)"])
def test_a_limit_that_is_null_raises(db: Database, call: str) -> None:
    with pytest.raises(psycopg.errors.NullValueNotAllowed):
        db.admin(f"select * from {call}")


def test_the_cap_is_the_setting_and_a_session_may_lower_it(db: Database) -> None:
    def cap(session: str | None) -> int:
        db.admin("select set_config('pg_durable.list_instances_max_limit', %s, false)", session or "")
        with pytest.raises(psycopg.errors.ProgramLimitExceeded) as raised:
            db.admin("select df.list_instances(null, 2000000)")
        number = int(str(raised.value).split("list_instances_max_limit (", 1)[1].split(")")[0])
        assert db.admin("select count(*) from df.list_instances(null, %s)", number) == 0
        return number

    assert [cap(text) for text in (None, "1001", "many", "0", "-5", "9" * 30)] == [1000] * 6
    assert [cap(text) for text in ("7", " 07 ")] == [7, 7]
    db.admin("select df.set_setting('list_instances_max_limit', '12')")
    assert [cap(text) for text in (None, "100", "3")] == [12, 12, 3]


def test_the_output_of_a_run_tells_how_it_ended(pump: Pump) -> None:
    pump.db.admin("select df.set_setting('loop_min_interval', '0')")
    completed = pump.run("'create table made (i int)'")
    failed = pump.run("'select * from nowhere'")
    cancelled = pump.start("'select 1'")
    pump.db.sql("select df.cancel(%s, 'enough')", cancelled.id)
    running = pump.start("@> ('insert into fx values (1) returning (select count(*) = 4 from fx)' |=> 'fifth' ~> "
                         "('select $fifth' ?> df.sleep(60) !> 'select 1'))", "odd")  # fmt: skip
    pump.until(lambda: pump.db.sql("select count(*) from fx") == 5)
    name = "pg_durable::orchestration::execute-function-graph"
    assert sorted(pump.db.rows("select * from df.list_instances()", user=None)) == sorted([
        (completed.id, None, name, "completed", 1, '{"rows": [], "row_count": 0}'),
        (failed.id, None, name, "failed", 1, failed.error),
        (cancelled.id, None, name, "cancelled", 1, "canceled: enough"),
        (running.id, "odd", name, "running", 5, None),
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("filters", "index"),
    [("null, null", "instances_created_idx"), ("'pending', null", "instances_status_created_idx"),
     ("null, 'rare'", "instances_label_created_idx")],
)  # fmt: skip
def test_each_filter_has_its_index(db: Database, filters: str, index: str) -> None:
    seed(db, 3000)
    db.admin(ANALYZE_RUNS)
    used = "select idx_scan from pg_stat_user_indexes where indexrelname = %s and idx_scan > 0"
    for after in ("null", f"'{GOOD.encode().hex()}'"):
        db.admin("select pg_stat_reset()")
        with db.connect() as conn:
            conn.execute(f"select from df.list_instances({filters.replace(',', ', 10,')}, {after})".encode())
        wait_until(lambda: db.rows(used, index, user=None), what=f"{index} is used")


def test_only_visible_runs_are_listed(db: Database) -> None:
    for user in ("app", "other"):
        run = db.sql("select df.start('select 1')", user=user)
        assert db.rows("select instance_id from df.list_instances()", user=user) == [(run,)]
