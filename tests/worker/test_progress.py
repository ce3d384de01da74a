"""df.progress: what a step says of itself while it runs, and what nobody can say of another."""

import asyncio
from typing import Any

import pytest
from pg_durable.sessions import progress
from pg_durable.sessions.progress import ProgressReports
from pg_durable.sessions.session import MOST_SAID

from tests.support import Database, wait_until
from tests.worker.process import Gate, SpawnWorker, WorkerProcess, await_end, error, run, start

SAID = "select progress_done::float, progress_total::float, progress_note from df.running_steps where instance_id = %s"


def step(*calls: str) -> str:
    """A step that makes these calls, then waits at the gate."""
    return f"'do $do$ begin {' '.join(f'perform {call};' for call in calls)} perform ({Gate.STEP}); end $do$'"


def said(db: Database, instance: str, user: str | None = "app") -> list[tuple[Any, ...]]:
    return db.rows(SAID, instance, user=user)


def test_progress_is_shown_while_the_step_runs(db: Database, worker: WorkerProcess) -> None:
    gate = Gate(db)
    instance = start(db, f"'select 1' ~> {step('df.progress(40, 100, $n$half$n$)')} ~> 'select 2'")
    wait_until(lambda: said(db, instance) == [(40, 100, "half")])
    drawn = db.sql("select df.explain(%s)", instance)
    assert "⏳ 40 of 100 (40 %): half" in drawn
    assert drawn.count("40 of 100") == 1
    gate.open()
    assert await_end(db, instance) == "completed", error(db, instance)
    assert said(db, instance) == []
    assert "40 of 100" not in db.sql("select df.explain(%s)", instance)


def test_the_newest_is_shown_however_many_there_were(db: Database, worker: WorkerProcess) -> None:
    gate = Gate(db)
    instance = start(db, step("df.progress(i) from generate_series(1, 3000) i", "df.progress(3001.50)"))
    wait_until(lambda: said(db, instance) == [(3001.5, None, None)])
    assert "⏳ 3001.5" in db.sql("select df.explain(%s)", instance)
    gate.open()
    assert await_end(db, instance) == "completed"


def test_nobody_else_sees_it(db: Database, worker: WorkerProcess) -> None:
    gate = Gate(db)
    instance = start(db, step("df.progress(1)"))
    wait_until(lambda: said(db, instance) == [(1, None, None)])
    assert said(db, instance, "other") == []
    gate.open()


def test_each_step_shows_its_own(db: Database, worker: WorkerProcess) -> None:
    gate = Gate(db)
    instance = start(db, f"{step('df.progress(1)')} & {step('df.progress(2)')}")
    wait_until(lambda: {done for done, _, _ in said(db, instance)} == {1, 2})
    drawn = db.sql("select df.explain(%s)", instance).splitlines()
    assert [line.rstrip()[-1] for line in drawn if "SQL" in line] == ["1", "2"]
    gate.open()


def test_a_step_that_says_nothing_shows_nothing_of_the_one_before(db: Database, worker: WorkerProcess) -> None:
    gate = Gate(db)
    body = f"'select df.progress(5), pg_sleep(0.3)' ~> {step()}"
    instance = start(db, f"df.loop({body}, 'select false')")
    wait_until(lambda: gate.waiting)
    assert said(db, instance) == [(None, None, None)]
    gate.open()


def test_a_block_shows_its_progress(db: Database, worker: WorkerProcess) -> None:
    gate = Gate(db)
    instance = start(db, f"df.block('select df.progress(1, 2)', '{Gate.STEP}')")
    wait_until(lambda: said(db, instance) == [(1, 2, None)])
    gate.open()


def test_short_steps_that_share_a_transaction_show_their_own(db: Database, worker: WorkerProcess) -> None:
    db.admin("select df.set_setting('commit_policy', 'relaxed')")
    db.sql("create table gated (v boolean)")
    waits = f"if exists (select from gated) then perform ({Gate.STEP}); end if;"
    wait = f"'do $do$ begin perform df.progress(7); {waits} end $do$'"
    flow = f"'select 1' ~> {wait} ~> 'select 3'"
    for _ in range(3):
        run(db, flow)
    gate = Gate(db)
    db.sql("insert into gated values (true)")
    instance = start(db, flow)
    wait_until(lambda: said(db, instance) == [(7, None, None)])
    shown = db.sql("select query from df.running_steps where instance_id = %s", instance)
    assert "df.progress" in shown
    gate.open()


def test_a_procedure_that_commits_shows_its_progress(db: Database, worker: WorkerProcess) -> None:
    db.sql(f"""
        create procedure work() language plpgsql as $$
        begin commit; perform df.progress(3, 4, 'leased'); commit; perform ({Gate.STEP}); end $$""")
    gate = Gate(db)
    instance = start(db, "'call work()'")
    wait_until(lambda: said(db, instance) == [(3, 4, "leased")])
    gate.open()
    assert await_end(db, instance) == "completed", error(db, instance)


def test_a_careful_worker_hears_it_too(db: Database, spawn: SpawnWorker) -> None:
    worker = spawn()
    assert await_end(db, start(db, "'select pg_terminate_backend(pg_backend_pid())'")) == "failed"
    gate = Gate(db)
    instance = start(db, step("df.progress(1)"))
    wait_until(lambda: said(db, instance) == [(1, None, None)])
    gate.open()
    assert await_end(db, instance) == "completed", worker.log


def test_what_a_step_prints_itself_is_not_believed(db: Database, worker: WorkerProcess) -> None:
    gate = Gate(db)
    victim = start(db, step("df.progress(1, 2)"))
    wait_until(lambda: said(db, victim) == [(1, 2, None)])
    node = db.sql("select node_id from df.running_steps")
    prints = (
        "do $do$ begin perform df.progress(50, 100); "
        f"perform set_config('application_name', 'pg_durable:{victim}:{node}', true); perform df.progress(99, 100); "
        "raise info 'pg_durable progress 99' using detail = repeat('0', 64) || "
        f"jsonb_build_object('pid', pg_backend_pid(), 'xid', pg_current_xact_id()::text, 'queue', 1, 'leased', false, "
        "'node', 1, 'done', 98); "
        f"raise info 'pg_durable progress' using detail = repeat('x', {MOST_SAID}); "
        "raise info 'pg_durable progress'; raise info 'pg_durable progress 1' using detail = 'x'; "
        f"perform ({Gate.STEP}); end $do$"
    )
    attacker = db.sql("select df.start(df.sql(%s))", prints)
    wait_until(lambda: gate.waiting == 2)
    assert said(db, victim) == [(1, 2, None)]
    assert said(db, attacker) in ([], [(None, None, None)])
    gate.open()
    for instance in (victim, attacker):
        assert await_end(db, instance) == "completed", error(db, instance)
    assert "refused" not in worker.log


class Commands:
    """As much of a command queue as keeps what is put in."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def put(self, command: Any, poll: bool) -> None:
        assert not poll
        self.kept.append(command.args)


def test_a_session_is_reported_once_a_second_with_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands()
    later: list[Any] = []

    async def flood() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "call_later", lambda delay, call, *args: later.append((delay, call, args)))
        reports = ProgressReports(commands)  # type: ignore[arg-type]
        for i in range(10_000):
            reports.heard(1, None, str(i))
        reports.heard(2, 7, "leased")
        assert commands.kept == [(1, None, "0"), (2, 7, "leased")]
        assert [delay for delay, _, _ in later] == [progress.PAUSE] * 2
        for _ in range(3):
            due, later[:] = later[:], []
            for _, call, args in due:
                call(*args)
        assert commands.kept[2:] == [(1, None, "9999")]
        assert (later, reports._newest) == ([], {})

    asyncio.run(flood())
