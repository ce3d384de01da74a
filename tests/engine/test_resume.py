"""df.resume of a run that has failed or was cancelled: it goes on where it was, and repeats nothing that completed."""

import threading

import pytest
from psycopg import errors

from tests.engine.test_pause import in_a_step
from tests.state import ATTEMPTS_IN_ORDER, CLOCK_AHEAD, LABELS_GONE, REMOVED_OF_RUNS, ROWS, RUNS_AGED, TIMERS
from tests.support import Database, Pump, Run, wait_until

BROKEN = """
create table broken (t text);
create function refuse() returns trigger language plpgsql as $$
begin
  if exists (select from broken b where b.t = new.t) then
    raise exception '% is broken', new.t using errcode = 'P0042';
  end if;
  return new;
end $$;
create trigger refuse before insert on fx for each row execute function refuse()"""


def put(text: str, value: str = "") -> str:
    """A step that leaves its name behind, once, unless it is broken; its value is that, or another."""
    return f"$s$insert into fx (t) values ('{text}') returning {value or 't'} as v$s$"


def broken(pump: Pump, *names: str) -> None:
    if not pump.db.sql("select to_regclass('broken') is not null"):
        pump.db.sql(BROKEN)
    pump.db.sql("delete from broken")
    for name in names:
        pump.db.sql("insert into broken values (%s)", name)


def notes(db: Database) -> list[str]:
    return sorted(text for (text,) in db.rows("select t from fx"))


def resume(run: Run) -> None:
    assert run.db.sql("select df.resume(%s)", run.id) == "OK"


def sound(db: Database) -> None:
    assert db.rows("select * from df.check()", user=None) == []


def resumed(pump: Pump, flow: str, *names: str) -> Run:
    """A run that has failed because steps were broken, and goes on to its end once they are not."""
    broken(pump, *names)
    run = pump.run(flow)
    assert run.status == "failed", run.result
    sound(pump.db)
    broken(pump)
    resume(run)
    sound(pump.db)
    assert run.status == "running"
    assert run.error == ""
    pump.until(run.ended)
    sound(pump.db)
    return run


A, B, C, D, X = (put(name) for name in "abcdx")
USES = "$s$insert into fx (t) values ('x') returning $n as v$s$"  # a step that is broken refers to a name
SIGNALLED = "df.wait_for_signal('go')"


@pytest.mark.parametrize(
    ("flow", "left"),
    [
        (f"{X}", "x"),
        (f"{A} ~> {X} ~> {B}", "abx"),
        (f"{put('a', '5')} |=> 'n' ~> {USES} ~> {B}", "abx"),
        (f"{A} ~> ({B} & {X}) ~> {C}", "abcx"),
        (f"({A} ~> {B}) & ({C} ~> {X} ~> {D})", "abcdx"),
        (f"({put('a', '5')} |=> 'n' ~> {USES}) & {B}", "abx"),
        (f"{A} & (({B} & {X}) ~> {C})", "abcx"),
        (f"df.race({A} ~> {X} ~> {B}, {SIGNALLED}) ~> {C}", "abcx"),
        (f"df.race({put('a', '5')} |=> 'n' ~> {USES} ~> {B}, {SIGNALLED}) ~> {C}", "abcx"),
        (f"df.timeout({A} ~> {X} ~> {B}, '1 hour') ~> {C}", "abcx"),
        (f"df.if('select true', {A} ~> {X}, {B}) ~> {C}", "acx"),
        (f"df.if('select false', {A}, {X})", "x"),
        (f"df.if({X}, {A}, {B})", "ax"),
        (f"{put('a')} |=> 'r' ~> df.if_rows('r', {B} ~> {X}, {C})", "abx"),
        (f"df.catch({X}, {A}, array['P0001']) ~> {B}", "bx"),
        (f"df.catch({A} ~> 'select 1/0', {B} ~> {X} ~> {C}) ~> {D}", "abcdx"),
        (f"df.loop({A} ~> {X} ~> df.break())", "ax"),
        (f"df.loop({A} ~> {X} ~> df.break()) ~> {B}", "abx"),
        (f"({A} ~> df.loop({B} ~> {X} ~> df.break())) & {C}", "abcx"),
        (f"df.map('select g as v from generate_series(1, 3) g', {A} ~> {X})", "aaaxxx"),
        (f"{put('a', '5')} |=> 'n' ~> df.map('select g as v from generate_series(1, 3) g', {USES})", "axxx"),
        (f"df.undo({X}, {B}) ~> {A}", "ax"),
        (f"{A} ~> df.call({B} ~> {X}) ~> {C}", "abcx"),
        (f"{A} ~> df.call(df.call({B} ~> {X})) ~> {C}", "abcx"),
        (f"df.retry({X}, 2, '1 ms') ~> {A}", "ax"),
    ],
)
def test_what_has_failed_goes_on(pump: Pump, flow: str, left: str) -> None:
    run = resumed(pump, flow, "x")
    assert (run.status, "".join(notes(pump.db))) == ("completed", left), run.error


GO = (
    f"{A} ~> {SIGNALLED} ~> {B}",
    f"({A} ~> {SIGNALLED}) & ({B} ~> {C})",
    f"df.race({A} ~> {SIGNALLED}, {B} ~> df.sleep(10000) ~> {C}) ~> {D}",
    f"df.any({A} ~> {SIGNALLED}, {B} ~> df.sleep(10000))",
    f"df.timeout({A} ~> {SIGNALLED}, '1 hour', {B})",
    f"df.catch({A} ~> 'select 1/0', {B} ~> {SIGNALLED} ~> {C})",
    f"df.map('select g as v from generate_series(1, 30) g', {A} ~> {SIGNALLED}, 4)",
    f"df.map('select g as v from generate_series(1, 3) g', {A} ~> {SIGNALLED} ~> {B}, 4, 'stop')",
    f"df.map('select 1', df.map('select g as v from generate_series(1, 3) g', {A} ~> {SIGNALLED} ~> {B}, 2)) ~> {C}",
    f"{A} ~> df.call({B} ~> {SIGNALLED} ~> {C}) ~> {D}",
    f"{A} ~> df.map('select g as v from generate_series(1, 3) g', df.call({B} ~> {SIGNALLED} ~> {C})) ~> {D}",
    f"df.loop({A} ~> {SIGNALLED} ~> df.break()) ~> {C}",
    f"df.loop(({A} ~> {SIGNALLED} ~> df.break()) & {B})",
    f"df.undo({A}, {X}) ~> {SIGNALLED} ~> {B}",
    f"{A} ~> df.undo({SIGNALLED} ~> {B}, {X})",
)


def quiet(pump: Pump) -> bool:
    return pump.work() == "empty" and not pump.tick()["roles"]


def finish(pump: Pump, run: Run) -> list[str]:
    """Sends signals until the run has ended; what it has left behind."""

    def signalled() -> bool:
        pump.db.sql("select df.signal(id, 'go') from df.instances where status in ('pending', 'running')")
        return run.ended()

    pump.until(signalled)
    sound(pump.db)
    return notes(pump.db)


@pytest.mark.parametrize("flow", GO)
def test_what_was_cancelled_goes_on(pump: Pump, flow: str) -> None:
    """Cancelled and resumed, twice, it leaves behind the same as one that was left alone."""
    left = pump.start(flow)
    pump.until(lambda: quiet(pump))
    expected = finish(pump, left)
    assert left.status == "completed", left.error
    pump.db.sql("delete from fx")
    run = pump.start(flow)
    pump.until(lambda: quiet(pump))
    for _ in range(2):
        pump.db.sql("select df.cancel(%s)", run.id)
        sound(pump.db)
        resume(run)
        sound(pump.db)
        pump.until(lambda: quiet(pump))
        sound(pump.db)
    assert (finish(pump, run), run.status) == (expected, "completed"), run.error


def test_a_wait_for_a_condition_begins_again(pump: Pump) -> None:
    run = pump.start(f"{A} ~> df.wait_for('select count(*) > 1 from fx', '1 s') ~> {B}")
    pump.until(lambda: quiet(pump))
    pump.db.sql("select df.cancel(%s)", run.id)
    resume(run)
    pump.until(lambda: quiet(pump))
    pump.db.sql("insert into fx (t) values ('z')")
    pump.until(run.ended)
    assert (run.status, notes(pump.db)) == ("completed", ["a", "b", "z"])


def test_who_has_lost_a_race_goes_on_at_its_first_step_that_has_not_completed(pump: Pump) -> None:
    run = resumed(pump, f"df.race({A} ~> df.sleep(1) ~> {B} ~> {X}, {C} ~> df.sleep(10000) ~> {D}) ~> {put('e')}", "x")
    assert (run.status, notes(pump.db)) == ("completed", ["a", "b", "c", "e", "x"])
    run = pump.start(f"df.race({A} ~> {X}, {SIGNALLED} ~> {D}) ~> {put('e')}")
    broken(pump, "x")
    pump.until(run.ended)
    resume(run)
    pump.db.sql("select df.signal(%s, 'go')", run.id)
    broken(pump, "x", "e")
    pump.until(run.ended)
    assert "RACE left branch failed" in run.error


def test_a_time_out_begins_anew(pump: Pump) -> None:
    run = pump.start(f"{A} ~> df.timeout({B} ~> {SIGNALLED} ~> {C}, '1 hour')")
    pump.until(lambda: quiet(pump))
    pump.db.admin(CLOCK_AHEAD.format("2 hours"))
    pump.until(run.ended)
    assert (run.status, run.error) == ("failed", "timeout after 3600 s")
    resume(run)
    pump.until(lambda: quiet(pump))
    assert run.status == "running"
    pump.db.sql("select df.signal(%s, 'go')", run.id)
    pump.until(run.ended)
    assert (run.status, notes(pump.db)) == ("completed", ["a", "b", "c"])


def test_an_any_of_which_all_have_failed(pump: Pump) -> None:
    flow = f"df.any({put('a', '5')} |=> 'n' ~> {USES}, {B} ~> {X}) ~> {C}"
    run = resumed(pump, flow, "x")
    assert (run.status, notes(pump.db).count("a"), notes(pump.db).count("b")) == ("completed", 1, 1)


def test_a_loop_goes_on_in_the_same_iteration(pump: Pump) -> None:
    pump.db.sql("create sequence turns")
    flow = (
        "df.loop('select nextval(''turns'')' |=> 'n' ~> $s$insert into fx (t) values ('i' || $n)$s$ ~> "
        "df.if('select $n = 3', df.break('$n')))"
    )
    run = resumed(pump, flow, "i2")
    assert (run.status, notes(pump.db)) == ("completed", ["i1", "i2", "i3"])
    assert pump.db.sql("select current_execution_id from df.instance_info(%s)", run.id) == 3


def test_a_loop_within_goes_on_in_the_same_iteration(pump: Pump) -> None:
    pump.db.sql("create sequence turns")
    flow = (
        f"{A} ~> df.loop('select nextval(''turns'')' |=> 'n' ~> ($s$insert into fx (t) values ('i' || $n)$s$ & {B}) ~> "
        f"df.if('select $n = 3', df.break('$n'))) ~> {C}"
    )
    run = resumed(pump, flow, "i2")
    assert (run.status, notes(pump.db)) == ("completed", ["a", "b", "b", "b", "c", "i1", "i2", "i3"])


def test_a_handler_runs_again_with_the_same_error(pump: Pump) -> None:
    for branch in ("{}", "({} & 'select 1')"):
        pump.db.sql("delete from fx")
        handler = "$s$insert into fx (t) values ($error.sqlstate)$s$"
        run = resumed(pump, branch.format(f"df.catch({X}, {handler})"), "x", "P0042")
        assert (run.status, notes(pump.db)) == ("completed", ["P0042"])


@pytest.mark.parametrize("mode", ["fail", "stop"])
def test_a_map_goes_on_with_what_has_not_completed(pump: Pump, mode: str) -> None:
    flow = (
        "df.map('select g as v from generate_series(1, 40) g', "
        f"$s$insert into fx (t) values ('i' || $item_no) returning t$s$ ~> {A}, 3, '{mode}')"
    )
    run = resumed(pump, flow, "i7", "i20")
    assert run.status == "completed"
    assert notes(pump.db) == sorted(["a"] * 40 + [f"i{n}" for n in range(1, 41)])
    assert len(run.result) == 40


def test_a_map_in_an_item_of_a_map(pump: Pump) -> None:
    inner = (
        "df.map('select g as w from generate_series(1, 3) g', "
        "$s$insert into fx (t) values (concat($o.v, '/', $item.w))$s$)"
    )
    flow = f"df.map('select g as v from generate_series(1, 3) g', ('select $item.v as v' |=> 'o') ~> {inner})"
    run = resumed(pump, flow, "2/2")
    assert (run.status, notes(pump.db)) == ("completed", [f"{v}/{w}" for v in (1, 2, 3) for w in (1, 2, 3)])


ONE_ITEM = f"df.map('select 1', {X})"


@pytest.mark.parametrize(
    "part",
    [
        f"df.any({ONE_ITEM}, {X})",
        f"df.join({ONE_ITEM}, {X})",
        f"df.join({A} ~> df.break(), {ONE_ITEM})",
        f"df.map('select 1', df.join({ONE_ITEM}, {A}))",
        f"df.race(df.join({ONE_ITEM}, {SIGNALLED}), df.sleep(1))",
        f"df.timeout(df.join({ONE_ITEM}, {SIGNALLED}), 1)",
    ],
)
def test_a_map_in_a_loop_that_has_been_caught_keeps_nothing(pump: Pump, part: str) -> None:
    broken(pump, "x")
    run = pump.run(f"df.loop(df.catch({part}, 'select 1', array['P0042', 'DF408']) ~> df.break())")
    assert run.status == "completed"
    assert pump.db.admin(ROWS.format("df_engine.map_items")) == 0


def test_a_call_resumes_its_child_or_waits_for_it(pump: Pump) -> None:
    broken(pump, "x")
    run = pump.run(f"{A} ~> df.call({B} ~> {X} ~> {SIGNALLED}) ~> {C}")
    child = Run(pump.db, str(pump.db.sql("select id from df.instances where id <> %s", run.id)))
    broken(pump)
    resume(child)
    pump.until(lambda: quiet(pump))
    assert (run.status, child.status) == ("failed", "running")
    sound(pump.db)
    resume(run)
    sound(pump.db)
    pump.db.sql("select df.signal(%s, 'go')", child.id)
    pump.until(run.ended)
    assert (run.status, child.status, notes(pump.db)) == ("completed", "completed", ["a", "b", "c", "x"])
    assert pump.db.sql("select count(*) from df.instances") == 2
    sound(pump.db)


def test_a_child_that_has_completed_meanwhile_is_not_run_again(pump: Pump) -> None:
    broken(pump, "x")
    run = pump.run(f"{A} ~> df.call({B} ~> {X}) |=> 'r' ~> $s$insert into fx (t) values ($r)$s$")
    child = Run(pump.db, str(pump.db.sql("select id from df.instances where id <> %s", run.id)))
    broken(pump)
    resume(child)
    pump.until(child.ended)
    resume(run)
    pump.until(run.ended)
    assert (run.status, notes(pump.db)) == ("completed", ["a", "b", "x", "x"])


def test_a_child_that_was_stopped_a_moment_ago(pump: Pump) -> None:
    """What waits of it has not even been removed."""
    run = pump.start(f"df.timeout(df.call({A} ~> ({SIGNALLED} & df.sleep(0)) ~> {B}), '1 hour') ~> {C}")
    pump.until(lambda: quiet(pump))
    pump.db.admin("select df.set_setting('tick_time', '0')")
    pump.db.admin(CLOCK_AHEAD.format("2 hours"))
    pump.tick()
    assert pump.db.rows("select status from df.instances order by 1") == [("cancelled",), ("failed",)]
    assert pump.db.admin(TIMERS) > 0
    resume(run)
    sound(pump.db)
    assert (finish(pump, run), run.status) == (["a", "b", "c"], "completed")


def test_a_call_that_has_lost_its_race_shows_nothing(pump: Pump) -> None:
    """It leaves what a resume would need, and that is no activation: the run goes on without it."""
    run = pump.start(f"df.race({A}, df.call({SIGNALLED})) ~> {SIGNALLED}")
    pump.until(lambda: run.node("CALL")["status"] == "pending" and quiet(pump))
    assert pump.db.rows("select node_type from df.node_activations(%s) where node_type = 'CALL'", run.id) == []


def test_a_child_that_is_gone(pump: Pump) -> None:
    broken(pump, "x")
    run = pump.run(f"df.call({X})")
    child = pump.db.sql("select id from df.instances where id <> %s", run.id)
    pump.db.sql("select df.forget(%s)", child)
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match=f"instance {child} cannot be resumed"):
        resume(run)
    assert run.status == "failed"


def test_a_retry_begins_anew_and_its_history_is_kept(pump: Pump) -> None:
    broken(pump, "x")
    run = pump.run(f"df.retry({X}, 2, '1 ms')")
    resume(run)
    pump.until(run.ended)
    assert run.status == "failed"
    assert pump.db.rows(ATTEMPTS_IN_ORDER, user=None) == [(1, "P0042"), (2, "P0042"), (1, "P0042")]
    assert run.node("fx")["attempts"] == 2


def test_what_has_begun_to_be_undone_is_not_resumed(pump: Pump) -> None:
    broken(pump, "x")
    run = pump.run(f"df.undo({A}, {B}) ~> {X}")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="begun to be undone") as raised:
        resume(run)
    assert "df.rerun" in str(raised.value.diag.message_hint)
    run = resumed(pump, f"df.catch(df.undo({C}, {D}) ~> {X}, {put('y')}) ~> {put('z')}", "x", "y")
    assert (run.status, notes(pump.db)) == ("completed", ["a", "b", "c", "d", "y", "z"])


@pytest.mark.parametrize("ends", [False, True])
def test_neither_paused_nor_ended(pump: Pump, ends: bool) -> None:
    run = pump.start(A)
    if ends:
        pump.until(run.ended)
    with pytest.raises(
        errors.ObjectNotInPrerequisiteState, match="is completed\n" if ends else "is pending, and not paused\n"
    ):
        resume(run)


def test_many_are_resumed_by_one_statement(pump: Pump) -> None:
    broken(pump, "x")
    runs = [pump.start(f"{A} ~> {X}") for _ in range(5)] + [pump.start(B)]
    pump.until(lambda: all(run.ended() for run in runs))
    broken(pump)
    query = "select df.resume(id) from df.instances where status = 'failed' and error ~ 'x is broken'"
    assert pump.db.rows(query) == [("OK",)] * 5
    pump.until(lambda: all(run.ended() for run in runs))
    assert notes(pump.db) == ["a"] * 5 + ["b"] + ["x"] * 5


def test_signals_that_nobody_took_stay_so(pump: Pump) -> None:
    broken(pump, "x")
    run = pump.start(f"{X} ~> {SIGNALLED}")
    pump.db.sql("select df.signal(%s, 'go')", run.id)
    pump.until(run.ended)
    pump.until(lambda: quiet(pump))
    broken(pump)
    resume(run)
    pump.until(lambda: quiet(pump))
    assert run.status == "running"
    pump.db.sql("select df.signal(%s, 'go')", run.id)
    pump.until(run.ended)
    assert run.status == "completed"
    assert pump.db.rows("select status from df.signals order by 1") == [("delivered",), ("undeliverable",)]


def test_a_key_stays_with_the_run(pump: Pump) -> None:
    broken(pump, "x")
    start = f"select df.start({X}, key => 'k', on_conflict => 'restart')"
    run = Run(pump.db, str(pump.db.sql(start)))
    pump.until(run.ended)
    resume(run)
    assert pump.db.sql(start) == run.id


def test_what_is_resumed_counts_as_live(pump: Pump) -> None:
    broken(pump, "x")
    run = pump.run(X)
    pump.start(SIGNALLED)
    pump.db.admin("select df.set_role_limit('app', live_instances => 1)")
    with pytest.raises(errors.ProgramLimitExceeded, match="may have 1 live instances"):
        resume(run)
    assert run.status == "failed"


def test_what_is_not_kept_is_not_resumed(pump: Pump) -> None:
    broken(pump, "x")
    run = pump.run(X)
    pump.db.sql("select df.forget(%s)", run.id)
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="not kept any more"):
        resume(run)


def test_what_is_removed_in_part_is_not_resumed(pump: Pump) -> None:
    items = "'select g as v from generate_series(1, 11) g'"
    run = pump.start(f"df.map({items}, df.map({items}, {A})) ~> {X}")
    broken(pump, "x")
    pump.until(run.ended)
    pump.db.admin(RUNS_AGED, "1 year")
    assert pump.db.admin(REMOVED_OF_RUNS, 200, 10) is True
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="not kept any more"):
        resume(run)


def test_another_input(pump: Pump) -> None:
    start = """select df.start('insert into fx (i) values ($input.n)', input => '{"n": "no"}')"""
    run = Run(pump.db, str(pump.db.sql(start)))
    pump.until(run.ended)
    assert run.status == "failed"
    pump.db.sql("""select df.resume(%s, '{"n": 5}')""", run.id)
    pump.until(run.ended)
    assert (run.status, pump.db.sql("select i from fx")) == ("completed", 5)


def test_a_step_that_cancels_its_run_has_completed(pump: Pump) -> None:
    own = (
        "$s$with c as (select df.cancel(id) from df.instances where label = 'own') "
        "insert into fx (t) select 'a' from c returning 5 as v$s$"
    )
    for flow in (f"{own} |=> 'n' ~> {USES}", f"({own} & {put('x')}) ~> {B}", f"df.race({own}, {SIGNALLED}) ~> {X}"):
        pump.db.sql("delete from fx")
        run = pump.start(flow, "own")
        pump.until(run.ended)
        assert run.status == "cancelled"
        resume(run)
        sound(pump.db)
        pump.until(run.ended)
        assert run.status == "completed", run.error
        assert notes(pump.db).count("a") == notes(pump.db).count("x") == 1
        pump.db.admin(LABELS_GONE)


def test_a_step_that_still_runs_is_waited_for_and_has_not_completed(pump: Pump) -> None:
    """The run was cancelled while the step ran; what the step has done is rolled back, and it runs again."""
    for flow in (f"{A} ~> {B}", f"({A} ~> {B}) & df.sleep(1)"):
        pump.db.sql("delete from fx")
        run = pump.start(flow)
        with in_a_step(pump):
            pump.db.sql("select df.cancel(%s)", run.id)
            with pump.db.connect("app") as conn:
                thread = threading.Thread(target=conn.execute, args=["select df.resume(%s)", [run.id]])
                thread.start()
                wait_until(lambda: pump.db.admin("select count(*) > 1 from pg_locks where not granted"))
                pump.db.admin("select pg_cancel_backend(%s)", pump.session.info.backend_pid)
                thread.join()
        sound(pump.db)
        assert run.status == "running"
        pump.until(run.ended)
        assert (run.status, notes(pump.db)) == ("completed", ["a", "b"])


def test_a_resume_that_finds_a_cancel_and_its_step_is_to_be_tried_again(pump: Pump) -> None:
    run = pump.start(f"{A} ~> {B}")
    with in_a_step(pump), pump.db.connect("app", autocommit=False) as conn:
        conn.execute("select df.cancel(%s)", [run.id])
        raised: list[str | None] = []

        def try_it() -> None:
            with pump.db.connect("app") as other, pytest.raises(errors.ObjectInUse) as failure:
                other.execute("select df.resume(%s)", [run.id])
            raised.append(failure.value.sqlstate)

        thread = threading.Thread(target=try_it)
        thread.start()
        wait_until(lambda: pump.db.admin("select count(*) > 1 from pg_locks where not granted"))
        conn.commit()
        thread.join()
        pump.db.admin("select pg_cancel_backend(%s)", pump.session.info.backend_pid)
    assert raised == ["55006"]
    pump.until(lambda: quiet(pump))
    resume(run)
    pump.until(run.ended)
    assert notes(pump.db) == ["a", "b"]
