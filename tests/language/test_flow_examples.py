"""The worked examples of docs/language.md, run."""

import json
import re
from pathlib import Path
from typing import Any

from generator.flow_docs import PAGE
from tests.support import Database
from tests.worker.conftest import spawn, worker  # noqa: F401 - fixtures
from tests.worker.process import WorkerProcess

TEXT = (Path(__file__).resolve().parents[2] / PAGE).read_text().split("<!-- examples -->")
SETUP = re.findall(r"```sql\n(.*?)```", TEXT[0], re.DOTALL)[-1]
EXAMPLES = re.findall(r"\*\*\d+\. (.*?)\*\*\n```flow\n(.*?)```", TEXT[1], re.DOTALL)


def rows(**columns: Any) -> Any:
    return {"rows": [columns], "row_count": 1}


RESULTS = [
    rows(one=1), rows(answer=42), rows(y=3), [rows(a=1), rows(b=2), rows(c=3)], rows(branches=2),
    rows(in_time=1), rows(**{"is": "more"}), rows(**{"is": "second"}), rows(big=5), rows(none=0),
    3, rows(n=0), rows(awake=1), rows(ok=1), rows(late=True),
    rows(first=1), [rows(b=2), rows(c=3)], rows(b="it's"), rows(region="emea"), rows(five=5),
    rows(share=0), rows(answer="nobody"), rows(rate=42), rows(total=6), rows(gross=24.0), rows(areas="4"),
    rows(left_over=0, why="22012"), rows(found=1), rows(first=1), rows(two=2),
]  # fmt: skip


def test_every_example_gives_what_it_says(db: Database, worker: WorkerProcess) -> None:  # noqa: F811
    db.sql(SETUP)
    assert len(EXAMPLES) == len(RESULTS) >= 20
    runs = [db.sql("select df.start(df.flow(%s), %s)", text, title) for title, text in EXAMPLES]
    for run, (title, _), expected in zip(runs, EXAMPLES, RESULTS, strict=True):
        status = db.sql("select df.await_instance(%s, 20)", run)
        assert status == "completed", (title, db.sql("select error from df.instances where id = %s", run))
        assert json.loads(db.sql("select df.result(%s)", run)) == expected, title


def test_the_examples_are_the_same_after_formatting(db: Database) -> None:
    for title, text in EXAMPLES:
        envelope = db.admin("select df.flow(%s)", text)
        assert db.admin("select df.flow(df.to_flow(%s))", envelope).replace(" ", "") == envelope.replace(" ", ""), title
