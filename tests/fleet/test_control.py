"""What is done with a run goes to the cell that its id names."""

import pytest
from psycopg import errors

from tests.fleet.conftest import Fleet, end
from tests.support import Pump


def envelope(fleet: Fleet, flow: str) -> str:
    """A graph, made where pg_durable is: the database of the fleet has none."""
    return str(next(iter(fleet.cells.values())).sql(f"select {flow}"))


def test_a_signal_reaches_its_run(fleet: Fleet, pumps: dict[str, Pump]) -> None:
    run = fleet.start("waits", envelope(fleet, "df.wait_for_signal('go')"))
    assert fleet.sql("select fleet.status(%s)", run) == "pending"
    assert fleet.sql("select fleet.result(%s)", run) is None
    assert fleet.sql("select fleet.signal(%s, 'go', '{\"by\": \"kim\"}')", run) == "OK"
    assert end(fleet, pumps, run) == "completed"
    assert "kim" in fleet.sql("select fleet.result(%s)", run)


def test_a_run_is_cancelled_with_a_reason_and_resumed(fleet: Fleet, pumps: dict[str, Pump]) -> None:
    run = fleet.start("cancelled", "select $input.n::int as n", input='{"n": 1}')
    assert "changed my mind" in fleet.sql("select fleet.cancel(%s, 'changed my mind')", run)
    assert fleet.sql("select fleet.status(%s)", run) == "cancelled"
    assert fleet.sql("select fleet.resume(%s, '{\"n\": 2}')", run) == "OK"
    assert end(fleet, pumps, run) == "completed"
    assert '"n": 2' in fleet.sql("select fleet.result(%s)", run)


@pytest.mark.parametrize("id", ["a1b2c3d4", "2f7a1b2c3d4", "2F7-a1b2c3d4", "2f7-a1b2c3d", "' or true"])
def test_what_is_no_id_is_refused(fleet: Fleet, id: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="invalid id") as raised:
        fleet.sql("select fleet.status(%s)", id)
    assert "2f7-a1b2c3d4" in str(raised.value.diag.message_hint)


def test_a_place_without_a_cell_is_refused(fleet: Fleet) -> None:
    with pytest.raises(errors.UndefinedObject, match="is in no cell"):
        fleet.sql("select fleet.status('fff-a1b2c3d4')")


def test_what_is_unknown_in_the_cell_is_as_there(fleet: Fleet) -> None:
    assert fleet.sql("select fleet.status('2f7-a1b2c3d4')") is None
    with pytest.raises(errors.InsufficientPrivilege, match="not found or access denied"):
        fleet.sql("select fleet.signal('2f7-a1b2c3d4', 'go')")
