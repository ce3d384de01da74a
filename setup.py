"""What pyproject.toml cannot say: the wheel has the installers, and PyPI the README without links into the sources."""

import re
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

INSTALLERS = ("pg_durable.sql", "pg_durable.tle.sql", "pg_durable_ai.sql")
LINKED_PICTURE = re.compile(r"\[!\[[^\]]*\]\([^)]*\)\]\([^)]*\)\n*")
LINK_INTO_REPOSITORY = re.compile(r"\[([^\]]+)\]\((?![a-z]+:)[^)]*\)")


class BuildWithInstallers(build_py):
    """Copies the installers, which the generator writes to dist/; an editable install reads them where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in INSTALLERS:
                self.copy_file(f"dist/{name}", str(Path(self.build_lib, "pg_durable", name)))


def description() -> str:
    """The README for a page that has none of the repository's files."""
    readme = Path(__file__).with_name("README.md").read_text("utf-8")
    return LINK_INTO_REPOSITORY.sub(r"\1", LINKED_PICTURE.sub("", readme))


setup(
    cmdclass={"build_py": BuildWithInstallers},
    long_description=description(),
    long_description_content_type="text/markdown",
)
