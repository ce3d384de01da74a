"""Inferred statuses: what the states of nodes mean, given their ancestors, their generations and the run's end."""

from typing import Any

from psycopg.types.json import Jsonb

from tests.oracle.graphs import Node, quoted, race, sql
from tests.state import FOLDED, GRAPH
from tests.support import Database, Pump, Run

Inferred = dict[str, tuple[str, str | None]]


def names(db: Database, run: str) -> dict[Any, str]:
    """Node ids -> what tests call a node: its text, or else its type."""
    rows = db.rows("select id, node_type, query from df.nodes where instance_id = %s", run, user=None)
    return {id: query if query and query[0] != "{" else kind for id, kind, query in rows}


def shown(run: Run) -> Inferred:
    """What df.instance_nodes infers: name -> (status, name of the ancestor it comes from)."""
    known = names(run.db, run.id)
    rows = run.db.rows(
        "select node_id, inferred_status, inferred_status_from_ancestor_id from df.instance_nodes(%s)", run.id
    )
    return {known[node]: (status, known.get(ancestor)) for node, status, ancestor in rows}


def infer(
    db: Database, flow: str, signs: dict[str, tuple[str, list[int]]], generation: int = 1, status: str = "running"
) -> Inferred:
    """What is inferred of a run of the flow whose nodes have ended ('c', 'f'), are open ('r', 'w') or queued ('q')."""
    run = db.sql(f"select df.start({flow})")
    known = {number: name for number, name, _ in db.rows(GRAPH, run, user=None)}
    numbers = {name: number for number, name in known.items()}
    facts = [[numbers[name], state, generations] for name, (state, generations) in signs.items()]
    rows = db.rows(FOLDED, Jsonb(facts), generation, status, run, user=None)
    return {known[node]: (inferred, known.get(ancestor)) for node, inferred, ancestor in rows}


def test_a_completed_sequence_is_what_it_is(pump: Pump) -> None:
    run = pump.run("'select 1' ~> 'select 2'")
    assert shown(run) == {name: ("completed", None) for name in ("THEN", "select 1", "select 2")}


def test_the_branch_not_taken_is_skipped(pump: Pump) -> None:
    run = pump.run("'select true' ?> 'select 1' !> 'select 2'")
    assert shown(run)["select 2"] == ("skipped", "IF")


def test_an_if_that_has_nothing_else_to_do_is_completed(pump: Pump) -> None:
    run = pump.run("'select false' ?> 'select 1' ~> 'select 2'")
    assert shown(run) == {
        "THEN": ("completed", None), "IF": ("completed", None), "select false": ("completed", None),
        "select 1": ("skipped", "IF"), "select 2": ("completed", None),
    }  # fmt: skip
    value = run.db.sql("select result from df.nodes where instance_id = %s and node_type = 'IF'", run.id)
    assert value is None


def test_a_failed_node_stays_failed_and_the_rest_of_its_sequence_is_skipped(pump: Pump) -> None:
    run = pump.run("('select 1/0' ~> 'select 2' |=> 'b') & 'select 3'")
    assert shown(run) == {
        "JOIN": ("failed", None), "THEN": ("failed", None), "select 1/0": ("failed", None),
        "select 2": ("skipped", "THEN"), "select 3": ("completed", None),
    }  # fmt: skip


def test_the_loser_of_a_race_is_skipped(pump: Pump) -> None:
    run = pump.start("(df.wait_for_signal('go') | (df.sleep(30) ~> 'never')) ~> 'after'")
    pump.until(lambda: pump.db.sql("select count(*) from df.waiting") == 2)
    pump.db.sql("select df.signal(%s, 'go')", run.id)
    pump.tick()
    rows = pump.db.rows("select node_type, query, inferred_status from df.instance_nodes(%s)", run.id)
    inferred = shown(run)
    assert {name: inferred[name] for name in ("30", "never")} == dict.fromkeys(("30", "never"), ("skipped", "RACE"))
    assert inferred["after"] == ("pending", None)
    assert sorted(status for kind, _, status in rows if kind == "THEN") == ["running", "skipped"]


def test_nothing_is_pending_in_a_cancelled_run(pump: Pump) -> None:
    run = pump.start("'select 1' ~> df.sleep(60) ~> 'select 2'")
    pump.until(lambda: pump.db.sql("select count(*) from df.waiting") == 1)
    pump.db.sql("select df.cancel(%s)", run.id)
    assert shown(run) == {
        "THEN": ("skipped", None), "select 1": ("completed", None), "60": ("skipped", None),
        "select 2": ("skipped", None),
    }  # fmt: skip


ITERATING = "'first' ~> df.loop('two' & 'three', 'more')"
SECOND_ENDED = {
    "first": ("c", [1]), "LOOP": ("r", [1, 3]), "JOIN": ("c", [1, 2]),
    "two": ("c", [1, 2, 1]), "three": ("c", [1, 2, 1]), "more": ("c", [1, 2]),
}  # fmt: skip


def test_an_iterating_loop_makes_its_body_pending_again(db: Database) -> None:
    again = ("pending", "LOOP")
    assert infer(db, ITERATING, SECOND_ENDED) == {
        "THEN": ("running", None), "first": ("completed", None), "LOOP": ("running", None),
        "JOIN": again, "two": again, "three": again, "more": again,
    }  # fmt: skip


def test_a_queued_thread_says_that_a_loop_iterates(db: Database) -> None:
    signs = {"LOOP": ("r", [1, 1]), "body": ("c", [1, 1])}
    assert infer(db, "'first' ~> df.loop('body', 'more')", signs)["body"] == ("completed", None)
    again = signs | {"more": ("q", [1, 2])}
    assert infer(db, "'first' ~> df.loop('body', 'more')", again)["body"] == ("pending", "LOOP")


def test_nodes_of_the_new_iteration_are_not_superseded(db: Database) -> None:
    inferred = infer(db, ITERATING, SECOND_ENDED | {"JOIN": ("r", [1, 3]), "two": ("c", [1, 3, 1])})
    assert (inferred["two"], inferred["three"]) == (("completed", None), ("pending", "JOIN"))


def test_a_completed_construct_of_the_new_iteration_decides_over_older_outcomes(db: Database) -> None:
    signs = {"LOOP": ("r", [2]), "test": ("c", [2]), "yes": ("c", [2]), "no": ("c", [1])}
    assert infer(db, "df.loop('test' ?> 'yes' !> 'no')", signs, 2)["no"] == ("skipped", "IF")


def test_the_generation_of_the_run_counts(db: Database) -> None:
    signs = {"LOOP": ("r", [1]), "body": ("c", [1])}
    assert infer(db, "df.loop('body')", signs, 2)["body"] == ("pending", "LOOP")


def test_of_stamped_ancestors_the_highest_generation_counts_and_then_the_nearest(db: Database) -> None:
    """The outer loop is in its seventh turn, the inner one in its second."""
    flow = "df.loop(df.if('test', df.loop('x' & 'y'), 'z'))"
    known = {"test": ("c", [7]), "x": ("c", [7, 1, 1])}
    run = db.sql(f"select df.start({flow})")
    graph = db.rows(GRAPH, run, user=None)
    loops = sorted(number for number, name, _ in graph if name == "LOOP")
    numbers = {name: number for number, name, _ in graph}
    facts = [[numbers[name], state, at] for name, (state, at) in known.items()]
    facts += [[loops[0], "r", [7]], [loops[1], "r", [7, 2]], [numbers["JOIN"], "r", [7, 2]]]
    rows = {node: rest for node, *rest in db.rows(FOLDED, Jsonb(facts), 7, "running", run, user=None)}
    assert rows[numbers["x"]] == ["pending", numbers["IF"]]


def test_unrelated_scopes_do_not_exclude_each_other(db: Database) -> None:
    signs = {"JOIN": ("r", [1]), "x": ("c", [1, 9]), "y": ("c", [1, 1])}
    assert infer(db, "df.loop('x', 'a') & df.loop('y', 'b')", signs)["y"] == ("completed", None)


def test_a_step_that_a_session_executes_is_running_and_so_is_what_waits_for_it(pump: Pump) -> None:
    run = pump.start("'select 1' ~> df.loop('select 2', 'select pg_cancel_backend(pg_backend_pid())')")
    assert pump.work().startswith("interrupted:")
    assert shown(run)["select pg_cancel_backend(pg_backend_pid())"] == ("pending", None)
    (node,) = [id for id, name in names(pump.db, run.id).items() if "cancel" in name]
    with pump.db.connect("app", application_name=f"pg_durable:{run.id}:{node}"):
        assert shown(run) == {
            "THEN": ("running", None), "select 1": ("completed", None), "LOOP": ("running", None),
            "select 2": ("completed", None), "select pg_cancel_backend(pg_backend_pid())": ("running", None),
        }  # fmt: skip


def test_a_session_of_another_role_is_not_believed(pump: Pump) -> None:
    run = pump.start("'select 1'")
    (node,) = names(pump.db, run.id)
    with pump.db.connect("other", application_name=f"pg_durable:{run.id}:{node}"):
        assert shown(run) == {"select 1": ("pending", None)}
    with pump.db.connect("app", application_name=f"pg_durable:{run.id}:{node}"):
        assert shown(run) == {"select 1": ("running", None)}


def tree(depth: int) -> Node:
    """A race of races, so deep."""
    return race(tree(depth - 1), tree(depth - 1)) if depth else sql("select 1")


def test_thousands_of_nodes_are_not_compared_with_each_other(db: Database) -> None:
    run = db.sql(f"select df.start({quoted(tree(12))})")
    facts = [[node, "c", [2] + [1] * levels] for node, _, levels in db.rows(GRAPH, run, user=None)]
    db.admin("set statement_timeout = '2min'")  # comparing all pairs takes longer
    rows = db.rows(FOLDED, Jsonb(facts), 3, "running", run, user=None)
    assert (len(rows), {status for _, status, _ in rows}) == (2**13 - 1, {"pending"})
