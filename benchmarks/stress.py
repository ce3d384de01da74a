"""Large graphs and large results: what they cost a branch, a step, a megabyte."""

import json
import time
from collections.abc import Callable
from typing import Any

from benchmarks.bed import CHAIN, INSERT, Bed
from benchmarks.figures import Figure, Scale, at_least, at_most

BRANCHES = 1_000
LONGEST = 5_000  # steps: with the sequences between them 9 999 nodes, and a graph has at most 10 000
MEGABYTES = 10


def large(bed: Bed, scale: Scale) -> list[Figure]:
    """All of them."""
    return [fan_out(bed), *long_chain(bed), large_result(bed), many_roles(bed, scale)]


def step() -> dict[str, Any]:
    """One SQL node that inserts a row."""
    return {"node_type": "SQL", "query": INSERT}


def sequence(steps: int) -> dict[str, Any]:
    """A chain as a balanced tree, so that its depth is no limit."""
    if steps == 1:
        return step()
    return {
        "node_type": "THEN",
        "left_node": sequence(steps // 2),
        "right_node": sequence(steps - steps // 2),
    }


def timed(bed: Bed, graph: dict[str, Any] | str, finish: Callable[[], float]) -> tuple[float, float, str]:
    """Starts an envelope and runs it to its end: seconds of the start, seconds of both, and the id."""
    text = graph if isinstance(graph, str) else json.dumps(graph)
    with bed.connect("bench") as conn:
        began = time.perf_counter()
        row = conn.execute("select df.start(%s)", [text]).fetchone()
        started = time.perf_counter() - began
    assert row is not None
    finish()
    took = time.perf_counter() - began
    status = bed.ask("select status from df.instances where id = %s", row[0])
    if status != "completed":
        raise RuntimeError(f"the run is {status}")
    return started, took, row[0]


def fan_out(bed: Bed) -> Figure:
    """A JOIN of a thousand branches, from the start to the end, by one worker: its sessions are woken when it opens."""
    graph = {
        "node_type": "JOIN",
        "left_node": step(),
        "right_node": step(),
        "extra_nodes": [step() for _ in range(BRANCHES - 2)],
    }
    with bed.worker():
        started, took, _ = timed(bed, graph, bed.await_served)
    raw = {"seconds": round(took, 3), "of them the start": round(started, 3)}
    return Figure(f"fan-out of {BRANCHES:,} branches, us a branch", took / BRANCHES * 1e6, raw=raw)


def long_chain(bed: Bed) -> list[Figure]:
    """The longest chain that one graph can hold, against as many steps in chains of five; one session."""
    started, took, _ = timed(bed, sequence(LONGEST), lambda: bed.drain(1))
    bed.start(CHAIN, LONGEST // 5)
    short = bed.drain(1)
    raw = {"seconds": round(took, 3), "of them the start": round(started, 3), "chains of five": round(short, 3)}
    return [
        Figure(f"chain of {LONGEST:,} steps, us a step", (took - started) / LONGEST * 1e6, raw=raw),
        at_most("the same / a step of a 5-step chain", (took - started) / short, 1.5, " x", raw),
    ]


def large_result(bed: Bed) -> Figure:
    """A step whose result is ten megabytes."""
    started, took, run = timed(bed, f"select repeat('x', {MEGABYTES * 1_000_000}) as t", lambda: bed.drain(1))
    size = bed.ask("select length(df.result(%s))", run)
    if size < MEGABYTES * 1_000_000:
        raise RuntimeError(f"the result has {size} characters")
    return Figure(f"result of {MEGABYTES} MB, ms", (took - started) * 1000)


def many_roles(bed: Bed, scale: Scale) -> Figure:
    """One worker that serves many roles, against the same runs of one role; the starts are not included."""
    roles = [f"bench_role_{number}" for number in range(scale.roles)]
    each = max(1, scale.runs // scale.roles)
    with bed.worker():
        bed.start(CHAIN, each * len(roles))
        one = bed.await_served()
        with bed.connect() as conn:
            for role in roles:
                conn.execute(f"create role {role} login; grant all on fx to {role}".encode())
                conn.execute("select df.grant_usage(%s)", [role])
        try:
            with bed.connect() as conn, conn.transaction():
                for role in roles:
                    conn.execute(f"set local session authorization {role}".encode())
                    conn.execute(f"select count(df.start({CHAIN})) from generate_series(1, {each})".encode())
            many = bed.await_served()
        finally:
            drop_roles(bed, roles)
    raw = {"roles": len(roles), "runs a role": each, "seconds": round(many, 2), "one role": round(one, 2)}
    return at_least(f"runs/s of {len(roles)} roles / of one role, one worker", one / many, 0.25, raw)


def drop_roles(bed: Bed, roles: list[str]) -> None:
    """Roles are the cluster's: they do not stay."""
    with bed.connect() as conn:
        for role in roles:
            conn.execute(f"drop owned by {role}; drop role {role}".encode())
