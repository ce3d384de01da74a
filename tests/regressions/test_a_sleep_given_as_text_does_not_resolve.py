"""Every way of writing the duration of df.sleep resolves, in SQL, as a parameter and in a flow."""

import json

import psycopg
import pytest

from tests.support import Database

DURATIONS = [
    ("'5 minutes'", "300"),
    ("'1.5 hours'", "5400"),
    ("'0.5'", "0.5"),
    ("' 7 '", "7"),
    ("'.5'", "0.5"),
    ("'1e2'", "100"),
    ("'PT2M'", "120"),
    ("'5 minutes'::text", "300"),
    ("'90 s'::varchar", "90"),
    ("duration => '1 month'", "2592000"),
    ("seconds => '3'", "3"),
    ("5", "5"),
    ("5::smallint", "5"),
    ("5::bigint", "5"),
    ("0.5", "0.5"),
    ("0.5::float8", "0.5"),
    ("5::float8", "5"),
    ("1e-7::float8", "0.0000001"),
    ("interval '1 minute'", "60"),
    ("now() + interval '1 hour' - now()", "3600"),
]
UNUSABLE = ["'soon'", "''", "'-1 s'", "'-1'", "-1::float8", "'NaN'::float8", "'Infinity'::float8", "'101 years'",
            "'NaN'"]  # fmt: skip


@pytest.mark.parametrize(("written", "seconds"), DURATIONS)
def test_a_duration_as_it_is_written(shared: Database, written: str, seconds: str) -> None:
    assert json.loads(shared.sql(f"select df.sleep({written})")) == {"node_type": "SLEEP", "query": seconds}


@pytest.mark.parametrize(("given", "seconds"), [("5 minutes", "300"), ("0.25", "0.25"), (5, "5"), (0.5, "0.5")])
def test_a_duration_as_a_parameter(shared: Database, given: object, seconds: str) -> None:
    assert json.loads(shared.sql("select df.sleep(%s)", given))["query"] == seconds


def test_a_duration_as_a_parameter_without_a_type(shared: Database) -> None:
    shared.sql("prepare untyped as select df.sleep($1)")
    assert json.loads(shared.sql("execute untyped('5 minutes')"))["query"] == "300"


@pytest.mark.parametrize(("flow", "seconds"), [
    ("sleep('5 minutes')", "300"), ("sleep('0.5')", "0.5"), ("sleep(5)", "5"), ("sleep(0.50)", "0.5"),
    ("sleep(duration => '2 s')", "2"), ("sleep(seconds => 2)", "2"),
])  # fmt: skip
def test_a_duration_in_a_flow(shared: Database, flow: str, seconds: str) -> None:
    assert json.loads(shared.sql("select df.flow(%s)", flow))["query"] == seconds


@pytest.mark.parametrize("written", UNUSABLE)
def test_what_is_no_duration_is_refused_when_the_graph_is_built(shared: Database, written: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        shared.sql(f"select df.sleep({written})")


def test_what_is_no_duration_is_named_with_what_to_write(shared: Database) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match='"soon" is no duration') as caught:
        shared.sql("select df.sleep('soon')")
    assert "5 minutes" in str(caught.value.diag.message_hint)
