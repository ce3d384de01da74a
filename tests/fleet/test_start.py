"""Starts go to the cell of their key."""

from datetime import UTC, datetime
from hashlib import sha256

import psycopg
import pytest
from psycopg import errors

from tests.cluster import Cluster
from tests.fleet.conftest import Fleet, end, made
from tests.support import Pump, Server


def bucket(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:2]) % 1024


def test_the_bucket_of_a_key_is_its_hash_or_that_of_what_braces_enclose(fleet: Fleet) -> None:
    hashed = {
        "order 17": "order 17", "schön": "schön", "": "", "{7} order 1": "7", "a{7}b{8}": "7", "{} {7}": "{} {7}",
        "{7": "{7", "7}": "7}", "}{7}": "7",
    }  # fmt: skip
    assert {key: fleet.sql("select fleet.bucket(%s)", key) for key in hashed} == {
        key: bucket(what) for key, what in hashed.items()
    }


def test_an_id_begins_with_the_bucket_and_ends_with_the_id_in_the_cell(fleet: Fleet) -> None:
    run = fleet.start("order 16")
    cell = fleet.cells[fleet.sql("select fleet.cell_of('order 16')")]
    assert int(run[:3], 16) == bucket("order 16")
    assert cell.rows("select key, submitted_by::text from df.instances where id = %s", run[4:]) == [("order 16", "app")]


def counts(fleet: Fleet, label: str) -> list[int]:
    query = "select count(*) from df.instances where label = %s"
    return [cell.sql(query, label) for cell in fleet.cells.values()]


def test_starts_are_spread_over_the_cells(fleet: Fleet) -> None:
    fleet.sql("select count(fleet.start(n::text, 'select 1', 'spread')) from generate_series(1, 60) n")
    assert sum(counts(fleet, "spread")) == 60 and min(counts(fleet, "spread")) > 10


def test_a_repetition_finds_the_run(fleet: Fleet) -> None:
    assert fleet.start("order 17") == fleet.start("order 17")
    with pytest.raises(psycopg.Error, match='has the key "order 17"') as raised:
        fleet.start("order 17", on_conflict="error")
    assert raised.value.sqlstate == "DF409"


def test_without_a_key_each_start_is_a_run(fleet: Fleet) -> None:
    assert fleet.start(None) != fleet.start(None)


def test_arguments_reach_the_cell(fleet: Fleet, pumps: dict[str, Pump]) -> None:
    options = {"label": "billing", "input": '{"amount": 5}', "priority": 3, "start_at": "2000-01-01"}
    run = fleet.start("order 18", "select $input.amount::int as a", **options)
    assert fleet.cell_of(run).rows(
        "select label, priority, input, start_at from df.instances where label = 'billing'"
    ) == [("billing", 3, {"amount": 5}, datetime(2000, 1, 1, tzinfo=UTC))]
    assert end(fleet, pumps, run) == "completed"
    assert '"a": 5' in fleet.sql("select fleet.result(%s)", run)


def test_a_trace_goes_on_in_the_cell(fleet: Fleet) -> None:
    trace = f"00-{'1' * 32}-{'2' * 16}-01"
    with fleet.front.connect("app", autocommit=False) as conn:
        conn.execute("select set_config('df.traceparent', %s, true)", [trace])
        conn.execute("select fleet.start('traced', 'select 1', 'traced')")
    query = "select traceparent from df.instances where label = 'traced'"
    assert {cell.sql(query) for cell in fleet.cells.values()} == {None, trace}


def test_a_start_rolls_back_with_its_caller(fleet: Fleet) -> None:
    with fleet.front.connect("app", autocommit=False) as conn:
        conn.execute("select fleet.start('order 19', 'select 1', 'rolled back')")
        conn.rollback()
    assert counts(fleet, "rolled back") == [0, 0]


def test_an_error_of_the_cell_is_that_of_the_caller(fleet: Fleet) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="invalid priority 101"):
        fleet.start("order 20", priority=101)


def test_before_cells_have_buckets_a_start_says_what_to_do(site: tuple[Cluster, Server]) -> None:
    with made(site) as bare:
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="no cell has bucket") as raised:
            bare.start("order 17")
        assert "fleet.rebalance" in str(raised.value.diag.message_hint)


@pytest.mark.parametrize("query", [
    "select fleet.start('a', 'select 1')", "select fleet.status('000-a1b2c3d4')", "table fleet.instances",
])  # fmt: skip
def test_in_a_read_only_transaction_nothing_is_asked(fleet: Fleet, query: str) -> None:
    with (
        pytest.raises(errors.ReadOnlySqlTransaction, match="cannot be asked"),
        fleet.front.connect("app", autocommit=False) as conn,
    ):
        conn.read_only = True
        conn.execute(query.encode())
