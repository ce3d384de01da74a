"""A mixed load that can be judged afterwards: for each flow the effects that a completed run must have left."""

import json
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from psycopg import errors

from tests.oracle.graphs import (
    Node,
    any_,
    block,
    break_,
    call,
    catch,
    each,
    effect,
    fewer,
    if_,
    join,
    loop,
    race,
    signal,
    sleep,
    sql,
    then,
    timeout,
    undo,
)  # fmt: skip
from tests.state import RUN_KEYS
from tests.support import Database
from tests.worker.http_server import HttpServer

Effects = dict[str, int]

LIVE = """
select id from df.instances where status in ('pending', 'running') and parent_id is null order by id limit 200"""
PAUSABLE = "select id from df.instances where status in ('pending', 'running') order by id limit 200"
PAUSED = (
    "select id from df.instances where wait_reason like 'paused by %' and status in ('pending', 'running') order by id"
)
# Waits that nobody but df.skip ends.
SKIPPABLE = """
select n.instance_id, n.id from df.nodes n join df.instances i on i.id = n.instance_id
where i.label = 'skipped' and i.status in ('pending', 'running') and n.node_type = 'SIGNAL' and n.status = 'running'"""
# A run and all that it has called.
BELOW = """
with recursive below as (
  select %s::text as id union all select i.id from below b join df.instances i on i.parent_id = b.id
)
select id from below"""


@dataclass(frozen=True)
class Flow:
    """A graph, and whether what it left is right."""

    name: str
    graph: Node
    right: Callable[[Effects], bool]
    fails: str = ""
    """The error with which its runs end."""


def exactly(*names: str) -> Callable[[Effects], bool]:
    return lambda effects: effects == Counter(names)


def chain(length: int = 4) -> Flow:
    names = [f"c{i}" for i in range(length)]
    return Flow("chain", then(*map(effect, names)), exactly(*names))


def wide(width: int) -> Flow:
    """Branches that end at the same instant."""
    names = [f"b{i}" for i in range(width)]
    return Flow(f"join of {width}", then(join(*map(effect, names)), effect("end")), exactly(*names, "end"))


def nested() -> Flow:
    inner = [join(effect(f"l{i}"), effect(f"r{i}"), effect(f"x{i}")) for i in range(3)]
    names = [f"{side}{i}" for i in range(3) for side in "lrx"]
    return Flow("nested join", then(join(*inner), effect("end")), exactly(*names, "end"))


def dead_heat() -> Flow:
    """One of two decides, and the other leaves nothing."""
    return Flow(
        "race",
        then(race(effect("a"), effect("b")), effect("end")),
        lambda effects: effects in ({"a": 1, "end": 1}, {"b": 1, "end": 1}),
    )


def join_in_race() -> Flow:
    graph = then(race(join(effect("a"), effect("b")), then(effect("c"), effect("d"))), effect("end"))
    return Flow(
        "join in race",
        graph,
        # Steps of the loser that committed before the decision stay; one side is whole.
        lambda effects: max(effects.values()) == 1 and ({"a", "b"} <= set(effects)) != ({"c", "d"} <= set(effects)),
    )


def race_in_join() -> Flow:
    graph = then(join(race(effect("a"), effect("b")), race(effect("c"), effect("d")), effect("e")), effect("end"))
    return Flow(
        "race in join",
        graph,
        lambda effects: set(effects.values()) == {1} and len(effects) == 4 and {"e", "end"} < set(effects),
    )


def races_in_loop(iterations: int = 4) -> Flow:
    body = then(race(effect("a"), effect("b")), effect("count"))
    return Flow(
        "race in loop",
        loop(body, fewer("count", iterations)),
        lambda effects: effects["count"] == effects.get("a", 0) + effects.get("b", 0) == iterations,
    )


def break_in_join_in_loop(iterations: int = 3) -> Flow:
    body = join(then(effect("count"), if_(fewer("count", iterations), effect("on"), break_("1"))), effect("side"))
    return Flow(
        "break in join in loop",
        then(loop(body), effect("end")),
        exactly(*["count", "side"] * iterations, *["on"] * (iterations - 1), "end"),
    )


def pausing() -> Flow:
    graph = then(effect("a"), sleep(0.05), join(then(sleep(0.1), effect("b")), effect("c")), effect("end"))
    return Flow("sleep", graph, exactly("a", "b", "c", "end"))


def signalled() -> Flow:
    """Its signals are sent at the start: four waits, four signals."""
    waits = [then(signal("go"), effect(f"s{i}")) for i in range(2)]
    graph = then(signal("go"), effect("a"), signal("go"), join(*waits), effect("end"))
    return Flow("signals", graph, exactly("a", "s0", "s1", "end"))


def skipped() -> Flow:
    """Its signal never comes: an operator declares the wait done, in one branch or the other, or both."""
    waits = [then(effect(f"b{i}"), signal("never"), effect(f"a{i}")) for i in range(2)]
    return Flow("skipped", then(join(*waits), effect("end")), exactly("b0", "b1", "a0", "a1", "end"))


def limited() -> Flow:
    """More branches than places, and keys in turn."""
    steps = [effect(f"l{i}") | {"within": {"few": f"key {i % 3}"}} for i in range(7)]
    return Flow("limited", then(join(*steps), effect("end")), exactly(*(f"l{i}" for i in range(7)), "end"))


def flaky() -> Flow:
    """Fails now and then, in a way that is tried again; a sequence is no part of the transaction."""
    query = "insert into fx select 'f', '{sys_instance_id}' where 1 / (nextval('tries') % 3)::int is not null"
    step = sql(query, retry={"max_attempts": 20, "initial_delay": 0.01, "max_delay": 0.02})
    return Flow("retry", then(step, effect("end")), exactly("f", "end"))


def whole_blocks() -> Flow:
    """A block fails now and then at its end, and is tried again; what it did before is there once."""
    fails = sql("select 1 / (nextval('tries') % 3)::int")
    graph = then(
        block(effect("a"), effect("b"), fails, retry={"max_attempts": 20, "initial_delay": 0.01, "max_delay": 0.02}),
        race(block(effect("c"), effect("d")), block(effect("e"), effect("f"))),
        block(effect("end")),
    )
    return Flow(
        "block",
        graph,
        lambda effects: effects in ({"a": 1, "b": 1, "end": 1, **won} for won in ({"c": 1, "d": 1}, {"e": 1, "f": 1})),
    )


def handled() -> Flow:
    """Branches that fail, one after an effect; each failure is handled once."""
    branch = catch(then(effect("a"), sql("select 1/0")), effect("h"), "22012")
    graph = then(join(branch, catch(join(sql("select 1/0"), effect("b")), effect("i"))), effect("end"))
    return Flow("catch", graph, exactly("a", "h", "b", "i", "end"))


def out_of_time() -> Flow:
    """Time runs out at about the moment at which the body ends: one of the two counts."""
    body = then(effect("a"), sleep(0.02), effect("b"))
    return Flow(
        "time-out",
        then(timeout(body, 0.03, effect("late")), effect("end")),
        lambda effects: (
            effects.get("a", 0) <= 1 and effects["end"] == effects.get("b", 0) + effects.get("late", 0) == 1
        ),
    )


def first_success() -> Flow:
    """One of two that succeed decides; one that fails does not."""
    return Flow(
        "any",
        then(any_(sql("select 1/0"), effect("a"), effect("b")), effect("end")),
        lambda effects: effects in ({"a": 1, "end": 1}, {"b": 1, "end": 1}),
    )


def undone(effects: Effects) -> bool:
    """What has been done has been undone, each thing once."""
    steps = {name.removeprefix("-") for name in effects if name != "h"}
    return all(effects.get(name, 0) == effects.get(f"-{name}", 0) == 1 for name in steps)


def undoable(name: str, *later: str) -> Node:
    """An effect, and one that undoes it, if those that came later have been undone by then."""
    done = [f"(select count(*) from fx where run = r and t in ('{each}', '-{each}')) <> 1" for each in later]
    return undo(effect(name), effect_if(f"-{name}", " and ".join(["true", *done])))


def effect_if(name: str, condition: str) -> Node:
    """The same as an effect, if the condition holds; in it r is the run."""
    run = "(select split_part(current_setting('application_name'), ':', 2)) x(r)"
    return sql(f"insert into fx select '{name}', r from {run} where {condition}")


def saga() -> Flow:
    """It fails, and is undone: branches in any order, and before what came before them."""
    graph = then(
        undoable("a", "b", "c", "d"), undoable("b", "c", "d"), join(undoable("c"), undoable("d")), sql("select 1/0")
    )
    names = [sign + name for name in "abcd" for sign in ("", "-")]
    return Flow("saga", graph, exactly(*names), "division by zero")


def saga_in_catch() -> Flow:
    """Its handler begins when its body is undone; what has not failed stays."""
    body = then(undoable("a", "b"), sleep(0.02), undoable("b"), sql("select 1/0"))
    after = effect_if("h", "(select count(*) from fx where run = r) >= 4")
    graph = join(catch(body, after), then(undoable("x"), sleep(0.02)))
    return Flow("saga in catch", graph, exactly("a", "b", "-a", "-b", "h", "x"))


def mapped() -> Flow:
    """A body for each of twenty rows, three at a time; each has its effects once."""
    items = sql("select n from generate_series(1, 20) n")
    names = [f"{kind}-{n}" for n in range(1, 21) for kind in "mw"]
    return Flow(
        "map", each(items, then(effect("m-$item.n"), join(sleep(0.01), effect("w-$item_no"))), 3), exactly(*names)
    )


def callee() -> Flow:
    """What others call; it may be started by itself, too."""
    return Flow("callee", then(effect("a"), sleep(0.01), join(effect("b"), effect("c"))), exactly("a", "b", "c"))


def caller() -> Flow:
    """Calls two runs at once, and one that calls another; each is a run of its own, once."""
    both = join(call(callee().graph, "callee"), call(call(callee().graph, "callee"), "calls on"))
    return Flow("calls", then(effect("begin"), both, effect("end")), exactly("begin", "end"))


def calls_on() -> Flow:
    return Flow("calls on", call(callee().graph, "callee"), exactly())


def caller_in_race() -> Flow:
    """The other branch ends when the run that was called is about to: that is stopped, or has ended."""
    return Flow(
        "call in race",
        then(race(call(callee().graph, "callee"), then(sleep(0.02), effect("other"))), effect("end")),
        lambda effects: effects in ({"end": 1}, {"other": 1, "end": 1}),
    )


CALLS = {"calls": 2, "calls on": 1, "call in race": 1}


def calling(url: str) -> Flow:
    """A request, at least once, then a step."""
    query = json.dumps({"url": url, "method": "POST", "body": "", "headers": {}, "timeout_seconds": 30})
    return Flow("http", then({"node_type": "HTTP", "query": query}, effect("end")), exactly("end"))


FLOWS = [
    chain(),
    *map(wide, (2, 3, 5, 8, 40)),
    nested(),
    dead_heat(),
    join_in_race(),
    race_in_join(),
    races_in_loop(),
    break_in_join_in_loop(),
    pausing(),
    signalled(),
    limited(),
    flaky(),
    whole_blocks(),
    handled(),
    out_of_time(),
    first_success(),
    saga(),
    saga_in_catch(),
    mapped(),
    callee(),
    calls_on(),
    caller(),
    caller_in_race(),
]


def prepare(db: Database) -> None:
    """The table of effects and the sequence of flaky steps, if they are not there yet."""
    db.sql("create sequence if not exists tries")
    db.sql("create table if not exists fx (t text, run text)")
    db.sql("select df.set_limit('few', 2)")


class Load:
    """Starts runs, labelled with the name of their flow, and judges what runs have left."""

    def __init__(self, db: Database, seed: int = 1, web: HttpServer | None = None) -> None:
        self._db = db
        self._random = random.Random(seed)
        self._web = web
        self._flows = [*FLOWS, skipped(), calling(web.url("/slow?s=0.3"))] if web else FLOWS
        self._started: set[str] = set()  # since it was last judged
        self._cancelled: dict[str, Effects] = {}  # what a run had left when it was cancelled
        self._undone: set[str] = set()  # runs that were cancelled and undone
        self.excused: tuple[str, ...] = ()  # errors with which a run may have failed

    def start(self, flow: Flow | None = None) -> str:
        """Starts a flow, by default any, with its signals in the same transaction."""
        flow = flow or self._random.choice(self._flows)
        signals = 4 if flow.name == "signals" else 0
        statement = (
            "with run as materialized (select df.start(%s, %s) as id) "
            "select id, (select count(df.signal(id, 'go', i::text)) from generate_series(1, %s) i) from run"
        )
        run = str(self._db.sql(statement, json.dumps(flow.graph), flow.name, signals))
        self._started.add(run)
        return run

    def cancel(self) -> None:
        """Cancels a run that has not ended, and that nobody has called, and notes what it and those that it has called
        have left by then."""
        ids = [row[0] for row in self._db.rows(LIVE) if row[0] not in self._undone]
        if ids:
            run = self._random.choice(ids)
            if self._random.random() < 0.5:
                self.undo(run)
                return
            self._db.sql("select df.cancel(%s)", run)
            for (below,) in self._db.rows(BELOW, run):
                effects = self._db.rows("select t, count(*)::int from fx where run = %s group by t", below)
                self._cancelled[below] = dict(effects)

    def pause(self) -> None:
        """Pauses a run, wherever it is."""
        if ids := [run for (run,) in self._db.rows(PAUSABLE)]:
            self._act("pause", self._random.choice(ids))

    def resume(self, share: float = 1.0) -> None:
        """Resumes about so many of the runs that are paused."""
        for (run,) in self._db.rows(PAUSED):
            if self._random.random() < share:
                self._act("resume", run)

    def skip(self) -> None:
        """Declares waits done that nothing else ends, of a run that is not paused, and ignores what is just ending."""
        for run, node in self._db.rows(SKIPPABLE):
            with suppress(errors.ObjectNotInPrerequisiteState, errors.ObjectInUse, errors.InvalidParameterValue):
                self._db.sql("select df.skip(%s, %s, %s)", run, node, '{"skipped": true}')

    def pause_role(self) -> None:
        """Pauses all that there is and that comes."""
        self._db.sql("select df.pause_role('app', 'chaos')")

    def resume_role(self) -> None:
        """Ends that, if it is so."""
        with suppress(errors.ObjectNotInPrerequisiteState):
            self._db.sql("select df.resume_role('app')")

    def resume_cancelled(self) -> None:
        """Lets a cancelled run that nobody has called go on."""
        if not self._cancelled:
            return
        run = self._random.choice(sorted(self._cancelled))
        if self._db.sql("select parent_id from df.instances where id = %s", run) is None:
            self._act("resume", run)
            if self._db.sql("select status from df.instances where id = %s", run) != "cancelled":
                for (below,) in self._db.rows(BELOW, run):
                    self._cancelled.pop(below, None)

    def _act(self, act: str, run: str) -> None:
        """What is just ending, or has, is left alone."""
        with suppress(errors.ObjectNotInPrerequisiteState, errors.ObjectInUse):
            self._db.sql(f"select df.{act}(%s)", run)

    def undo(self, run: str) -> None:
        """Cancels a run so that it is undone."""
        self._db.sql("select df.cancel(%s, undo => true)", run)
        self._undone.add(run)

    def _keys(self) -> dict[str, set[str]]:
        """The idempotency keys of the requests of each run."""
        keys: dict[str, set[str]] = {}
        runs = {key: run for run, key in self._db.rows(RUN_KEYS, user=None)}
        for request in self._web.received if self._web else []:
            key = request.headers["idempotency-key"]
            keys.setdefault(runs.get(key.split("/")[0], ""), set()).add(key)
        return keys

    def _right(self, run: str, flow: Flow, end: str, effects: Effects, keys: set[str]) -> bool:
        if run in self._undone and not end.startswith("completed") and flow.name.startswith("saga"):
            return undone(effects)
        if run in self._cancelled and flow.fails:
            return self._cancelled[run] == effects
        if end.startswith("cancelled"):  # one that the server may have cancelled unheard is not known
            return len(keys) <= 1 and self._cancelled.get(run, effects) == effects
        if end.startswith("failed"):
            meant = flow.fails and flow.fails in end and flow.right(effects)
            return bool(meant) or any(error in end for error in self.excused)
        return end == "completed" and not flow.fails and flow.right(effects) and (flow.name != "http" or len(keys) == 1)

    def wrong(self) -> list[str]:
        """What is not as it must be, one line a run, once all have ended."""
        effects: dict[str, Effects] = {}
        for run, name, count in self._db.rows("select run, t, count(*)::int from fx group by run, t", user=None):
            effects.setdefault(run, {})[name] = count
        flows, keys = {flow.name: flow for flow in self._flows}, self._keys()
        runs = self._db.rows("select id, label, concat_ws(': ', status, error) from df.instances", user=None)
        called = dict(self._db.rows("select parent_id, count(*)::int from df.instances group by 1", user=None))
        lost = self._started - {run for run, _, _ in runs}
        self._started.clear()
        return (
            [f"run {run} is lost" for run in sorted(lost)]
            + [
                f"{label} {run} has called {called.get(run, 0)} runs"
                for run, label, end in runs
                if end == "completed" and called.get(run, 0) != CALLS.get(label, 0)
            ]
            + [
                f"{label} {run}: {end}, {effects.get(run, {})}"
                for run, label, end in runs
                if not self._right(run, flows[label], end, effects.get(run, {}), keys.get(run, set()))
            ]
        )
