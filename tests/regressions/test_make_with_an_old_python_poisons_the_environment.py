"""make refuses a Python that is too old before it makes anything, and makes anew what another Python has made."""

import subprocess
import sys
import venv
from pathlib import Path

from generator import environment
from generator.render import ROOT

OLD = """#!/bin/sh
exec {python} -c 'import runpy, sys
sys.version_info, sys.executable = (3, 10, 12, "final", 0), "/usr/bin/python3.10"
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")' "$@"
"""


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_an_old_python_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    old = script(tmp_path / "python3.10", OLD.format(python=sys.executable))
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "generator").symlink_to(ROOT / "generator")
    for name in ("pyproject.toml", "setup.py"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    done = subprocess.run(
        ["make", "demo", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    assert "needs Python 3.11 or later; /usr/bin/python3.10 is 3.10" in done.stderr
    assert "make PYTHON=python3.11" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_what_another_python_has_made_is_made_anew(tmp_path: Path) -> None:
    home = tmp_path / ".venv"
    venv.create(home, symlinks=True)
    (home / "bin" / "python").unlink()
    script(home / "bin" / "python", "#!/bin/sh\necho '(3, 10)'\n")
    (home / "left over").touch()
    assert not environment.usable(home)
    environment.make(home)
    assert environment.usable(home) and not (home / "left over").exists()
    (home / "kept").touch()
    environment.make(home)
    assert (home / "kept").exists()


def test_an_environment_without_pip_is_made_anew(tmp_path: Path) -> None:
    venv.create(tmp_path / ".venv", symlinks=True, with_pip=False)
    assert not environment.usable(tmp_path / ".venv")
    assert not environment.usable(tmp_path / "nowhere")
