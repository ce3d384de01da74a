"""`python -m benchmarks`: measures the rows of the table, prints them and writes them as JSON."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pg_durable.embedded import EmbeddedServer
from rich.console import Console

from benchmarks import constructs, cost, growth, pages, reading, residence, rows, scale, stress, yardstick
from benchmarks.bed import Bed
from benchmarks.figures import FULL, QUICK, Figure, Scale, table
from benchmarks.peers import race
from generator.render import ROOT, artifacts

Part = Callable[[Bed, Scale], list[Figure]]


def ordinary(bed: Bed, size: Scale) -> list[Figure]:
    """The table, cheapest first."""
    return [
        *cost.figures(cost.profile(bed)),
        *yardstick.costs(bed, size),
        rows.start_alone(bed),
        *rows.latency(bed, size),
        *residence.idle(bed, size),
        *rows.steps(bed, size, "strict", 0.5),
        *rows.steps(bed, size, "relaxed", 1.0),
        *rows.start_rate(bed, size),
        rows.new_graph_rate(bed, size),
        rows.bulk_start(bed, size),
        rows.old_snapshot(bed, size),
        *residence.memory(bed, size),
        rows.crowd(bed, size),
    ]


def profile(bed: Bed, size: Scale) -> list[Figure]:
    """What one run costs, in full."""
    found = cost.profile(bed)
    Console(width=100).print_json(data=found)
    return cost.figures(found)


def scaling(bed: Bed, size: Scale) -> list[Figure]:
    """Sessions, then workers."""
    return [*scale.by_sessions(bed, size), *scale.by_workers(bed, size)]


def stressed(bed: Bed, size: Scale) -> list[Figure]:
    """Many turns while the tables are small, so that growth shows; large graphs; many timers."""
    return [*growth.loop(bed, size), *stress.large(bed, size), *growth.multitude(bed, size)]


def constructed(bed: Bed, size: Scale) -> list[Figure]:
    """Constructs, one of each and many of some."""
    return [*constructs.each_construct(bed, size), *constructs.many_waits(bed, size), *constructs.large_map(bed, size)]


PARTS: dict[str, tuple[str, Part]] = {
    "ordinary": ("measured side by side on one server", ordinary),
    "profile": ("one run of five steps", profile),
    "scale": ("steps a second", scaling),
    "peers": ("against peers", race.race),
    "reading": ("reading", reading.beside_outcomes),
    "pages": ("the pages of the browser", pages.beside_kept),
    "stress": ("stress", stressed),
    "constructs": ("constructs", constructed),
}


def run(bed: Bed, size: Scale, parts: list[str]) -> Iterator[tuple[str, list[Figure]]]:
    """Measures and prints part after part, each in a new database."""
    for part in parts:
        title, measure = PARTS[part]
        bed.create(artifacts()["dist/pg_durable.sql"])
        figures = measure(bed, size)
        Console(width=100).print(table(f"pg_durable: {title}", figures))
        yield part, figures


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--dsn", help="a superuser's connection string; default: an embedded server of its own")
    parser.add_argument("--pgbench", type=Path, default=Path("pgbench"), help="with --dsn: the pgbench to use")
    parser.add_argument("--quick", action="store_true", help="less of everything, within two minutes")
    parser.add_argument("--json", type=Path, default=ROOT / ".bench" / "figures.json", help="where to write figures")
    parser.add_argument("--all", action="store_true", help="every part")
    parser.add_argument("--only", action="store_true", help="only the parts that are named, not the ordinary table")
    parser.add_argument("--profile", action="store_true", help="what one run costs, in counts")
    parser.add_argument("--scale", action="store_true", help="sessions and workers, more and more")
    parser.add_argument("--peers", action="store_true", help="other systems on the same server")
    parser.add_argument("--reading", action="store_true", help="what a run and a list cost beside many outcomes")
    parser.add_argument("--pages", action="store_true", help="what the pages of the browser cost beside many runs")
    parser.add_argument("--stress", action="store_true", help="large graphs, many turns, many timers")
    parser.add_argument("--constructs", action="store_true", help="what one of each construct costs, and many of some")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    args.json.parent.mkdir(parents=True, exist_ok=True)
    parts = [part for part in PARTS if args.all or (not args.only if part == "ordinary" else getattr(args, part))]
    size = QUICK if args.quick else FULL
    found: dict[str, Any] = {}

    def measure(bed: Bed) -> None:
        for part, figures in run(bed, size, parts):
            found[part] = [asdict(figure) for figure in figures]
            args.json.write_text(json.dumps(found, indent=2) + "\n")

    if args.dsn:
        measure(Bed(args.dsn, args.pgbench))
    else:
        with EmbeddedServer(ROOT / ".bench" / "data") as server:
            measure(Bed(server.dsn(), server.bin / "pgbench"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
