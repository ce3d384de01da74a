"""Lists over all cells."""

from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests import state
from tests.fleet.conftest import STRANGE, Fleet, end
from tests.support import Pump

PAGE = "select id, cursor from fleet.list_instances(limit_count => %s, label_filter => %s, after_cursor => %s)"


@pytest.fixture
def unreachable(fleet: Fleet) -> Any:
    """One cell lets nobody in."""
    cell = fleet.cells[STRANGE]
    allow = f'alter database "{cell.name}" allow_connections '
    fleet.front.admin(f"{allow} false")
    fleet.front.admin("select pg_terminate_backend(pid, 60000) from pg_stat_activity where datname = %s", cell.name)
    yield
    fleet.front.admin(f"{allow} true")


def test_pages_lead_through_the_runs_of_all_cells_newest_first(fleet: Fleet) -> None:
    started = [fleet.start(f"page {n}", label="page") for n in range(11)]
    found, cursor = [], None
    while page := fleet.rows(PAGE, 3, "page", cursor):
        found += [id for id, _ in page]
        cursor = page[-1][1]
    assert found == started[::-1]


def test_runs_of_one_moment_are_all_in_the_pages(fleet: Fleet) -> None:
    flow = "select fleet.start(n::text || ' at once', 'select 1', 'at once') from generate_series(1, 9) n"
    started = {id for (id,) in fleet.rows(flow)}
    for cell in fleet.cells.values():
        cell.admin(state.CREATED_AT, "2026-01-01 00:00:00Z", "at once")
    found, cursor = [], None
    while page := fleet.rows(PAGE, 2, "at once", cursor):
        found += [id for id, _ in page]
        cursor = page[-1][1]
    assert sorted(found) == sorted(started)


def test_a_run_in_a_list_is_as_in_its_cell_and_has_the_id_of_its_start(fleet: Fleet) -> None:
    run = fleet.start("listed", label="listed")
    row = fleet.rows("select id, status, submitted_by, key, priority from fleet.instances where label = 'listed'")
    assert row == [(run, "pending", "app", "listed", 0)]


def test_a_run_that_was_started_in_the_cell_has_an_id_that_leads_there(fleet: Fleet) -> None:
    cell = fleet.cells["c1"]
    own = cell.sql("select df.start('select 1', 'of the cell')")
    [(id,)] = fleet.rows("select id from fleet.instances where label = 'of the cell'")
    assert id.endswith(own) and fleet.sql("select fleet.status(%s)", id) == "pending"


def test_lists_can_be_narrowed_by_status(fleet: Fleet) -> None:
    run = fleet.start("stopped", label="stopped")
    fleet.sql("select fleet.cancel(%s)", run)
    assert fleet.rows("select id from fleet.list_instances('cancelled', label_filter => 'stopped')") == [(run,)]
    assert fleet.rows("select id from fleet.list_instances('failed', label_filter => 'stopped')") == []


def test_failed_steps_of_all_cells(fleet: Fleet, pumps: dict[str, Pump]) -> None:
    runs = [fleet.start(fleet.key_for(cell, "fails"), "select 1 / 0", label="fails") for cell in fleet.cells]
    assert [end(fleet, pumps, run) for run in runs] == ["failed", "failed"]
    found, cursor = [], None
    query = "select cell, id, error, cursor from fleet.list_failed_steps(1, %s)"
    while page := fleet.rows(query, cursor):
        found += [row[:3] for row in page]
        cursor = page[-1][3]
    assert found == [
        (cell, run, "division by zero (SQLSTATE 22012)")
        for cell, run in zip(reversed(fleet.cells), reversed(runs), strict=True)
    ]


def test_the_queue_of_all_cells(fleet: Fleet) -> None:
    for cell in fleet.cells:
        fleet.start(fleet.key_for(cell, "queued"))
    rows = fleet.rows("select cell, role, lane from fleet.queue where ready > 0 order by 1")
    assert rows == sorted((cell, "app", "sql") for cell in fleet.cells)


def test_the_cells_say_how_they_are(fleet: Fleet, pumps: dict[str, Pump]) -> None:
    rows = fleet.rows("select cell, state, buckets, reachable, role, version, workers, error from fleet.cell_status")
    assert [row[:5] for row in rows] == [(cell, "active", 512, True, "app") for cell in fleet.cells]
    assert {row[5] for row in rows} == {fleet.sql("select split_part(fleet.version(), ' ', 1)")}
    assert [row[6:] for row in rows] == [(1, None), (1, None)]


@pytest.mark.usefixtures("unreachable")
def test_a_cell_that_is_down_is_left_out_of_lists_with_a_warning(fleet: Fleet) -> None:
    run = fleet.start(fleet.key_for("c1", "up"), label="up")
    heard: list[str] = []
    with fleet.front.connect("app") as conn:
        conn.add_notice_handler(lambda said: heard.append(str(said.message_primary)))
        assert conn.execute("select id from fleet.instances where label = 'up'").fetchall() == [(run,)]
    assert len(heard) == 1 and heard[0].startswith(f'cell "{STRANGE}" is left out: ')


@pytest.mark.usefixtures("unreachable")
def test_a_cell_that_is_down_has_its_row_with_the_error(fleet: Fleet) -> None:
    rows = fleet.rows("select cell, reachable, sqlstate, error from fleet.cell_status")
    assert rows[0] == ("c1", True, None, None)
    assert rows[1][:3] == (STRANGE, False, "08001") and "not currently accepting connections" in rows[1][3]


@pytest.mark.usefixtures("unreachable")
def test_only_starts_for_the_cell_that_is_down_fail(fleet: Fleet) -> None:
    assert fleet.start(fleet.key_for("c1", "works"))
    with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
        fleet.start(fleet.key_for(STRANGE, "fails"))


def test_pages_have_a_size(fleet: Fleet) -> None:
    for size in (0, 1001, None):
        with pytest.raises(errors.InvalidParameterValue, match="limit_count must be from 1 to 1000"):
            fleet.rows("select from fleet.list_instances(limit_count => %s)", size)


@pytest.mark.parametrize("cursor", ["", "x", "2026-01-01T00:00:00.000000Z,1,a1b2c3d4'; drop", "2026-13-01"])
def test_what_is_no_cursor_is_refused(fleet: Fleet, cursor: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="invalid after_cursor"):
        fleet.rows("select from fleet.list_instances(after_cursor => %s)", cursor)
