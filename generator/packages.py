"""`python -m generator.packages [DIR]`: makes everything that is published in DIR (default: packages), with checksums.

Between releases the version of wheel and sdist names the commit, as in 1.0.0.dev0+g1a2b3c4d5; where the tag v1.0.0 is
it is 1.0.0. The SQL files have the version of the change log in either case. Needs the extra `packages`, and PyPI.
"""

import argparse
import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from generator.render import ROOT, artifacts, release

PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def main() -> int:
    """Builds, checks and lists; says what went wrong, and nothing else then."""
    parser = argparse.ArgumentParser(prog="python -m generator.packages", description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, default=ROOT / "packages", metavar="DIR")
    directory = parser.parse_args().directory
    try:
        made = build(directory)
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"{' '.join(map(str, error.cmd))}\n{error.stdout}{error.stderr}")
        return 1
    sys.stdout.write("".join(f"{path.stat().st_size:>9} {path.name}\n" for path in made))
    return 0


def build(directory: Path) -> list[Path]:
    """Makes all files in a directory that is made anew, SHA256SUMS at last."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    python_packages(directory, commit_tag())
    for version in PYTHONS:
        resolve(next(directory.glob("*.whl")), version)
    version, _ = release()
    for name in ("pg_durable.sql", "pg_durable.tle.sql", "pg_durable_ai.sql"):
        stem, _, suffix = name.partition(".")
        (directory / f"{stem}-{version}.{suffix}").write_text(artifacts()[f"dist/{name}"])
    prefix = "dist/extension/"
    extension = {name.removeprefix(prefix): text for name, text in artifacts().items() if name.startswith(prefix)}
    pack(directory / f"pg_durable-extension-{version}.tar.gz", extension)
    deploy = {path.relative_to(ROOT / "deploy").as_posix(): path.read_text() for path in files(ROOT / "deploy")}
    pack(directory / f"pg_durable-deploy-{version}.tar.gz", deploy)
    made = files(directory)
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in made)
    (directory / "SHA256SUMS").write_text(sums)
    return [*made, directory / "SHA256SUMS"]


def commit_tag() -> str:
    """What stands behind the version: nothing where its release is tagged, else the commit."""
    tags = run("git", "tag", "--points-at", "HEAD").split()
    changed = run("git", "status", "--porcelain", "--untracked-files=no").strip()
    if f"v{release()[0]}" in tags and not changed:
        return ""
    return f".dev0+g{run('git', 'rev-parse', '--short=9', 'HEAD').strip()}{'.changed' if changed else ''}"


def python_packages(directory: Path, tag: str) -> None:
    """The sdist from a copy of the sources, so that no earlier build shows; the wheel from the sdist."""
    option = [f"--config-setting=--global-option={word}" for word in ("egg_info", f"--tag-build={tag}")] if tag else []
    with tempfile.TemporaryDirectory() as copy:
        for name in filter(None, run("git", "ls-files", "-z").split("\0")):
            if (ROOT / name).is_file():
                (Path(copy) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, Path(copy) / name)
        run(sys.executable, "-m", "build", "--outdir", directory, *option, copy)
    run(sys.executable, "-m", "twine", "check", "--strict", *files(directory))


def resolve(wheel: Path, version: str) -> None:
    """Finds a binary of everything that the wheel needs, with all extras, for a Python that need not be here."""
    with tempfile.TemporaryDirectory() as nowhere:
        python = ["--python-version", version, "--only-binary=:all:", "--target", nowhere]
        run(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", *python, f"{wheel}[all]")


def pack(path: Path, contents: dict[str, str]) -> None:
    """A tar file that is the same byte for byte whenever it is made."""
    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, text in sorted(contents.items()):
            entry = tarfile.TarInfo(f"{path.name.removesuffix('.tar.gz')}/{name}")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    path.write_bytes(gzip.compress(tarred.getvalue(), mtime=0))


def files(directory: Path) -> list[Path]:
    """All files below a directory, in order."""
    return sorted(path for path in directory.rglob("*") if path.is_file())


def run(*command: str | Path) -> str:
    """A command's standard output; raises with everything that it has said when it fails."""
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
