"""The bytes that leased steps hold: who waits for room, who gets it, and what is refused before it takes any."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pg_durable.http.response import json_size
from pg_durable.http.runner import HttpRunner
from pg_durable.leases.byte_budget import ByteBudget, Bytes
from pg_durable.metrics.metrics import Metrics

from tests import state
from tests.support import Database, wait_until
from tests.worker.http_requests import request
from tests.worker.http_server import HttpServer
from tests.worker.process import SpawnWorker, await_end, error, start

MB = 1 << 20


class Bench:
    """A budget of 100 MB, and steps that want some of it."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.budget = ByteBudget().share(self.metrics)
        self.budget.resize(100 * MB)
        self.tasks: dict[Bytes, asyncio.Task[None]] = {}

    async def step(self, role: str, megabytes: int, request: int = 0) -> Bytes:
        step = self.budget.open(role, request * MB)
        await self.more(step, megabytes)
        return step

    async def more(self, step: Bytes, megabytes: int) -> None:
        self.tasks[step] = asyncio.create_task(step.hold(megabytes * MB))
        await self.settled()

    @staticmethod
    async def settled() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    def granted(self, *steps: Bytes) -> list[bool]:
        return [self.tasks[step].done() for step in steps]


async def test_a_step_without_room_waits_until_there_is_some() -> None:
    bench = Bench()
    first, second, third = [await bench.step(role, 45) for role in ("a", "b", "c")]
    assert bench.granted(first, second, third) == [True, True, False]
    first.ended(60 * MB)
    await bench.settled()
    assert bench.granted(third) == [False]
    first.free()
    await bench.settled()
    assert bench.granted(third) == [True]
    assert bench.metrics.total("bytes_in_flight") == bench.budget.used == 90 * MB


async def test_the_role_that_holds_least_comes_first() -> None:
    bench = Bench()
    held = [await bench.step("a", 30), await bench.step("a", 30), await bench.step("b", 30)]
    of_a, of_b, of_c = await bench.step("a", 30), await bench.step("b", 30), await bench.step("c", 30)
    assert bench.granted(of_a, of_b, of_c) == [False] * 3
    held[0].free()
    await bench.settled()
    assert bench.granted(of_a, of_b, of_c) == [False, False, True]


async def test_no_role_gets_all() -> None:
    bench = Bench()
    first, second = await bench.step("a", 70), await bench.step("a", 20)
    assert bench.granted(first, second) == [True, False]
    assert bench.granted(await bench.step("b", 20)) == [True]
    first.free()
    await bench.settled()
    assert bench.granted(second) == [True]


async def test_a_role_that_holds_its_share_is_sated() -> None:
    bench = Bench()
    await bench.step("a", 10, request=65)
    await bench.step("b", 10)
    assert bench.budget.sated == ["a"]


async def test_a_few_bytes_never_wait() -> None:
    bench = Bench()
    await bench.step("a", 0, request=200)
    small = bench.budget.open("b", 100)
    await asyncio.wait_for(small.hold(65_536), 5)


async def test_steps_that_all_wait_for_each_other_go_on_one_by_one() -> None:
    bench = Bench()
    steps = [await bench.step(role, 30) for role in ("a", "b", "c")]
    for step in steps:
        await bench.more(step, 60)
    assert bench.granted(*steps) == [False, False, True] or sum(bench.granted(*steps)) == 1
    ended = next(step for step in steps if bench.granted(step) == [True])
    ended.free()
    await bench.settled()
    assert sum(bench.granted(*steps)) >= 2


async def test_the_steps_of_one_role_do_not_wait_for_each_other_for_ever() -> None:
    bench = Bench()
    steps = [await bench.step("a", 35), await bench.step("a", 35)]
    for step in steps:
        await bench.more(step, 50)
    assert sum(bench.granted(*steps)) == 1


async def test_a_result_larger_than_the_budget_passes_alone() -> None:
    bench = Bench()
    assert bench.granted(await bench.step("a", 200)) == [True]
    assert bench.granted(await bench.step("b", 1)) == [False]


async def test_a_step_that_is_cancelled_waits_no_more() -> None:
    bench = Bench()
    await bench.step("a", 70)
    waiting = await bench.step("b", 70)
    last = await bench.step("c", 20)
    bench.tasks[waiting].cancel()
    await bench.settled()
    assert bench.budget.waiting == 0
    assert bench.granted(last) == [True]


@pytest.mark.parametrize(
    "text", ["plain", 'a "quoted" \\ text', "\n\t\r\b\f", "".join(map(chr, range(1, 256))), "é漢😀"]
)
def test_the_size_of_json_is_known_before_it_is_made(text: str) -> None:
    assert json_size(text) == len(json.dumps(text, ensure_ascii=False).encode())


async def test_a_response_that_is_too_large_as_json_is_refused(web: HttpServer) -> None:
    runner = HttpRunner()
    outcome = await runner.run(request(web.url("/control?bytes=1000"), max_result_bytes=5000))
    assert outcome["class"] == "refused"
    assert "bytes of JSON, and max_result_bytes allows 5000" in outcome["error"]
    assert "value" in await runner.run(request(web.url("/control?bytes=1000"), max_result_bytes=7000))
    await runner.close()


async def test_waiting_for_room_is_not_the_other_sides_time(web: HttpServer) -> None:
    bench, runner = Bench(), HttpRunner()
    other = await bench.step("a", 70)
    held = bench.budget.open("b", 0)
    bench.budget.resize(70 * MB)
    task = asyncio.create_task(runner.run(request(web.url("/huge?bytes=1000000"), timeout_seconds=0.5), held))
    await asyncio.sleep(1)  # beyond the time-out
    assert bench.budget.waiting == 1
    assert not task.done()
    other.free()
    assert (await task)["value"]["status"] == 200
    await runner.close()


PEAK = "VmHWM"


def memory(worker_pid: int, what: str) -> int:
    """Megabytes."""
    lines = Path(f"/proc/{worker_pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(what))


@pytest.fixture
def local(db: Database, web: HttpServer) -> Callable[[str], str]:
    """URLs of a server on this machine that steps may reach."""
    db.admin("select df.http_allow('127.0.0.1', true), df.grant_usage('app', include_http => true)")
    return web.url


@pytest.mark.parametrize(("size", "ends"), [(10_000_000, "failed"), (2_700_000, "completed")])
def test_many_responses_of_control_characters_do_not_fill_the_worker(
    db: Database,
    local: Callable[[str], str],
    spawn: SpawnWorker,
    size: int,
    ends: str,
) -> None:
    worker = spawn()
    flow = f"df.http('{local(f'/control?bytes={size}')}', 'GET', timeout_seconds => 120)"
    runs = [start(db, flow) for _ in range(30 if ends == "failed" else 6)]
    assert {await_end(db, instance, 120) for instance in runs} == {ends}
    if ends == "failed":
        assert "bytes of JSON, and max_result_bytes allows" in error(db, runs[0])
    assert db.admin("select max(attempts) from df.nodes") == 1
    assert memory(worker.process.pid, PEAK) < 400


def test_large_requests_are_leased_a_few_at_a_time(
    db: Database,
    local: Callable[[str], str],
    spawn: SpawnWorker,
) -> None:
    flow = f"df.http('{local('/slow?s=0.2')}', 'POST', body => '{{body}}')"
    db.sql("select df.setvar('body', repeat('x', 9000000))")
    db.admin("select df.set_setting('worker_bytes_in_flight', '20000000')")
    worker = spawn()
    runs = [start(db, flow) for _ in range(12)]
    assert {await_end(db, instance, 120) for instance in runs} == {"completed"}
    assert memory(worker.process.pid, PEAK) < 250


def test_runs_say_that_they_wait_for_room_in_memory(
    db: Database, local: Callable[[str], str], spawn: SpawnWorker
) -> None:
    """The outcome of the first, whose run somebody has locked, stays in memory."""

    def reason(run: str) -> str:
        return str(db.sql("select wait_reason from df.instances where id = %s", run))

    db.admin("select df.set_setting('worker_bytes_in_flight', '1048576')")
    spawn()
    flow = f"df.http('{local('/huge?bytes=600000')}', 'GET')"
    first = start(db, f"df.http('{local('/huge?bytes=800000&s=2')}', 'GET')")
    wait_until(lambda: db.admin(state.LEASED_STEPS) == 1)
    with db.connect(autocommit=False) as conn:
        conn.execute(state.RUN_LOCKED, [first])
        second = start(db, flow)
        wait_until(lambda: "what its step has read waits for room" in reason(second), 30)
        third = start(db, flow)
        wait_until(lambda: "hold all bytes that they may hold" in reason(third), 30)
        assert "waits for room" in str(db.sql("select reason from df.stuck('0') where instance_id = %s", second))
        assert reason(first) == "None"
    assert [await_end(db, each, 30) for each in (first, second, third)] == ["completed"] * 3
    wait_until(lambda: not db.rows(state.SHORT_OF_BYTES, user=None), 30)
