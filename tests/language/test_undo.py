"""df.undo: what has been done is undone when the run fails, or when it is cancelled so, in reverse order."""

import json
from functools import partial

import pytest
from psycopg import errors

from tests.state import NAMES_KEPT, SIGNALS_BROKEN
from tests.support import Database, Pump, Run

ZERO = "'select 1/0'"


@pytest.fixture(autouse=True)
def table(request: pytest.FixtureRequest) -> None:
    if "pump" in request.fixturenames:
        request.getfixturevalue("pump").db.sql("create table done (id serial, t text)")


def put(text: str) -> str:
    """A step that leaves a row."""
    return f"$q$insert into done (t) values ('{text}') returning t$q$"


def undo(name: str) -> str:
    return f"df.undo({put(name)}, {put('-' + name)})"


def left(pump: Pump) -> list[str]:
    return [row[0] for row in pump.db.rows("select t from done order by id")]


def undo_status(run: Run) -> str | None:
    status: str | None = run.db.sql("select undo_status from df.instances where id = %s", run.id)
    return status


def problems(pump: Pump) -> list[tuple[object, ...]]:
    return pump.db.rows("select * from df.check()", user=None)


def statuses(run: Run) -> dict[str, tuple[str, str]]:
    """Of each step that leaves a row, by that row: the status, and the inferred one."""
    rows = run.db.rows(
        "select substring(n.query from 'values \\(''(.*)''\\)'), n.status, i.inferred_status from df.nodes n "
        "join df.instance_nodes(%s) i on i.node_id = n.id where n.instance_id = %s and n.query like 'insert%%'",
        run.id, run.id,
    )  # fmt: skip
    return {name: (status, inferred) for name, status, inferred in rows}


def test_compensations_run_in_reverse_order_when_the_run_fails(pump: Pump) -> None:
    run = pump.run(f"{undo('a')} ~> {put('x')} ~> {undo('b')} ~> {undo('c')} ~> {ZERO} ~> {undo('d')}")
    assert (run.status, run.error) == ("failed", "SQL execution failed: division by zero (SQLSTATE 22012)")
    assert left(pump) == ["a", "x", "b", "c", "-c", "-b", "-a"]
    assert undo_status(run) == "completed"
    assert statuses(run) == {
        **dict.fromkeys(["a", "x", "b", "c", "-a", "-b", "-c"], ("completed", "completed")),
        **dict.fromkeys(["d", "-d"], ("pending", "skipped")),
    }  # fmt: skip
    assert problems(pump) == []


def test_a_run_that_completes_undoes_nothing(pump: Pump) -> None:
    run = pump.run(f"{undo('a')} ~> {undo('b')} |=> 'r' ~> $$select '$r' as v$$")
    assert (run.status, run.value(), undo_status(run)) == ("completed", "b", None)
    run = pump.run(undo("c"))
    assert (run.status, run.value(), undo_status(run)) == ("completed", "c", None)
    assert left(pump) == ["a", "b", "c"]
    assert statuses(run) == {"c": ("completed", "completed"), "-c": ("pending", "skipped")}
    assert run.node("UNDO")["status"] == "completed"
    assert problems(pump) == []


def test_a_step_that_fails_is_not_undone(pump: Pump) -> None:
    run = pump.run(f"df.undo({ZERO}, {put('-a')})")
    assert (run.status, undo_status(run), left(pump)) == ("failed", None, [])
    assert run.node("UNDO")["status"] == "failed"
    assert statuses(run) == {"-a": ("pending", "skipped")}
    run = pump.run(f"df.undo({undo('b')} ~> {ZERO}, {put('-c')})")
    assert (run.status, undo_status(run), left(pump)) == ("failed", "completed", ["b", "-b"])
    assert problems(pump) == []


def test_while_it_is_undone_a_run_is_running_and_says_so(pump: Pump) -> None:
    run = pump.start(f"{undo('a')} ~> df.undo({put('b')}, df.wait_for_signal('go') ~> {put('-b')}) ~> {ZERO}")
    pump.until(lambda: pump.db.sql("select count(*) = 1 from df.waiting"))
    assert (run.status, undo_status(run), run.error) == ("running", "running", "")
    assert statuses(run) == {
        "a": ("completed", "completed"), "b": ("completed", "completed"),
        "-a": ("pending", "pending"), "-b": ("pending", "pending"),
    }  # fmt: skip
    assert problems(pump) == []
    drawn = pump.db.sql("select df.explain(%s)", run.id)
    assert (
        "Undo:     ⏳ running" in drawn
        and "UNDO ✓" in drawn
        and "↶ compensation:" in drawn
        and "SIGNAL 'go' ⏳" in drawn
    )
    pump.db.sql("select df.signal(%s, 'go')", run.id)
    pump.until(run.ended)
    assert (run.status, undo_status(run), left(pump)) == ("failed", "completed", ["a", "b", "-b", "-a"])


def test_a_compensation_has_the_values_of_its_moment(pump: Pump) -> None:
    flow = (
        "$$select 1 as v$$ |=> 'n' ~> $$select 7 as v$$ |=> 'm' ~> "
        "df.undo($$select 2 as v$$ |=> 'r', "
        "$$insert into done (t) select concat_ws(' ', $n, $r, $r.v, $later?)$$)"
        " ~> $$select 3 as v$$ |=> 'n' ~> $$select 4 as v$$ |=> 'r' ~> $$select $m, 5 as v$$ |=> 'later' "
        "~> 'select 1/0'"
    )
    run = pump.run(flow)
    assert left(pump) == ["1 2 2"], run.error
    assert undo_status(run) == "completed"
    assert problems(pump) == []


def test_the_names_of_a_compensation_are_its_own(pump: Pump) -> None:
    compensation = "('select 5 as v' |=> 'n' & 'select 6') ~> 'insert into done (t) select $n'"
    run = pump.run(f"'select 1 as v' |=> 'n' ~> {undo('a')} ~> df.undo('select 2', {compensation}) ~> {ZERO}")
    assert (undo_status(run), left(pump)) == ("completed", ["a", "5", "-a"])
    run = pump.run("df.undo('select 2', 'insert into done (t) select $nobody') ~> 'select 1/0'")
    assert (run.status, undo_status(run)) == ("failed", "failed")


def test_a_compensation_that_fails_is_recorded_and_the_others_run(pump: Pump) -> None:
    run = pump.run(f"{undo('a')} ~> df.undo({put('b')}, 'select 1/(0)') ~> {undo('c')} ~> 'select nothing'")
    assert (run.status, undo_status(run)) == ("failed", "failed")
    assert "nothing" in run.error
    assert left(pump) == ["a", "b", "c", "-c", "-a"]
    node = run.node("select 1/(0)")
    assert (node["status"], node["error"]) == ("failed", "SQL execution failed: division by zero (SQLSTATE 22012)")
    assert problems(pump) == []


def test_a_compensation_is_tried_again_by_its_policy(pump: Pump) -> None:
    pump.db.sql("create sequence tries")
    step = "$$insert into done (t) select 'done' where 1 / (nextval('tries') / 3) > 0$$"
    run = pump.run(f"df.undo('select 1', df.retry({step}, 5, '0')) ~> {ZERO}")
    assert (undo_status(run), left(pump), run.node("tries")["attempts"]) == ("completed", ["done"], 3)


@pytest.mark.parametrize(
    ("compensation", "result"),
    [
        (f"{put('x')} & {put('y')}", ["-", "x", "y"]),
        (f"df.catch({ZERO}, {put('x')})", ["-", "x"]),
        (f"df.race({put('x')}, df.wait_for_signal('never'))", ["-", "x"]),
        (f"df.timeout(df.wait_for_signal('never'), 0.01, {put('x')})", ["-", "x"]),
        (f"df.sleep(0.01) ~> ('select true' ?> {put('x')})", ["-", "x"]),
        (f"df.loop({put('x')}, 'select count(*) < 4 from done')", ["-", "x", "x", "x"]),
        ("df.break('1')", ["-"]),
    ],
)
def test_a_compensation_is_any_graph(pump: Pump, compensation: str, result: list[str]) -> None:
    run = pump.run(f"df.undo({put('-')}, {compensation}) ~> {ZERO}")
    assert (run.status, sorted(left(pump))) == ("failed", result)
    assert undo_status(run) == ("failed" if "break" in compensation else "completed")
    assert problems(pump) == []


def test_any_graph_is_a_step(pump: Pump) -> None:
    steps = [
        f"{put('a')} & {put('a')}", f"'select true' ?> {put('a')}", "'select false' ?> 'select 1'",
        f"df.catch({ZERO}, {put('a')})", f"df.race({put('a')}, df.wait_for_signal('never'))",
        f"df.timeout({put('a')}, 3600, 'select 1')", f"df.loop({put('a')}, 'select false')", "df.sleep(0)",
        f"('select true' ?> {undo('b')})", f"df.if({undo('b')} ~> 'select true', 'select 1')",
    ]  # fmt: skip
    for number, step in enumerate(steps):
        run = pump.run(f"df.undo({step}, {put('-' + str(number))}) |=> 'v' ~> 'select 1' ~> {ZERO}")
        assert undo_status(run) == "completed", step
    assert [t for t in left(pump) if t.startswith("-")] == [
        "-0", "-1", "-2", "-3", "-4", "-5", "-6", "-7", "-8", "-b", "-9", "-b",
    ]  # fmt: skip
    assert problems(pump) == []


def test_undo_in_branches(pump: Pump) -> None:
    run = pump.run(f"df.all('select 7', {undo('a')} ~> {undo('b')}, {undo('c')} ~> {ZERO}) ~> 'select 2'")
    assert run.error.startswith("JOIN branch 3 failed: ")
    order = left(pump)
    assert sorted(order) == ["-a", "-b", "-c", "a", "b", "c"]
    done = [t for t in order if not t.startswith("-")]
    assert order == done + ["-" + t for t in reversed(done)]
    assert undo_status(run) == "completed"
    assert problems(pump) == []


def test_names_of_branches_reach_the_compensation(pump: Pump) -> None:
    branch = "'select 1 as v' |=> 'n' ~> df.undo('select 2', 'insert into done (t) select $n')"
    run = pump.run(f"df.all({branch}, 'select 5 as v' |=> 'n') ~> 'select 9 as v' |=> 'n' ~> {ZERO}")
    assert (undo_status(run), left(pump)) == ("completed", ["1"])


def test_a_catch_undoes_its_body_before_its_handler(pump: Pump) -> None:
    body = f"{undo('a')} ~> {undo('b')} ~> {ZERO}"
    run = pump.run(f"{undo('z')} ~> df.catch({body}, {put('h')} ~> 'select $error.sqlstate as v')")
    assert (run.status, run.value(), undo_status(run)) == ("completed", "22012", "completed")
    assert left(pump) == ["z", "a", "b", "-b", "-a", "h"]
    assert problems(pump) == []


def test_what_a_catch_has_undone_is_not_undone_again(pump: Pump) -> None:
    inner = f"df.catch({undo('a')} ~> {ZERO}, {undo('h')})"
    run = pump.run(f"df.catch({undo('y')} ~> {inner} ~> {undo('b')} ~> {ZERO}, 'select 1') ~> {undo('c')} ~> {ZERO}")
    assert (run.status, undo_status(run)) == ("failed", "completed")
    assert left(pump) == ["y", "a", "-a", "h", "b", "-b", "-h", "-y", "c", "-c"]
    assert problems(pump) == []


def test_what_a_catch_does_not_catch_is_undone_further_out(pump: Pump) -> None:
    run = pump.run(f"df.catch({undo('a')} ~> {ZERO}, 'select 1', array['23505'])")
    assert (run.status, undo_status(run), left(pump)) == ("failed", "completed", ["a", "-a"])
    run = pump.run(f"df.catch({undo('b')}, 'select 1') ~> {ZERO}")
    assert (run.status, undo_status(run), left(pump)) == ("failed", "completed", ["a", "-a", "b", "-b"])


def test_a_handler_may_refer_to_its_error_in_a_compensation(pump: Pump) -> None:
    handler = "df.undo('select 1', 'insert into done (t) select $error.sqlstate')"
    run = pump.run(f"df.catch({ZERO}, {handler}) ~> 'select nothing'")
    assert (undo_status(run), left(pump)) == ("completed", ["22012"])


def test_catches_in_branches_undo_their_own(pump: Pump) -> None:
    branches = [f"df.catch({undo(name)} ~> {ZERO}, {put('h' + name)})" for name in "ab"]
    run = pump.run(f"({' & '.join(branches)}) ~> 'select 5 as v'")
    assert (run.status, run.value(), undo_status(run)) == ("completed", 5, "completed")
    assert sorted(left(pump)) == ["-a", "-b", "a", "b", "ha", "hb"]
    assert problems(pump) == []


def test_a_run_of_a_role_that_is_gone_cannot_be_undone(db: Database) -> None:
    db.admin("create role quitter login")
    db.admin("select df.grant_usage('quitter')")
    pump = Pump(db, "quitter")
    flow = "df.undo('select 1', 'select 2') ~> df.wait_for_signal('go') ~> 'select 3'"
    run = Run(db, db.sql(f"select df.start({flow})", user="quitter"))
    pump.until(lambda: db.admin("select count(*) = 1 from df.waiting"))
    pump.close()
    db.connections.pop("quitter").close()
    db.admin("select df.revoke_usage('quitter')")
    db.admin("drop owned by quitter; drop role quitter")
    db.admin("select df.signal(%s, 'go')", run.id)
    watcher = Pump(db)
    row = "select status, undo_status, error from df.instances where id = %s"
    watcher.until(lambda: db.rows(row, run.id, user=None)[0][0] == "failed")
    watcher.close()
    assert db.rows(row, run.id, user=None) == [("failed", "failed", "role quitter does not exist any more")]
    assert db.rows("select * from df.check()", user=None) == []


@pytest.mark.parametrize("place", ["", "compensation", "catch"])
def test_what_cannot_be_recorded_fails_its_run_which_is_undone(pump: Pump, place: str) -> None:
    wait = "df.wait_for_signal('go')"
    flow = {
        "": f"{undo('a')} ~> ({wait} & df.sleep(3600))",
        "compensation": f"{undo('a')} ~> df.undo('select 1', {wait}) ~> {ZERO}",
        "catch": f"{undo('a')} ~> (df.catch(df.undo('select 1', {wait}) ~> {ZERO}, {put('h')}) & df.sleep(3600))",
    }[place]
    run = pump.start(flow)
    pump.until(lambda: pump.db.sql("select count(*) = 1 from df.waiting where kind = 'signal'"))
    pump.db.admin(SIGNALS_BROKEN)
    pump.db.sql("select df.signal(%s, 'go')", run.id)
    pump.until(run.ended)
    assert (run.status, undo_status(run), left(pump)) == ("failed", "failed" if place else "completed", ["a", "-a"])
    assert ("division by zero" if place == "compensation" else "cannot be stored") in run.error
    assert problems(pump) == []


def cancel(run: Run, undo: bool = True, reason: str = "why") -> str:
    return str(run.db.sql("select df.cancel(%s, %s, undo => %s)", run.id, reason, undo))


def test_a_cancel_with_undo_runs_the_compensations(pump: Pump) -> None:
    run = pump.start(f"{undo('a')} ~> ({undo('b')} & df.sleep(3600) & df.wait_for_signal('go')) ~> {put('c')}")
    pump.until(lambda: len(left(pump)) == 2)
    pump.until(lambda: pump.db.sql("select count(*) = 2 from df.waiting"))
    assert cancel(run) == f"Instance {run.id} is undone, then cancelled: why"
    assert (run.status, run.error) == ("running", "")
    assert cancel(run) == f"Instance {run.id} is being undone already; nothing to cancel (why)"
    assert pump.db.sql("select count(*) from df.waiting") == 0
    assert problems(pump) == []
    pump.until(run.ended)
    assert (run.status, run.error, undo_status(run)) == ("cancelled", "canceled: why", "completed")
    assert left(pump) == ["a", "b", "-b", "-a"]
    assert problems(pump) == []


def test_a_run_that_is_undone_keeps_its_priority(pump: Pump) -> None:
    run = Run(pump.db, pump.db.sql(f"select df.start({undo('a')} ~> df.wait_for_signal('never'), priority => 10)"))
    pump.until(lambda: pump.db.sql("select count(*) = 1 from df.waiting"))
    other = pump.start(put("b"))
    cancel(run)
    pump.until(lambda: run.ended() and other.ended())
    assert left(pump) == ["a", "-a", "b"]


def test_a_cancel_with_undo_of_what_has_nothing_to_undo_ends_at_once(pump: Pump) -> None:
    for flow in ("df.sleep(3600)", f"df.sleep(3600) ~> {undo('a')}"):
        run = pump.start(flow)
        pump.until(lambda: pump.db.sql("select count(*) = 1 from df.waiting"))
        assert cancel(run) == f"Instance {run.id} cancelled: why"
        assert (run.status, run.error, undo_status(run)) == ("cancelled", "canceled: why", None)
        assert cancel(run) == f"Instance {run.id} is already cancelled; nothing to cancel (why)"
    assert problems(pump) == []


def test_a_cancel_without_undo_runs_none(pump: Pump) -> None:
    run = pump.start(f"{undo('a')} ~> df.sleep(3600)")
    pump.until(lambda: pump.db.sql("select count(*) = 1 from df.waiting"))
    assert run.db.sql("select df.cancel(%s, 'why')", run.id) == f"Instance {run.id} cancelled: why"
    pump.work()
    assert (run.status, undo_status(run), left(pump)) == ("cancelled", None, ["a"])
    assert problems(pump) == []


def test_a_cancel_ends_a_compensation_that_a_catch_has_begun(pump: Pump) -> None:
    stuck = "df.wait_for_signal('never')"
    run = pump.start(f"{undo('a')} ~> df.catch(df.undo({put('b')}, {stuck} ~> {put('-b')}) ~> {ZERO}, {put('h')})")
    pump.until(lambda: pump.db.sql("select count(*) = 1 from df.waiting"))
    assert cancel(run, undo=False) == f"Instance {run.id} cancelled: why"
    pump.work()
    assert (run.status, undo_status(run), left(pump)) == ("cancelled", "failed", ["a", "b"])
    assert problems(pump) == []


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_second_cancel_without_undo_ends_it_at_once(pump: Pump, cancelled: bool) -> None:
    stuck = "df.wait_for_signal('never')"
    run = pump.start(f"{undo('a')} ~> df.undo({put('b')}, {stuck}) ~> {'df.sleep(3600)' if cancelled else ZERO}")
    pump.until(lambda: pump.db.sql("select count(*) = 1 from df.waiting"))
    if cancelled:
        cancel(run)
        pump.until(lambda: pump.db.sql("select count(*) = 1 from df.waiting where kind = 'signal'"))
    assert cancel(run, undo=False, reason="enough") == f"Instance {run.id} is not undone any further: enough"
    assert run.status == ("cancelled" if cancelled else "failed")
    assert run.error == ("canceled: why" if cancelled else "SQL execution failed: division by zero (SQLSTATE 22012)")
    assert (undo_status(run), left(pump)) == ("failed", ["a", "b"])
    pump.work()
    assert left(pump) == ["a", "b"]
    assert problems(pump) == []


def test_a_cancel_with_undo_lets_a_compensation_that_has_begun_go_on(pump: Pump) -> None:
    """Those of catches, in two branches: each ends, then the rest runs, and no handler."""
    branches = [
        f"df.catch({undo('x' + n)} ~> df.undo({put(n)}, {put('-' + n)} ~> df.wait_for_signal('{n}') ~> {put('=' + n)}) "
        f"~> {ZERO}, {put('handler')})"
        for n in "ab"
    ]  # fmt: skip
    run = pump.start(f"{undo('z')} ~> ({' & '.join(branches)} & df.sleep(3600))")
    pump.until(lambda: pump.db.sql("select count(*) = 2 from df.waiting where kind = 'signal'"))
    assert (run.status, undo_status(run)) == ("running", "running")
    cancel(run)
    assert problems(pump) == []
    pump.work()
    assert pump.db.sql("select count(*) from df.waiting") == 2
    for name in "ab":
        pump.db.sql("select df.signal(%s, %s)", run.id, name)
        ended = f"={name}"
        pump.until(partial(lambda text: text in left(pump), ended))
        assert problems(pump) == []
    pump.until(run.ended)
    assert (run.status, undo_status(run)) == ("cancelled", "completed")
    order = left(pump)
    assert "handler" not in order and len(order) == len(set(order)) == 12
    assert order[-1] == "-z" and set(order[-3:-1]) == {"-xa", "-xb"}
    assert problems(pump) == []


def test_a_step_that_cancels_its_own_run_is_undone_too(pump: Pump) -> None:
    itself = "$q$insert into done (t) select left(df.cancel('{sys_instance_id}', 'me', true), 8) returning t$q$ |=> 'r'"
    step = f"df.undo({itself}, 'insert into done (t) select ''-'' || $r')"
    run = pump.run(f"{step} ~> {put('b')}")
    assert (run.status, run.error, undo_status(run)) == ("cancelled", "canceled: me", "completed")
    assert left(pump) == ["Instance", "-Instance"]
    run = pump.run(f"{undo('a')} ~> ({step} & df.sleep(3600)) ~> {put('b')}")
    assert (run.status, undo_status(run)) == ("cancelled", "completed")
    assert left(pump)[2:] == ["a", "Instance", "-Instance", "-a"]
    assert problems(pump) == []


def test_a_compensation_that_cancels_its_run_ends_it(pump: Pump) -> None:
    itself = "$q$insert into done (t) select left(df.cancel('{sys_instance_id}', 'me'), 8)$q$"
    run = pump.run(f"{undo('a')} ~> df.undo('select 1', {itself}) ~> {ZERO}")
    assert (run.status, undo_status(run), left(pump)) == ("failed", "failed", ["a", "Instance"])
    assert problems(pump) == []


def children(run: Run) -> list[Run]:
    return [Run(run.db, row[0]) for row in run.db.rows("select id from df.instances where parent_id = %s", run.id)]


def test_a_call_that_has_completed_is_undone_by_what_is_around_it(pump: Pump) -> None:
    call = "df.call('insert into done (t) values (''a'') returning t')"
    undone = "insert into done (t) values ('-' || $c) returning t"
    run = pump.run(f"df.undo({call} |=> 'c', $q${undone}$q$) ~> {ZERO}")
    assert (run.status, undo_status(run), left(pump)) == ("failed", "completed", ["a", "-a"])
    assert [child.status for child in children(run)] == ["completed"]
    flow = "df.call('select $input.n, 1 / 0', '{\"n\": $n}')"
    run = pump.run(f"'select 7' |=> 'n' ~> df.undo({flow}, {put('never')}) ~> {put('never')}")
    assert (run.status, undo_status(run), left(pump)) == ("failed", None, ["a", "-a"])
    assert problems(pump) == []


def test_a_compensation_may_call(pump: Pump) -> None:
    call = "df.call($q$insert into done (t) select $input.v || '{sys_label}'$q$, '{\"v\": \"-$c\"}', 'of $c')"
    run = pump.run(f"df.undo({put('a')} |=> 'c', {call} ~> {put('b')}) ~> {put('c')} |=> 'c' ~> {ZERO}")
    assert (run.status, undo_status(run), left(pump)) == ("failed", "completed", ["a", "c", "-aof a", "b"])
    run = pump.run(f"{undo('d')} ~> df.undo({put('e')}, df.call({ZERO})) ~> {ZERO}")
    assert (undo_status(run), left(pump)[4:]) == ("failed", ["d", "e", "-d"])
    assert problems(pump) == []


@pytest.mark.parametrize("again", [False, True])
def test_what_a_run_has_called_is_cancelled_when_it_is_undone(pump: Pump, again: bool) -> None:
    """What a compensation has called goes on, until a second cancel."""
    called = f"df.call({undo('in')} ~> df.wait_for_signal('never'))"
    compensation = f"df.call(df.wait_for_signal('go')) ~> {put('-a')}"
    run = pump.start(f"df.undo({put('a')}, {compensation}) ~> ({called} & df.catch({undo('b')} ~> {ZERO}, {called}))")
    pump.until(lambda: pump.db.sql("select count(*) = 2 from df.waiting where kind = 'signal'"))
    cancel(run)
    assert {child.error for child in children(run)} == {
        f"canceled: instance {run.id}, which has called it, does not wait for it any more"
    }
    assert problems(pump) == []
    pump.until(lambda: pump.db.sql("select count(*) = 1 from df.waiting where kind = 'signal'"))
    (child,) = [child for child in children(run) if not child.ended()]
    assert (run.status, undo_status(run), problems(pump)) == ("running", "running", [])
    if again:
        cancel(run, undo=False, reason="enough")
        assert child.error == f"canceled: instance {run.id}, which has called it, is canceled: why"
    else:
        pump.db.sql("select df.signal(%s, 'go')", child.id)
        pump.until(run.ended)
    assert (run.status, undo_status(run)) == ("cancelled", "failed" if again else "completed")
    assert [text for text in left(pump) if text.startswith("-")] == (["-b"] if again else ["-b", "-a"])
    assert problems(pump) == []


def test_who_has_called_a_run_hears_of_its_end_when_it_is_undone(pump: Pump) -> None:
    slow = f"df.undo({put('a')}, df.wait_for_signal('go') ~> {put('-a')})"
    for end in (f"{slow} ~> {ZERO}", f"({slow} ~> {put('b')}) & {ZERO}"):
        pump.db.sql("truncate done")
        run = pump.start(
            f"df.catch(df.call({end}), 'select $error.message as m, $error.sqlstate as s', array['22012'])"
        )
        pump.until(lambda: pump.db.sql("select count(*) = 1 from df.waiting where kind = 'signal'"))
        (child,) = children(run)
        assert (run.status, child.status, undo_status(child)) == ("running", "running", "running")
        pump.db.sql("select df.signal(%s, 'go')", child.id)
        pump.until(run.ended)
        assert (run.status, child.status, undo_status(child)) == ("completed", "failed", "completed"), run.error
        assert run.result["rows"] == [{"m": "division by zero", "s": "22012"}] and "-a" in left(pump)
        assert problems(pump) == []


def test_who_has_called_a_run_that_cancels_itself_hears_of_its_end_when_it_is_undone(pump: Pump) -> None:
    itself = "$q$insert into done (t) select left(df.cancel('{sys_instance_id}', 'me', true), 8)$q$"
    step = f"df.undo({itself}, df.wait_for_signal('go') ~> {put('-a')})"
    run = pump.start(f"df.catch(df.call({step}), 'select $error.sqlstate as s')")
    pump.until(lambda: pump.db.sql("select count(*) = 1 from df.waiting where kind = 'signal'"))
    pump.work()
    (child,) = children(run)
    assert (run.status, child.status, undo_status(child), problems(pump)) == ("running", "running", "running", [])
    pump.db.sql("select df.signal(%s, 'go')", child.id)
    pump.until(run.ended)
    assert (run.value(), child.error, left(pump)) == ("57014", "canceled: me", ["Instance", "-a"])
    assert problems(pump) == []


def test_maps_and_blocks_are_undone_and_undo(pump: Pump) -> None:
    rows = "df.map('select generate_series(1, 3) as n', 'insert into done (t) values ($item.n) returning t', 2)"
    back = "df.map('$m.*', 'insert into done (t) values (''-'' || $item.n || $b)', 1)"
    block = "df.block('insert into done (t) values (''x'')', 'select ''y'' as t')"
    flow = (
        f"'select generate_series(1, 3) as n' |=> 'm' ~> df.undo({rows} ~> {block} |=> 'b', {back} ~> "
        "df.block('insert into done (t) values (''-x'')', 'insert into done (t) values (''-'' || $b)'))"
    )
    run = pump.run(f"{flow} ~> 'select 9 as n' |=> 'm' ~> 'select 8' |=> 'b' ~> {ZERO}")
    assert (run.status, undo_status(run)) == ("failed", "completed"), run.error
    assert sorted(left(pump)[:3]) == ["1", "2", "3"]
    assert left(pump)[3:] == ["x", "-1y", "-2y", "-3y", "-x", "-y"]
    assert problems(pump) == []


@pytest.mark.parametrize("on_error", ["fail", "stop"])
def test_a_map_that_is_open_when_its_run_is_undone_is_stopped(pump: Pump, on_error: str) -> None:
    """One in a compensation goes on."""
    rows = f"df.map('select generate_series(1, 3)', df.wait_for_signal('never') ~> {put('never')}, 2, '{on_error}')"
    back = f"df.map('select generate_series(1, 3) as n', df.wait_for_signal('go') ~> {put('i')}, 2, '{on_error}')"
    catch = f"df.catch(df.undo({put('a')}, {back}) ~> {ZERO}, {put('never')})"
    run = pump.start(f"{undo('z')} ~> ({catch} & {rows})")
    pump.until(lambda: pump.db.sql("select count(*) = 4 from df.waiting where kind = 'signal'"))
    cancel(run)
    assert pump.db.sql("select count(*) = 2 from df.waiting where kind = 'signal'")
    assert problems(pump) == []
    for _ in range(2):
        pump.db.sql("select df.signal(%s, 'go')", run.id)
        pump.work()
    pump.until(run.ended)
    assert (run.status, undo_status(run), left(pump)) == ("cancelled", "completed", ["z", "a", "i", "i", "i", "-z"])
    assert problems(pump) == []


@pytest.mark.parametrize("stopped", [False, True])
def test_a_session_of_the_submitter_keeps_the_names_of_a_compensation(pump: Pump, stopped: bool) -> None:
    """They may be many: the supervisor, who acts for all, copies none. The run may be undone before a session does."""
    step = "df.wait_for_signal('go') |=> 's'"
    put_names = "'insert into done (t) select concat_ws('' '', $n, $s.data, $later?)'"
    rest = f"'select 2 as v' |=> 'n' ~> 'select 3 as v' |=> 's' ~> 'select 4 as v' |=> 'later' ~> {ZERO}"
    flow = f"'select 1 as v' |=> 'n' ~> ('select 5' & df.undo(df.undo({step}, {put_names}), {put('-a')})) ~> {rest}"
    run = pump.start(flow)
    pump.until(lambda: pump.db.sql("select count(*) = 1 from df.waiting"))
    pump.db.sql("""select df.signal(%s, 'go', '"x"')""", run.id)
    pump.tick()
    assert (pump.db.sql("select count(*) from df.waiting"), pump.db.admin(NAMES_KEPT)) == (0, 0)
    assert run.node("SIGNAL")["status"] == "completed" and problems(pump) == []
    if stopped:
        cancel(run)
        assert problems(pump) == []
    pump.until(run.ended)
    assert (run.status, undo_status(run)) == ("cancelled" if stopped else "failed", "completed"), run.error
    assert (left(pump), pump.db.admin(NAMES_KEPT)) == (["-a", "1 x"], 0)
    assert problems(pump) == []


@pytest.mark.parametrize("caught", [False, True])
def test_a_session_of_the_submitter_begins_each_compensation(pump: Pump, caught: bool) -> None:
    """They may be many, and end at once: the supervisor, who acts for all, begins none."""
    undoes = " ~> ".join(f"df.undo('select {n}', df.break('{n}'))" for n in range(5))
    body = f"{undoes} ~> df.wait_for_signal('go') ~> df.break('x')"
    run = pump.start(f"df.catch({body}, 'select 7')" if caught else body)
    pump.until(lambda: pump.db.sql("select count(*) = 1 from df.waiting"))
    pump.db.sql("select df.signal(%s, 'go')", run.id)
    pump.tick()
    assert (run.status, undo_status(run), problems(pump)) == ("running", "running", [])
    broken = "select count(*) from df.nodes where instance_id = %s and node_type = 'BREAK' and status = 'failed'"
    assert pump.db.sql(broken, run.id) == 1
    pump.work()
    assert (run.status, undo_status(run), problems(pump)) == ("completed" if caught else "failed", "failed", [])


def test_a_run_with_an_undo_starts_as_any_other(pump: Pump) -> None:
    """Also the second time, when its graph is known, and with another one in the same transaction."""
    for _ in range(2):
        run = pump.run(f"{undo('a')} ~> {ZERO}")
        assert (undo_status(run), problems(pump)) == ("completed", [])
    flow = f"{undo('b')} ~> {ZERO}"
    runs = pump.db.rows(f"select df.start({flow}) from generate_series(1, 2)")
    pump.until(lambda: not pump.db.sql("select count(*) from df.instances where finished_at is null"))
    assert [undo_status(Run(pump.db, row[0])) for row in runs] == ["completed"] * 2
    assert problems(pump) == []


PLACES = [
    ("df.race({0}, 'a')", "a race"), ("'a' | {0}", "a race"), ("df.race_all('a', 'b', 'c' ~> {0})", "a race"),
    ("df.any('a', {0})", "a race"), ("df.timeout({0}, 5)", "a time-out"), ("df.timeout('a', '5 s', {0})", "a time-out"),
    ("df.timeout({0}, '$x.y')", "a time-out"), ("df.timeout({0}, interval '1 s')", "a time-out"),
    ("df.timeout({0}, 0.5::float8)", "a time-out"),
    ("df.loop('a' & {0})", "a loop"), ("@> df.catch({0}, 'b')", "a loop"), ("df.loop('a', {0})", "a loop"),
    ("df.undo('a', 'b' ~> {0})", "a compensation"), ("df.map('select 1', 'b' ~> {0})", "a map"),
]  # fmt: skip


@pytest.mark.parametrize(("flow", "place"), PLACES)
def test_where_none_can_be_it_is_refused_when_it_is_built(shared: Database, flow: str, place: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match=f"df.undo cannot be inside {place}") as raised:
        shared.sql("select " + flow.format("df.undo('select 1', 'select 2')"))
    assert "put df.undo around the whole" in str(raised.value.diag.message_hint)


@pytest.mark.parametrize(("flow", "place", "at"), [
    ("'a' ~>\n (@> df.undo('b', 'c'))", "a loop", "line 2, column 9"),
    ("loop('x' ~>\n ('y' & undo('b', 'c')), 'z')", "a loop", "line 2, column 9"),
    ("'a' |\n('d' ~> undo('b', 'c'))", "a race", "line 2, column 9"),
    ("any('a', undo('b', 'c'))", "a race", "line 1, column 10"),
    ("timeout(undo('b', 'c'), '1 s')", "a time-out", "line 1, column 9"),
    ("map('select 1', undo('b', 'c'))", "a map", "line 1, column 17"),
])  # fmt: skip
def test_where_none_can_be_in_a_flow_the_place_is_told(shared: Database, flow: str, place: str, at: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match=f"df.undo cannot be inside {place}") as raised:
        shared.sql("select df.flow(%s)", flow)
    assert str(raised.value.diag.message_detail).startswith(f"In the flow at {at}:")
    assert "put df.undo around the whole" in str(raised.value.diag.message_hint)


@pytest.mark.parametrize(
    "flow", ["undo('a', 'b') ~> loop('c', 'd')", "loop('a ~> undo', 'b')", "loop(call(undo('a', 'b')), 'c')",
             "if('a', undo('b', 'c'), 'd') ~> ('e' & undo('f', 'g'))"]
)  # fmt: skip
def test_where_one_can_be_in_a_flow(shared: Database, flow: str) -> None:
    assert shared.sql("select df.to_flow(df.flow(%s))", flow).count("undo") == flow.count("undo")


def test_a_text_that_looks_like_one_is_none(shared: Database) -> None:
    looks = """$$select '{"node_type":"UNDO"}', '{ "node_type" : "UNDO"' $$"""
    shared.sql(f"select df.loop(df.race({looks}, df.timeout({looks} |=> 'n', 5)) & {looks})")


SQL = {"node_type": "SQL", "query": "select 1"}
UNDO = {"left_node": SQL, "right_node": SQL, "node_type": "UNDO"}
ALL = {"node_type": "JOIN", "left_node": UNDO}
INSIDE = "UNDO cannot be inside"
HAND_WRITTEN = [
    ({"node_type": "RACE", "left_node": SQL, "right_node": UNDO}, f"root.right: {INSIDE} RACE"),
    ({"node_type": "ANY", "left_node": UNDO, "right_node": SQL}, f"root.left: {INSIDE} ANY"),
    ({"node_type": "LOOP", "left_node": ALL}, f"root.left.left: {INSIDE} LOOP"),
    ({"node_type": "LOOP", "left_node": SQL, "condition_node": UNDO}, f"root.condition_node: {INSIDE} LOOP"),
    ({"node_type": "TIMEOUT", "left_node": SQL, "right_node": UNDO, "query": '{"after":5}'},
     f"root.right: {INSIDE} TIMEOUT"),
    ({"node_type": "MAP", "left_node": ALL, "condition_node": SQL}, f"root.left.left: {INSIDE} MAP"),
    ({"node_type": "UNDO", "left_node": SQL, "right_node": UNDO}, f"root.right: {INSIDE} a compensation"),
    ({"node_type": "UNDO", "left_node": SQL}, "root: right_node is missing"),
    ({"node_type": "UNDO", "right_node": SQL}, "root: left_node is missing"),
    ({**UNDO, "query": "{}"}, "root: query is not valid for UNDO nodes"),
    ({**UNDO, "extra_nodes": [SQL]}, "root: extra_nodes is not valid for UNDO nodes"),
    ({**UNDO, "condition_node": SQL}, "root: condition_node is not valid for UNDO nodes"),
    ({**UNDO, "retry": {}}, "root: retry is not valid for UNDO nodes"),
]  # fmt: skip


@pytest.mark.parametrize(("graph", "problem"), HAND_WRITTEN)
def test_hand_written_envelopes_are_checked(shared: Database, graph: dict[str, object], problem: str) -> None:
    with pytest.raises(errors.InvalidTextRepresentation, match=problem.replace(".", r"\.")) as raised:
        shared.sql("select df.start(%s)", json.dumps(graph))
    assert "inside" not in problem or "put df.undo around the whole" in str(raised.value.diag.message_primary)
    assert problem in shared.sql("select df.explain(%s)", json.dumps(graph))


def test_an_undo_is_written_and_drawn(shared: Database) -> None:
    built = shared.sql("select df.undo('a', 'b' ~> 'c') |=> 'x'")
    assert built == (
        '{"node_type":"UNDO","left_node":{"node_type":"SQL","query":"a"},"right_node":{"node_type":"THEN","left_node":'
        '{"node_type":"SQL","query":"b"},"right_node":{"node_type":"SQL","query":"c"}},"result_name":"x"}'
    )
    assert shared.sql("select df.flow($$undo('a', 'b' ~> 'c') |=> x$$)") == built
    assert shared.sql("select df.flow($$undo(compensation => 'b' ~> 'c', step => 'a') |=> x$$)") == built
    assert shared.sql("select df.to_flow(%s)", built) == "undo('a', 'b' ~> 'c') |=> x"
    lines = [line.rstrip() for line in shared.sql("select df.explain(%s)", built).splitlines()]
    assert lines == [
        "UNDO |=> 'x'", "    ↳ step:", "      └─SQL: a", "    ↶ compensation:", "      └─SQL: b", "      → SQL: c",
    ]  # fmt: skip


def test_builders_with_null_say_which(shared: Database) -> None:
    for call, named in [("df.undo(null, 'a')", "step"), ("df.undo('a', null)", "compensation")]:
        with pytest.raises(errors.NullValueNotAllowed, match=f"argument {named} of df.undo is NULL"):
            shared.sql(f"select {call}")
