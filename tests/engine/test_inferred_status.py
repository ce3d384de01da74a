"""Inferred statuses: what the rows of a run mean, given their ancestors, their generations and the run's end."""

import json

import pytest

from tests.engine.rows import RUN, Node, ident, insert, insert_run, stamp, states
from tests.support import Database

ONE = "run::1"


def done(name: str, at: str | None = ONE, **kwargs: object) -> Node:
    return Node(name, status="completed", stamp=at, **kwargs)  # type: ignore[arg-type]


def then(name: str, left: str, right: str, status: str = "pending", at: str | None = None) -> Node:
    return Node(name, "THEN", children=(left, right), status=status, stamp=at)


def loop(name: str, body: str, condition: str | None = None, status: str = "running", at: str | None = ONE) -> Node:
    config = f'{{"condition_node":{{{condition}}}}}' if condition else None
    return Node(name, "LOOP", config, (body,), status, at)


def branch(name: str, condition: str, branches: tuple[str, str], status: str = "pending", at: str = ONE) -> Node:
    return Node(name, "IF", f'{{"condition_node":{{{condition}}}}}', branches, status, at)


def infer(db: Database, *nodes: Node, **columns: object) -> dict[str, tuple[str, str | None]]:
    return states(db, insert_run(db, *nodes, **columns), *nodes)  # type: ignore[arg-type]


def test_a_completed_sequence_is_what_it_is(db: Database) -> None:
    nodes = (then("seq", "a", "b", "completed", ONE), done("a"), done("b"))
    assert infer(db, *nodes, status="completed") == {name: ("completed", None) for name in ("seq", "a", "b")}


def test_the_branch_not_taken_is_skipped(db: Database) -> None:
    nodes = (branch("if", "test", ("yes", "no"), "completed"), done("test"), done("yes"), Node("no"))
    assert infer(db, *nodes, status="completed")["no"] == ("skipped", "if")


def test_a_failed_node_stays_failed_and_the_rest_of_its_sequence_is_skipped(db: Database) -> None:
    nodes = (then("outer", "inner", "c", "failed", ONE), then("inner", "a", "b", "failed", ONE),
             Node("a", status="failed", stamp=ONE), Node("b"), Node("c"))  # fmt: skip
    assert infer(db, *nodes, status="failed") == {
        "outer": ("failed", None), "inner": ("failed", None), "a": ("failed", None),
        "b": ("skipped", "inner"), "c": ("skipped", "outer"),
    }  # fmt: skip


def test_the_loser_of_a_race_is_skipped_whatever_its_rows_say(db: Database) -> None:
    nodes = (then("seq", "race", "after", "running", ONE), Node("after"),
             Node("race", "RACE", children=("fast", "slow"), status="completed", stamp=ONE),
             done("fast", "run::1::fast::1"),
             then("slow", "nap", "never", "running", "run::1::slow::1"),
             Node("nap", "SLEEP", "30", status="running", stamp="run::1::slow::1"), Node("never"))  # fmt: skip
    inferred = infer(db, *nodes)
    assert {name: inferred[name] for name in ("slow", "nap", "never")} == dict.fromkeys(
        ("slow", "nap", "never"), ("skipped", "race")
    )
    assert inferred["after"] == ("pending", None)


def test_nothing_is_pending_in_a_cancelled_run(db: Database) -> None:
    nodes = (then("seq", "a", "b", "running", ONE), done("a"), Node("b", status="running", stamp=ONE))
    assert infer(db, *nodes, status="cancelled") == {
        "seq": ("skipped", None), "a": ("completed", None), "b": ("skipped", None)
    }  # fmt: skip


ITERATING = (
    then("seq", "first", "loop", "running", ONE),
    done("first"),
    loop("loop", "join", "more", at="run::1::loop::3"),
    Node("join", "JOIN", None, ("two", "three"), "completed", "run::1::loop::2"),
    done("two", "run::1::loop::2::two::1"),
    done("three", "run::1::loop::2::three::1"),
    done("more", "run::1::loop::2"),
)


def test_an_iterating_loop_makes_its_body_pending_again(db: Database) -> None:
    again = ("pending", "loop")
    assert infer(db, *ITERATING) == {
        "seq": ("running", None), "first": ("completed", None), "loop": ("running", None),
        "join": again, "two": again, "three": again, "more": again,
    }  # fmt: skip


def test_nodes_of_the_new_iteration_are_not_superseded(db: Database) -> None:
    nodes = (*ITERATING[:3], Node("join", "JOIN", None, ("two", "three"), "running", "run::1::loop::3"),
             done("two", "run::1::loop::3::two::1"), *ITERATING[5:])  # fmt: skip
    inferred = infer(db, *nodes)
    assert (inferred["two"], inferred["three"]) == (("completed", None), ("pending", "join"))


def test_a_completed_construct_of_the_new_iteration_decides_over_older_rows(db: Database) -> None:
    body = branch("if", "test", ("yes", "no"), "completed", "run::2")
    nodes = (loop("loop", "if", at="run::2"), body, done("test", "run::2"), done("yes", "run::2"), done("no", "run::1"))
    assert infer(db, *nodes)["no"] == ("skipped", "if")


def test_generations_count_that_only_the_engine_knows(db: Database) -> None:
    nodes = (loop("loop", "body"), done("body"))
    run = insert_run(db, *nodes, _generation=2)
    assert states(db, run, *nodes)["body"] == ("pending", "loop")


def test_generations_of_child_scopes_count_too(db: Database) -> None:
    nodes = (then("seq", "a", "loop", "running", ONE), done("a"), loop("loop", "body", at="run::1::loop::1"),
             done("body", "run::1::loop::1"))  # fmt: skip
    run = insert_run(db, *nodes)
    scope = {"instance_id": run, "node_id": ident("loop"), "path": stamp("run::1::loop"), "generation": 2}
    with db.connect() as conn:
        insert(conn, "df_engine.scopes", scope)
    assert states(db, run, *nodes)["body"] == ("pending", "loop")


def test_of_stamped_ancestors_the_highest_generation_counts_and_then_the_nearest(db: Database) -> None:
    nodes = (loop("outer", "mid", at="run::7"), then("mid", "inner", "z", "running", "run::7"), Node("z"),
             loop("inner", "low", at="run::7::inner::2"), then("low", "x", "y", "running", "run::7::inner::2"),
             done("x", "run::7::inner::1"), Node("y"))  # fmt: skip
    assert infer(db, *nodes)["x"] == ("pending", "mid")


@pytest.mark.parametrize("unreadable", ["", "run", "run::one", "run::1::loop", "::1", "run::-1"])
def test_a_stamp_that_cannot_be_read_excludes_nothing(db: Database, unreadable: str) -> None:
    nodes = (loop("loop", "body", at="run::4"), done("body", None))
    run = insert_run(db, *nodes)
    details = json.dumps({"execution_id": unreadable.replace("run", RUN)})
    db.admin("update df.nodes set status_details = %s where id = %s", details, ident("body"))
    assert states(db, run, *nodes)["body"] == ("completed", None)


def test_unrelated_scopes_do_not_exclude_each_other(db: Database) -> None:
    nodes = (Node("join", "JOIN", None, ("a", "b"), "running", ONE), loop("a", "x", at="run::1::a::9"),
             done("x", "run::1::a::9"), loop("b", "y", at="run::1::b::1"), done("y", "run::1::b::1"))  # fmt: skip
    assert infer(db, *nodes)["y"] == ("completed", None)


def test_nodes_out_of_reach_show_their_physical_status(db: Database) -> None:
    nodes = (done("root"), Node("lost"), Node("found", status="running", stamp=ONE))
    inferred = infer(db, *nodes, status="completed")
    assert (inferred["lost"], inferred["found"]) == (("pending", None), ("running", None))


def test_rows_in_a_circle_and_configurations_that_are_no_json_do_no_harm(db: Database) -> None:
    nodes = (then("round", "about", "about"), branch("about", "round", ("round", "about")))
    run = insert_run(db, *nodes)
    db.admin("update df.nodes set query = 'no json' where node_type = 'IF'")
    assert states(db, run, *nodes) == {"round": ("pending", None), "about": ("pending", None)}


def test_a_step_that_a_session_executes_is_running_and_so_is_what_waits_for_it(db: Database) -> None:
    nodes = (then("seq", "a", "loop"), done("a"), loop("loop", "body", at="run::1::loop::2"),
             done("body", "run::1::loop::1", columns={"result": '{"rows":[]}'}), )  # fmt: skip
    run = insert_run(db, *nodes, _submitter="app")
    with db.connect("app", application_name=f"pg_durable:{run}:{ident('body')}"):
        assert {name: state for name, (state, _) in states(db, run, *nodes).items()} == {
            "seq": "running", "a": "completed", "loop": "running", "body": "running"
        }  # fmt: skip
        shown = db.rows(
            "select status, result from df.instance_nodes(%s) where node_id = %s", run, ident("body"), user=None
        )
        assert shown == [("running", None)]


def test_a_session_of_another_role_is_not_believed(db: Database) -> None:
    run = insert_run(db, Node("a"), _submitter="app", status="pending")
    with db.connect("other", application_name=f"pg_durable:{run}:{ident('a')}"):
        assert states(db, run, Node("a")) == {"a": ("pending", None)}


def test_ten_thousand_nodes_take_no_time(db: Database) -> None:
    db.admin("""
        with tree as (
          select g, lpad(to_hex(g), 8, '0') as id from generate_series(1, 9999) g
        ), run as (
          insert into df.instances (id, root_node, submitted_by, status, _generation)
          values ('a1b2c3d4', '00000001', 'app', 'running', 3)
        )
        insert into df.nodes (id, instance_id, node_type, query, left_node, right_node, submitted_by, status,
                              status_details)
        select id, 'a1b2c3d4', case when 2 * g < 9999 then 'RACE' else 'SQL' end,
               case when 2 * g < 9999 then null else 'SELECT 1' end,
               case when 2 * g < 9999 then lpad(to_hex(2 * g), 8, '0') end,
               case when 2 * g < 9999 then lpad(to_hex(2 * g + 1), 8, '0') end, 'app', 'completed',
               jsonb_build_object('execution_id', 'a1b2c3d4::2::' || id || '::1')
        from tree
    """)
    db.admin("set statement_timeout = '2min'")  # comparing all pairs takes longer
    assert db.rows("select inferred_status, count(*) from df.instance_nodes('a1b2c3d4') group by 1", user=None) == [
        ("pending", 9999)
    ]
