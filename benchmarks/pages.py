"""What the pages of the browser ask, beside very many kept runs: milliseconds in the database, page by page."""

from typing import Any

from pg_durable.web.queries import QUERIES, text_of

from benchmarks.bed import Bed
from benchmarks.figures import Figure, Scale, at_most
from benchmarks.kept import kept
from benchmarks.reading import milliseconds

WAITS = 50
PAGES = {
    "overview": ("overview.", "workers.workers"),
    "runs": ("runs.page", "runs.doing"),
    "people": ("people.waits", "people.results"),
    "schedules": ("schedules.schedules", "schedules.history"),
    "definitions": ("definitions.definitions",),
    "a definition": ("definitions.versions", "definitions.picture", "definitions.scheduled", "definitions.callers"),
    "roles and limits": ("limits.limits", "limits.roles", "limits.rights"),
    "workers": ("workers.workers", "workers.lanes"),
}
VALUES: dict[str, Any] = {
    "limit": 50, "called": None, "owner": None, "names": ["n1"], "owners": ["bench"], "role": None, "shared": False,
    "flow": "'select 1'", "id": None, "status": None, "label": None, "after": None, "scan": 50, "definition": None,
    "error": None, "since": None,
}  # fmt: skip


def beside_kept(bed: Bed, scale: Scale) -> list[Figure]:
    """The sum of the medians of what each page asks, and of one question for changes, as an ordinary role."""
    kept(bed, scale.outcomes)
    bed.start("df.wait_for_signal('go')", WAITS)
    bed.drain(1)
    figures = []
    with bed.connect("bench", prepare_threshold=None, options="-c jit=off") as conn:
        conn.execute("select df.define('bill', 'select 1'), df.schedule('n1', '0 3 * * *', '@bill')")
        waits = [row[0] for row in conn.execute("select instance_id from df.waiting where kind = 'signal'").fetchall()]
        for page, prefixes in PAGES.items():
            texts = [text_of(name, VALUES | {"ids": waits}) for name in QUERIES if name.startswith(prefixes)]
            each = [milliseconds(conn, text) for text in texts]
            figures.append(at_most(f"page {page} beside {scale.outcomes:,} runs, ms", sum(each), 100))
        asked = "select * from df.changes((select mark from df.changes()))"
        figures.append(at_most("df.changes twice, ms", milliseconds(conn, asked), 10))
    return figures
