"""`python generator/environment.py DIR EXTRA`: makes the virtual environment DIR and installs pg_durable[EXTRA] there.

Called by make, with whatever Python there is, and with nothing but its standard library. With PG_DURABLE_LOCKED=1 it
first installs the versions of requirements-dev.lock, by their hashes: `make lock` writes that file.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

LEAST = (3, 11)
WIDTH = 79
LOCK = "requirements-dev.lock"
FETCHED = re.compile(r"Collecting ([\w.-]+)")


def main() -> int:
    """Says what it does, a short line each; everything that pip said only when it failed."""
    if sys.version_info < LEAST:
        sys.stderr.write(
            f"pg_durable needs Python {dotted(LEAST)} or later; {sys.executable} is {dotted(sys.version_info[:2])}.\n"
            f"Name another one: make PYTHON=python{dotted(LEAST)} ...\n"
        )
        return 1
    directory, extra = Path(sys.argv[1]), sys.argv[2]
    make(directory)
    return install(directory, extra)


def dotted(version: "tuple[int, ...]") -> str:
    """3.11"""
    return ".".join(str(number) for number in version)


def make(directory: Path) -> None:
    """Makes the environment, anew where another Python has made it or it does not work."""
    if usable(directory):
        return
    say(f"Making {directory} with Python {dotted(sys.version_info[:3])}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(directory)], check=True)


def usable(directory: Path) -> bool:
    """Whether the environment is there, has pip, and is of this Python."""
    question = "import sys, pip; print(sys.version_info[:2])"
    try:
        done = subprocess.run([str(python(directory)), "-c", question], check=False, capture_output=True, text=True)
    except OSError:
        return False
    return done.stdout.strip() == str(sys.version_info[:2])


def python(directory: Path) -> Path:
    """The environment's Python."""
    return directory / "bin" / "python"


def install(directory: Path, extra: str) -> int:
    """Installs the locked versions where that is asked, then the project with what its extra needs beyond them."""
    if os.environ.get("PG_DURABLE_LOCKED"):
        say(f"Installing the versions of {LOCK}")
        failed = pip(directory, "--require-hashes", "--requirement", LOCK)
        if failed:
            return failed
    say(f"Installing pg_durable[{extra}] and what it needs")
    return pip(directory, "--editable", f".[{extra}]")


def pip(directory: Path, *arguments: str) -> int:
    """Runs pip install, and shows how far it has got."""
    command = [str(python(directory)), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    said = []
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            said.append(line)
            fetched = FETCHED.match(line)
            if fetched:
                say(f"  {fetched[1]}")
            elif line.startswith("Installing collected packages"):
                say("All there; unpacking")
    if process.returncode:
        sys.stderr.writelines(said)
    return process.returncode


def say(line: str) -> None:
    """A line that fits into a terminal."""
    sys.stdout.write(line[:WIDTH] + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
