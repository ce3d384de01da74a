"""`python -m benchmarks`: measures the rows of the table, prints them and writes them as JSON."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from pg_durable.embedded import EmbeddedServer
from rich.console import Console
from rich.table import Table

from benchmarks import rows
from benchmarks.bed import Bed
from generator.render import ROOT, artifacts


def measure(bed: Bed, scale: rows.Scale) -> list[rows.Figure]:
    """All figures, cheapest first."""
    return [
        *rows.cost_of_a_run(bed),
        rows.start_alone(bed),
        *rows.latency(bed, scale),
        *rows.idle(bed),
        rows.steps(bed, scale, "strict", 0.5),
        rows.steps(bed, scale, "relaxed", 1.0),
        rows.start_rate(bed, scale),
        rows.old_snapshot(bed, scale),
        rows.crowd(bed, scale),
    ]


def table(figures: list[rows.Figure]) -> Table:
    """The figures, for a person."""
    view = Table(title="pg_durable: measured side by side on one server")
    for heading in ("what", "measured", "target", ""):
        view.add_column(heading, justify="right" if heading == "measured" else "left")
    for figure in figures:
        view.add_row(figure.name, f"{figure.value:.2f}", figure.target, "met" if figure.met else "missed")
    return view


def run(bed: Bed, scale: rows.Scale, output: Path) -> None:
    """Measures, prints and writes."""
    bed.create(artifacts()["dist/pg_durable.sql"])
    figures = measure(bed, scale)
    Console(width=100).print(table(figures))
    output.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--dsn", help="a superuser's connection string; default: an embedded server of its own")
    parser.add_argument("--pgbench", type=Path, default=Path("pgbench"), help="with --dsn: the pgbench to use")
    parser.add_argument("--quick", action="store_true", help="less of everything, within two minutes")
    parser.add_argument("--json", type=Path, default=ROOT / ".bench" / "figures.json", help="where to write figures")
    args = parser.parse_args()
    args.json.parent.mkdir(parents=True, exist_ok=True)
    scale = rows.Scale(3, 800, 2) if args.quick else rows.Scale(5, 4000, 6)
    if args.dsn:
        run(Bed(args.dsn, args.pgbench), scale, args.json)
        return 0
    with EmbeddedServer(ROOT / ".bench" / "data") as server:
        run(Bed(server.dsn(), server.bin / "pgbench"), scale, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
