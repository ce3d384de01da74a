"""The one thing pyproject.toml cannot say: the wheel carries the installer, which the generator writes to dist/."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithInstaller(build_py):
    """Copies dist/pg_durable.sql into the package; an editable install reads it where it is."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_file("dist/pg_durable.sql", str(Path(self.build_lib, "pg_durable", "pg_durable.sql")))


setup(cmdclass={"build_py": BuildWithInstaller})
