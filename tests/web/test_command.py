"""`pg-durable web` as a process."""

import base64
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.cluster import free_port
from tests.support import Database, wait_until
from tests.terminal import command, environment

WITHOUT = """
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('starlette', 'uvicorn', 'jinja2', 'multipart'):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import importlib.util
find = importlib.util.find_spec
def absent(name, package=None):
    return None if name in ('starlette', 'uvicorn', 'jinja2', 'multipart') else find(name, package)
importlib.util.find_spec = absent
"""


def test_it_serves_until_it_is_told_to_stop(home: Database) -> None:
    port = free_port()
    line = [sys.executable, "-m", "pg_durable", "web", "--dsn", home.dsn(), "--listen", str(port)]
    with subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as web:
        assert web.stdout
        try:
            wait_until(lambda: answers(port), 30)
        finally:
            web.send_signal(signal.SIGTERM)
        said = web.stdout.read()
        assert web.wait(30) in (0, -signal.SIGTERM), said
    assert f"The page is at http://127.0.0.1:{port}/" in said
    assert "Traceback" not in said


def answers(port: int) -> bool:
    """Whether the page is there."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").text == "ok\n"
    except httpx.TransportError:
        return False


def test_without_the_extra_it_says_what_to_install_and_a_worker_is_as_before(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    paths = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    done = command("web", PYTHONPATH=paths)
    assert (done.returncode, done.stderr) == (1, "pg-durable: needs an extra: pip install 'pg-durable[web]'\n")
    assert command("worker", "--help", PYTHONPATH=paths).returncode == 0


@pytest.mark.parametrize("text", ["", "not a key", base64.b64encode(b"too short").decode()])
def test_a_key_file_without_a_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    done = command("web", "--cookie-key-file", str(tmp_path / "key"))
    assert done.returncode == 1
    assert "openssl rand -base64 32" in done.stderr


def test_an_address_that_is_taken_is_said_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = command("web", "--listen", str(port))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
