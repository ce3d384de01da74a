"""Cells come, get buckets, and go; runs and the keys they have stay where they are."""

from threading import Thread

import psycopg
import pytest
from psycopg import errors

from tests.cluster import Cluster
from tests.fleet.conftest import Fleet, made
from tests.support import Database, Server, wait_until

SHARES = "select array_agg(buckets order by cell) from fleet.cell_status"


@pytest.fixture
def third(own: Fleet, site: tuple[Cluster, Server]) -> Fleet:
    """A fleet of two cells, with a third that has no bucket yet."""
    own.add("c3", Database.clone(site[1], "cell"), site[0])
    return own


def test_a_new_cell_gets_its_share_and_no_bucket_moves_between_the_others(third: Fleet) -> None:
    before = dict(third.rows("select bucket, cell from fleet.buckets"))
    assert third.sql(SHARES) == [512, 512, 0]
    assert third.owner("select fleet.rebalance()") == 341
    assert third.sql(SHARES) == [342, 341, 341]
    after = dict(third.rows("select bucket, cell from fleet.buckets"))
    assert {cell for bucket, cell in after.items() if cell != before[bucket]} == {"c3"}
    assert third.owner("select fleet.rebalance()") == 0


def test_runs_stay_and_new_keys_go_to_the_new_cell(third: Fleet) -> None:
    old = third.start("order 1")
    cell, bucket = third.sql("select fleet.cell_of('order 1')"), int(old[:3], 16)
    assert third.owner("select fleet.move_buckets('c3', array[%s]::int[])", bucket) == 1
    assert third.sql("select fleet.cell_of('order 1')") == "c3"
    new = third.start("{order 1} again")
    assert int(new[:3], 16) == bucket + 1024 and third.cell_of(new) is third.cells["c3"]
    assert third.cell_of(old) is third.cells[cell]
    assert "it is over" in third.sql("select fleet.cancel(%s, 'it is over')", old)
    assert third.rows("select id, status from fleet.instances order by created_at") == [
        (old, "cancelled"), (new, "pending")
    ]  # fmt: skip


def test_a_key_that_a_kept_run_has_stays_in_its_cell(third: Fleet) -> None:
    old = third.start("order 1")
    third.owner("select fleet.move_buckets('c3', array[fleet.bucket('order 1')])")
    assert third.start("order 1") == old
    third.sql("select fleet.cancel(%s)", old)
    again = third.start("order 1", on_conflict="restart")
    assert again != old and third.cell_of(again) is third.cell_of(old)
    assert third.cells["c3"].sql("select count(*) from df.instances") == 0


def test_a_key_whose_cell_is_down_is_not_started_elsewhere(third: Fleet) -> None:
    old = third.start("order 1")
    cell = third.cell_of(old)
    third.owner("select fleet.move_buckets('c3', array[fleet.bucket('order 1')])")
    third.front.admin(f"alter database {cell.name} allow_connections false")
    third.front.admin("select pg_terminate_backend(pid, 60000) from pg_stat_activity where datname = %s", cell.name)
    with pytest.raises(psycopg.OperationalError):
        third.start("order 1")
    third.front.admin(f"alter database {cell.name} allow_connections true")
    assert third.start("order 1") == old


def test_equal_ids_of_two_cells_are_different_runs_after_a_move(third: Fleet) -> None:
    old = third.start("{7} 1")
    third.owner("select fleet.move_buckets('c3', array[fleet.bucket('7')])")
    new = third.start("{7} 2")
    assert old[4:] == new[4:], "cells number their runs alike"
    third.sql("select fleet.cancel(%s)", new)
    assert [third.sql("select fleet.status(%s)", run) for run in (old, new)] == ["pending", "cancelled"]


def test_a_bucket_comes_back_to_its_old_place(third: Fleet) -> None:
    first = third.start("{7} 1")
    home = third.sql("select fleet.cell_of('7')")
    for cell in ("c3", home, "c3", home):
        third.owner("select fleet.move_buckets(%s, array[fleet.bucket('7')])", cell)
    assert third.start("{7} 2")[:3] == first[:3]


def test_a_drained_cell_gets_no_new_runs_and_its_old_ones_go_on(own: Fleet) -> None:
    old = own.start(own.key_for("c1"))
    assert own.owner("select fleet.drain('c1')") == 512
    assert {own.sql("select fleet.cell_of(%s)", str(n)) for n in range(50)} == {"c2"}
    assert own.sql("select fleet.status(%s)", old) == "pending"
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="is drained"):
        own.owner("select fleet.move_buckets('c1', array[1])")
    own.owner("select fleet.undrain('c1')")
    assert own.owner("select fleet.rebalance()") == 512
    assert own.sql(SHARES) == [512, 512]


def test_the_last_cell_cannot_be_drained(own: Fleet) -> None:
    own.owner("select fleet.drain('c1')")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="no cell is active"):
        own.owner("select fleet.drain('c2')")
    assert own.rows("select cell, state from fleet.cell_status") == [("c1", "drained"), ("c2", "active")]


def test_a_cell_is_removed_once_it_is_drained(own: Fleet) -> None:
    old = own.start(own.key_for("c1"))
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="is not drained"):
        own.owner("select fleet.remove_cell('c1')")
    own.owner("select fleet.drain('c1')")
    own.owner("select fleet.remove_cell('c1')")
    with pytest.raises(errors.UndefinedObject, match="is in no cell of this fleet"):
        own.sql("select fleet.status(%s)", old)
    assert own.rows("select cell from fleet.cell_status") == [("c2",)]


def test_a_bucket_has_places_in_four_cells(third: Fleet, site: tuple[Cluster, Server]) -> None:
    cells = ["c3", "c4", "c5"]
    for name in cells[1:]:
        third.add(name, third.cells["c3"], site[0])
    for name in cells:
        third.owner("select fleet.move_buckets(%s, array[0])", name)
    assert third.rows("select place, is_current from fleet.places where place & 1023 = 0 order by 1") == [
        (0, False), (1024, False), (2048, False), (3072, True)
    ]  # fmt: skip
    other = third.sql("select name from fleet.cells where number = 2")
    third.owner("select fleet.drain('c4')")
    with pytest.raises(errors.ProgramLimitExceeded, match="bucket 0 has been in 4 cells") as raised:
        third.owner("select fleet.move_buckets(%s, array[0])", other)
    assert "fleet.remove_cell" in str(raised.value.diag.message_hint)
    third.owner("select fleet.remove_cell('c4')")
    assert third.owner("select fleet.move_buckets(%s, array[0])", other) == 1
    for name in cells[1:]:
        third.cells.pop(name)


def test_buckets_move_only_when_no_start_is_under_way(third: Fleet) -> None:
    bucket = third.sql("select fleet.bucket('order 1')")
    with third.front.connect("app", autocommit=False) as starting:
        run = starting.execute("select fleet.start('order 1', 'select 1')").fetchone()
        mover = Thread(target=third.owner, args=("select fleet.move_buckets('c3', array[%s]::int[])", bucket))
        mover.start()
        waits = "select count(*) from pg_locks where relation = 'fleet.places'::regclass and not granted"
        wait_until(lambda: third.front.admin(waits) == 1, 60)
        starting.commit()
        mover.join()
    assert run is not None and third.start("order 1") == run[0]


def test_what_cannot_be_is_refused(own: Fleet) -> None:
    own.front.admin('create server "no time-out" foreign data wrapper postgres_fdw')
    for call, state, words, hint in (
        ("add_cell('c3', 'nowhere')", "42704", "there is no server", "CREATE SERVER nowhere FOREIGN DATA WRAPPER"),
        ("add_cell('c3', 'no time-out')", "55000", "has no connect_timeout", 'ALTER SERVER "no time-out" OPTIONS'),
        ("add_cell('c1', 'to c1')", "42710", 'there is a cell "c1" already', ""),
        ("drain('c9')", "42704", 'there is no cell "c9"', "fleet.cells"),
        ("move_buckets('c1', '{1024}')", "22023", "buckets are numbers from 0 to 1023", "fleet.bucket"),
    ):
        with pytest.raises(psycopg.Error, match=words) as raised:
            own.owner(f"select fleet.{call}")
        assert raised.value.sqlstate == state
        assert hint in (raised.value.diag.message_hint or "")


def test_without_cells_nothing_can_be_shared(site: tuple[Cluster, Server]) -> None:
    with made(site) as bare, pytest.raises(errors.ObjectNotInPrerequisiteState, match="no cell is active"):
        bare.owner("select fleet.rebalance()")
