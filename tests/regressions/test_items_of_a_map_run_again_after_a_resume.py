"""An item of a map that had completed ran a second time when its run was resumed.

A map that fails keeps what its items have done, unless something around handles its failure. That was asked of its own
failure, and the run may fail with another one: of another branch or item, or of the condition of a loop that continues.
"""

import pytest

from tests.engine.test_resume import broken, notes, put, resume, sound
from tests.support import Pump

A, X = put("a"), put("x")
DIVIDED = "$s$select 1 / (select count(*) from repaired)$s$"
ONE_ITEM = f"df.map('select 1', {A} ~> {DIVIDED})"
SECOND = f"df.map('select g as v from generate_series(1, 2) g', df.if('select $item.v = 1', {X}, {ONE_ITEM}), 2)"


def caught(part: str) -> str:
    return f"df.loop(df.catch({part}, {put('never')}, array['22012']) ~> df.break())"


@pytest.mark.parametrize(
    "flow",
    [
        caught(f"df.join({X}, {ONE_ITEM})"),
        caught(f"df.any({X}, {ONE_ITEM})"),
        caught(SECOND),
        f"df.loop({put('b')}, {ONE_ITEM} ~> 'select false', true) ~> {X}",
    ],
)
def test_what_an_item_has_done_is_kept(pump: Pump, flow: str) -> None:
    pump.db.sql("create table repaired (t text)")
    broken(pump, "x")
    run = pump.run(flow)
    assert run.status == "failed", run.result
    sound(pump.db)
    assert "never" not in notes(pump.db)
    broken(pump)
    pump.db.sql("insert into repaired values ('it')")
    resume(run)
    sound(pump.db)
    pump.until(run.ended)
    assert (run.status, notes(pump.db).count("a"), notes(pump.db).count("x")) == ("completed", 1, 1), run.error
