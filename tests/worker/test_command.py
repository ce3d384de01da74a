"""The command line: version, install, log formats."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from pg_durable.cli import command_line, install

from generator.render import ROOT, artifacts, release
from tests import state
from tests.support import Database
from tests.worker.process import SpawnWorker


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "worker")} | variables
    arguments = (sys.executable, "-m", "pg_durable", *arguments)
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=30)


def test_version() -> None:
    assert command("--version").stdout == f"pg-durable {version('pg-durable')}\n"


def test_install_can_be_run_again(db: Database) -> None:
    done = command("install", "--dsn", db.dsn(), "--worker-role", "durable_worker")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"is installed in database {db.name}" in done.stdout
    assert db.admin(state.WORKER_ROLES) == 1


def test_install_says_in_json_what_there_is(db: Database) -> None:
    done = command("install", "--json", "--dsn", db.dsn())
    assert json.loads(done.stdout) == {"version": release()[0], "database": db.name}


def test_the_installer_is_the_generated_one() -> None:
    assert install.script() == artifacts()["dist/pg_durable.sql"]


def test_what_cannot_be_done_is_one_line() -> None:
    done = command("install", "--dsn", "host=/nowhere user=nobody")
    assert done.returncode == 1
    assert done.stderr.startswith("pg-durable: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["worker", "--sessions", "0"], ["worker", "--log-format", "xml"], ["nothing"]])
def test_wrong_usage(arguments: list[str]) -> None:
    assert command(*arguments).returncode == 2


def test_the_log_is_json_on_request(spawn: SpawnWorker) -> None:
    worker = spawn("--log-format", "json")
    worker.stop()
    events = [json.loads(line) for line in worker.log.splitlines()]
    assert [event["event"] for event in events][:1] == ["registered"]
    assert events[0]["worker"] == worker_number(events)
    assert events[-1]["event"] == "stopped"


def worker_number(events: list[dict[str, object]]) -> object:
    return next(event["worker"] for event in events if "worker" in event)


COMMANDS = re.findall(r"^    ([a-z]+)", command_line.parser().format_help().partition("options:")[0], re.MULTILINE)


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_fits_80_columns(name: str | None) -> None:
    done = command(*([name] if name else []), "--help", COLUMNS="80")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert all(f"    {each}" in done.stdout for each in COMMANDS) or name


def complete(line: str) -> list[str]:
    """What bash offers for a line, whose last word is not finished."""
    words = line.split(" ")
    ask = f"COMP_WORDS=({' '.join(words)}) COMP_CWORD={len(words) - 1}; _pg_durable; echo ${{COMPREPLY[@]}}"
    script = f"{command('completion', 'bash').stdout}\n{ask}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_words() -> None:
    assert complete("pg-durable sch") == ["schedules"]
    assert complete("pg-durable start --on") == ["--on-conflict"]
    assert complete("pg-durable schedules t") == ["ticks", "trigger"]
    assert command("completion", "zsh").stdout.endswith(command("completion", "bash").stdout)
    lines = command("completion", "fish").stdout.splitlines()
    assert "complete -c pg-durable -n '__fish_seen_subcommand_from start' -l on-conflict" in lines


def test_options_have_variables(db: Database) -> None:
    db.sql("select df.start('select 1')")
    done = command("list", PG_DURABLE_DSN=db.dsn("app"), PG_DURABLE_JSON="1")
    assert [run["status"] for run in json.loads(done.stdout)] == ["pending"], done.stderr
    done = command("worker", PG_DURABLE_SESSIONS="none")
    assert done.returncode == 2 and "argument --sessions" in done.stderr
    done = command("worker", "--sessions", "0", PG_DURABLE_SESSIONS="1")
    assert "must be at least 1" in done.stderr, "the command line is stronger"
    done = command("list", PG_DURABLE_DSN=db.dsn("app"), PG_DURABLE_LABEL="none")
    assert "pending" in done.stdout, "what a command is about is said on its line"


def test_psql_is_opened_with_what_it_is_given(db: Database, tmp_path: Path) -> None:
    fake = tmp_path / "psql"
    fake.write_text('#!/bin/sh\nprintf "%s|" "$@" "$PGPASSWORD"\n')
    fake.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = command("psql", "--dsn", "host=h password=secret", "--", "-c", "select 1", PATH=path)
    assert done.stdout == "-c|select 1|-d|host=h|secret|", "the password is not among the arguments"
    done = command("psql", "--", "-l", PATH=path, PGHOST="h")
    assert done.stdout == "-l||"
    done = command("psql", PATH=str(tmp_path / "empty"), PGHOST="h")
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "pg-durable: there is no psql on this machine")
