"""The SQL of a page, as one psql script of the same line numbers: what the page shows, and what it hides.

```sql                      a block, run as the role app; with "-- as administrator" on its first line as the owner
<!-- setup-sql ... -->      the same, but not shown: what a reader has and the page does not speak of
<!-- as-administrator -->   all blocks of the page are run as the owner
<!-- runs-may-fail -->      the runs that the page starts need what a test does not have
"""

import re
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"^```sql\n(?P<shown>.*?)^```$|^<!-- setup-sql\n(?P<hidden>.*?)^-->$", re.DOTALL | re.MULTILINE)
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
TEXT_OF_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


@dataclass(frozen=True)
class Page:
    """A Markdown file."""

    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @property
    def runs_may_fail(self) -> bool:
        return "<!-- runs-may-fail -->" in self.text

    @property
    def links(self) -> list[tuple[str, str]]:
        """The files it links to, relative to itself ('' is itself), and the heading there, if the link names one."""
        targets = [target for target in LINK.findall(self.prose) if "://" not in target]
        return [(file, anchor) for file, _, anchor in (target.partition("#") for target in targets)]

    @property
    def prose(self) -> str:
        """What is not code."""
        return FENCED.sub("", self.text)

    @property
    def anchors(self) -> set[str]:
        """What a link can name of it: its headings, spelled as forges and the site spell them."""
        plain = (TEXT_OF_LINK.sub(r"\1", heading) for heading in HEADING.findall(self.prose))
        return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.strip().lower())) for heading in plain}

    def script(self, owner: str) -> str:
        """All blocks, each in a session of its own; psql's variables go on from one to the next."""
        lines = [""] * (self.text.count("\n") + 1)
        for_owner = "<!-- as-administrator -->" in self.text
        for match in BLOCK.finditer(self.text):
            block = (match["shown"] or match["hidden"] or "").splitlines()
            first = self.text.count("\n", 0, match.start())
            role = owner if for_owner or block[0].startswith("-- as administrator") else "app"
            lines[first : first + len(block) + 1] = [f"\\connect - {role}", *block]
        return "\n".join(lines)
