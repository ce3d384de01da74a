"""The example in examples/http does what it says."""

import os
import subprocess
import sys

import pytest

from tests.worker.process import ROOT


@pytest.mark.slow
def test_the_example_completes() -> None:
    command = [sys.executable, str(ROOT / "examples" / "http" / "run.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "worker")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "429" in done.stdout and "503" in done.stdout
    assert "'intact': True" in done.stdout
