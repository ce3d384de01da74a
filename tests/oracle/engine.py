"""The engine under the oracle's eyes: a clock that tests move, and a log of every change of a node."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any

from tests.oracle.steps import LIMIT, VARIABLES
from tests.oracle.tree import Node
from tests.state import LOG, WORK_IS_LEFT
from tests.support import Database, Pump, Run

NODES = 40
MIDNIGHT = datetime(2030, 1, 1, tzinfo=UTC)

SCHEMA = f"""
create table fx (id bigint generated always as identity, run text, step text, seen text, tries int);
create function too_many() returns trigger language plpgsql as $$
begin
  if (select count(*) >= {LIMIT} from fx where run = new.run) then
    raise exception 'too many effects' using errcode = 'OR001';
  end if;
  return new;
end $$;
create trigger too_many before insert on fx for each row execute function too_many();
create function trip(sequence text, times int, code text) returns int language plpgsql as $$
begin
  if nextval(sequence) <= times then
    raise exception 'tripped' using errcode = code;
  end if;
  return 0;
end $$;
select df.clearvars();
select df.set_limit('one', 1), df.set_limit('two', 2);
"""

CLOCK = f"""
create table public.clock (at timestamptz);
insert into public.clock values ('{MIDNIGHT.isoformat()}');
create or replace function df_engine.clock() returns timestamptz language sql volatile security definer
  as $$ select at from public.clock $$;
select df.set_setting('reconcile_interval', '0');  -- retention would take it for the truth
"""


def prepare(db: Database) -> None:
    """What steps need, variables and the log."""
    db.sql(SCHEMA)
    for number in range(NODES):
        db.sql(f"create sequence tries_s{number}")
    for name, value in VARIABLES.items():
        db.sql("select df.setvar(%s, %s)", name, value)
    db.admin(LOG)


def stop_clock(db: Database) -> None:
    """Time is where tests put it."""
    db.admin(CLOCK)


def within_limits(envelope: dict[str, Any]) -> dict[str, Any]:
    """The same graph within limits, some of its nodes within more of them: nothing that a run shows depends on that."""
    for number, node in enumerate(nodes_of(envelope)):
        if number % 3 == 0:
            node["within"] = {"two": "key", "one": ""} if number % 2 else {"one": "$a? {v_num}"}
    return envelope


def nodes_of(envelope: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield envelope
    for key in ("condition_node", "left_node", "right_node"):
        if key in envelope:
            yield from nodes_of(envelope[key])
    for extra in envelope.get("extra_nodes", []):
        yield from nodes_of(extra)


@dataclass
class Change:
    """One line of the log."""

    node: Node
    status: str
    stamp: str
    retry_at: float | None
    result: Any


class Engine:
    """Starts runs and lets them go on until nothing is left to do at the present time."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.pump = Pump(db)
        self.policies = cycle(["strict", "relaxed"])
        self.limited = cycle([False, False, True, True])

    def move_clock(self, seconds: float) -> None:
        self.db.admin("update public.clock set at = %s", MIDNIGHT + timedelta(seconds=seconds))

    def begin(self, root: Node) -> tuple[Run, dict[Node, str]]:
        """Starts a run, under one commit policy and the other in turn; answers with it and the ids of its nodes."""
        self.db.admin("select df.set_setting('commit_policy', %s)", next(self.policies))
        for node in root.walk():
            if node.step.trips:
                self.db.sql("select setval(%s, 1, false)", f"tries_{node.label}")
        graph = within_limits(root.envelope()) if next(self.limited) else root.envelope()
        run = Run(self.db, str(self.db.sql("select df.start(%s, 'oracle')", json.dumps(graph))))
        return run, identify(run, root)

    def settle(self) -> None:
        """Does what there is to do; the calls of a worker must not fail."""
        for _ in range(100):
            self.pump.work()
            self.pump.tick()
            if not self.db.admin(WORK_IS_LEFT):
                return
        raise AssertionError("the run does not come to rest")

    def let_go(self) -> None:
        """Holds nothing back any more."""

    def changes(self, run: Run, nodes: dict[str, Node], past: int) -> list[Change]:
        """What has been logged of a run, but for the first lines.

        Of transactions that wrote at the same time, one has waited for the other: the one that wrote last.
        """
        rows = self.db.rows(
            "select node, status, stamp, extract(epoch from retry_at - %s)::float, result from public.log "
            "where run = %s order by max(id) over (partition by tx), id offset %s", MIDNIGHT, run.id, past, user=None,
        )  # fmt: skip
        return [Change(nodes[node], *rest) for node, *rest in rows]


def identify(run: Run, root: Node) -> dict[Node, str]:
    """The ids of the nodes of a graph: children are where the contract says."""
    rows = run.db.rows(
        "select n.id, n.left_node, n.right_node, n.query, i.root_node from df.nodes n "
        "join df.instances i on i.id = n.instance_id where i.id = %s", run.id, user=None,
    )  # fmt: skip
    found = {row[0]: row for row in rows}
    ids = {root: str(rows[0][4])}
    for node in root.walk():
        _, left, right, query, _ = found[ids[node]]
        config = json.loads(query) if node.condition or node.extras else {}
        places = [(node.left, left), (node.right, right), (node.condition, config.get("condition_node"))]
        places += zip(node.extras, config.get("extra_nodes", []), strict=True)
        ids |= {child: place for child, place in places if child}
    return ids
