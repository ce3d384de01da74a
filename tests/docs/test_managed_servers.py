"""docs/managed-servers.md: each vendor has its row, and each claim a test that is there, or is marked as read."""

import re

from generator.render import ROOT

PAGE = (ROOT / "docs/managed-servers.md").read_text("utf-8")
VENDORS = ("RDS", "Aurora", "Azure", "Cloud SQL", "AlloyDB", "Supabase", "Neon", "Heroku", "DigitalOcean", "Crunchy",
           "plain PostgreSQL")  # fmt: skip


def test_each_vendor_has_a_row() -> None:
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|", PAGE, re.MULTILINE)
    assert [next(vendor for vendor in VENDORS if vendor in row) for row in rows] == list(VENDORS)


def test_each_claim_names_a_test_or_is_marked_as_read() -> None:
    table = PAGE.split("## What it needs")[1].split("```")[0]
    claims = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(claims) > 5
    assert [line for line in claims if not re.search(r"\| (simulated: `tests/[^|]*`|read) \|$", line)] == []
    for path in re.findall(r"`(tests/[\w/.]+)`", PAGE):
        assert (ROOT / path).exists(), path
