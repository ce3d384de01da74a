"""Random graphs of which failed steps and waits are skipped: what is skipped is not done, and the rest once."""

import re
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.test_resume import broken, notes, sound
from tests.oracle.skippable import flows
from tests.oracle.test_graphs import profile
from tests.oracle.test_resumed import rest, signal, to_the_end
from tests.support import Database, Pump, Run

VALUE = '{"rows": [{"v": "skipped"}], "row_count": 1}'
OPEN = r"""
select n.id, n.node_type, substring(n.query from 'values \(''(s\d+)''\)')
from df.nodes n
where n.instance_id = %s and n.status in ('failed', 'running')
  and (n.node_type = 'SIGNAL' or n.query ~ 'values \(''s\d+''\)' and n.node_type = 'SQL')
order by df_engine.node_of(n.instance_id, n.id)"""


@pytest.fixture(scope="module")
def pump(shared: Database) -> Iterator[Pump]:
    shared.sql("create table fx (i int, t text)")
    pump = Pump(shared)
    broken(pump)
    yield pump
    pump.close()


def finish(pump: Pump, run: Run) -> tuple[list[str], str]:
    """What the run has done in the end, and its status."""
    to_the_end(pump, run)
    left = notes(pump.db)
    pump.db.sql("delete from fx")
    return left, run.status


def skip_one(pump: Pump, run: Run, which: int) -> list[str]:
    """Skips an open node, in the first of the items in which it is open; the step that it was, if it was one."""
    found = pump.db.rows(OPEN, run.id)
    for node, _, step in found[which % len(found) :] + found[: which % len(found)] if found else ():
        scope = None
        while True:
            try:
                assert pump.db.sql("select df.skip(%s, %s, %s, %s)", run.id, node, VALUE, scope) == "OK"
            except psycopg.errors.AmbiguousParameter as refused:
                scope = str(refused.diag.message_detail).split(": ")[1].split(", ")[0]
            except psycopg.errors.ObjectNotInPrerequisiteState as refused:
                assert "is not open" in str(refused), run.error
                break
            else:
                sound(pump.db)
                return [step] if step else []
    return []


def test_what_is_skipped_is_not_done_and_the_rest_once(pump: Pump) -> None:
    @profile(60)
    @given(flows(), st.data())
    def agree(flow: tuple[str, int], data: st.DataObject) -> None:
        text, steps = flow
        pump.db.sql("select df.cancel(id) from df.instances where status in ('pending', 'running')")
        pump.db.sql("delete from fx")
        broken(pump)
        expected, status = finish(pump, pump.start(text))
        run = pump.start(text)
        handled = re.findall(r"'(s\d+)'\)[^$]*\$s\$ ~> 'select 1/0'", text)  # if they fail, their handler runs
        breakable = sorted({f"s{n}" for n in range(1, steps + 1)} - set(handled))
        names = st.sampled_from(breakable) if breakable else st.nothing()
        skipped: list[str] = []
        for _ in range(data.draw(st.integers(1, 4))):
            broken(pump, *(data.draw(st.sets(names, max_size=3)) if breakable else ()))
            for _ in range(data.draw(st.integers(0, 2))):
                rest(pump)
                signal(pump)
            rest(pump)
            if not run.ended() and data.draw(st.booleans()):
                pump.db.sql("select df.cancel(%s)", run.id)
                sound(pump.db)
            if run.status != "completed":
                skipped += skip_one(pump, run, data.draw(st.integers(0, 9)))
        broken(pump)
        rest(pump)
        if run.status in ("failed", "cancelled"):
            pump.db.sql("select df.resume(%s)", run.id)
        left, ended = finish(pump, run)
        assert ended == status, (text, run.error)
        assert sorted(left + skipped) == expected, (text, skipped)

    agree()
