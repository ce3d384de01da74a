"""The log between two places, by type of record: asked of pg_walinspect, or of pg_waldump where the log can be read."""

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bed import Bed

LINE = re.compile(
    r"^(?P<name>\S+)\s+(?P<count>\d+)\s+\(\s*\S+\)\s+(?P<size>\d+)\s+\(\s*\S+\)\s+(?P<images>\d+)\s+\(", re.MULTILINE
)


@dataclass(frozen=True)
class Log:
    """Records by type: how many, their bytes, and the bytes of page images. No types: neither tool was there."""

    total: int
    types: dict[str, tuple[int, int, int]]

    def a_run(self, runs: int) -> dict[str, Any]:
        """The same for one run; page images are no part of `bytes`, which is None when they cannot be told apart."""
        images = sum(size for _, _, size in self.types.values())
        order = sorted(self.types.items(), key=lambda item: -item[1][1])
        return {
            "bytes": round((self.total - images) / runs) if self.types else None,
            "bytes_with_images": round(self.total / runs),
            "types": {
                name: {"records": round(count / runs, 2), "bytes": round(size / runs, 1)}
                for name, (count, size, _) in order
                if count * 20 >= runs
            },
        }


def between(bed: Bed, start: str, end: str) -> Log:
    """The log from one place to another."""
    while not bed.ask("select pg_current_wal_flush_lsn() >= %s::pg_lsn", end):
        time.sleep(0.05)  # the log writer is on its way
    total = int(bed.ask("select %s::pg_lsn - %s::pg_lsn", end, start))
    return Log(total, inspected(bed, start, end) or dumped(bed, start, end))


def inspected(bed: Bed, start: str, end: str) -> dict[str, tuple[int, int, int]]:
    """What pg_walinspect says, where it is installed; counts the commits of every database."""
    if not bed.ask("select exists (select from pg_available_extensions where name = 'pg_walinspect')"):
        return {}
    bed.ask("create extension if not exists pg_walinspect")
    query = (
        'select "resource_manager/record_type", count, record_size::bigint, fpi_size::bigint '
        "from pg_get_wal_stats(%s, %s, true) where count > 0"
    )
    return {name: (count, size, images) for name, count, size, images in bed.rows(query, start, end)}


def dumped(bed: Bed, start: str, end: str) -> dict[str, tuple[int, int, int]]:
    """What pg_waldump says, where it is beside pgbench and may read the log."""
    program, log = bed.pgbench.parent / "pg_waldump", Path(bed.ask("show data_directory")) / "pg_wal"
    try:
        next(log.iterdir())
    except (OSError, StopIteration):
        return {}
    if not program.exists():
        return {}
    command = [str(program), "-p", str(log), "-s", start, "-e", end, "--stats=record"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {
        line["name"]: (int(line["count"]), int(line["size"]), int(line["images"])) for line in LINE.finditer(output)
    }
