"""What a user can do wrong is said in a line or two, with an exit code: no traceback, no CONTEXT of the engine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import Database, wait_until
from tests.terminal import Terminal, command, environment, on_a_terminal
from tests.worker.process import WorkerProcess, start

FILES = {
    "good.flow": b"'select 1'\n",
    "latin.flow": b"'select 1' ~>\n'select ''caf\xe9'''\n",
    "nul.flow": b"'select 1\0'\n",
    "wrong.flow": b"'select 1' ~>\n",
    "unknown.flow": b"df.nosuch('select 1')\n",
    "sql.flow": b"select 1\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "a directory").mkdir()
    return tmp_path


def refused(done: "subprocess.CompletedProcess[str]", said: str, code: int = 1) -> None:
    assert done.returncode == code, done.stderr
    assert said in done.stderr, done.stderr
    for hidden in ("Traceback", "CONTEXT", "PL/pgSQL", "df_engine"):
        assert hidden not in done.stderr + done.stdout, done.stderr


@pytest.mark.parametrize("name", ["start", "fmt", "explain"])
@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("latin.flow", "is not UTF-8: line 2 has the byte 0xe9"),
        ("nul.flow", "NUL"),
        ("wrong.flow", "flow syntax error at line 1, column 14"),
        ("unknown.flow", "there is no graph builder df.nosuch"),
        ("sql.flow", "SQL goes in quotes"),
        ("a directory", "Is a directory"),
        ("missing.flow", ""),
    ],
)
def test_a_file_that_is_no_flow(db: Database, folder: Path, name: str, file: str, said: str) -> None:
    done = command(name, str(folder / file), "--dsn", db.dsn("app"))
    refused(done, said or ("is no file" if name == "explain" else "No such file or directory"))
    assert done.stdout == ""
    assert db.sql("select count(*) from df.instances") == 0


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nope", "'nope' is no file"),
        ("", "'' is no file"),
        ("deadbeef", "Instance 'deadbeef' not found"),
        ("'a' ~> ", "flow syntax error at line 1, column 7"),
        ("df.sleep(1::nosuch)", "df.sleep(1::nosuch)\n            ^"),
        ("df.sleep(-1)", "non-negative"),
        ("'x' ~> " * 300 + "'x'", "depth"),
        ('{"node_type":"NOPE"}', "Unknown node_type"),
        ("null::text || 'df.'", "NULL"),
    ],
)
def test_explain_of_what_cannot_be_drawn(db: Database, what: str, said: str) -> None:
    done = command("explain", what, "--dsn", db.dsn("app"))
    refused(done, said)
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["worker", "--metrics", "abc"],
        ["worker", "--metrics", "localhost:"],
        ["worker", "--metrics", "99999"],
        ["worker", "--grace", "nan"],
        ["worker", "--grace", "-1"],
        ["worker", "--sessions", "many"],
        ["list", "--limit", "0"],
        ["list", "--limit", "99999999999"],
        ["start", "x.flow", "--var", "novalue"],
        ["top", "--interval", "soon"],
        ["nothing"],
        [],
    ],
)
def test_a_wrong_command_line(arguments: list[str]) -> None:
    refused(command(*arguments), "error: ", 2)


ALL = (["list"], ["show", "deadbeef"], ["watch", "deadbeef"], ["top"], ["cancel", "deadbeef"], ["check"],
       ["signal", "deadbeef", "x"], ["install"], ["start", "good.flow"], ["fmt", "good.flow"],
       ["explain", "good.flow"])  # fmt: skip


@pytest.mark.parametrize("arguments", ALL, ids=lambda arguments: arguments[0])
def test_no_server_no_database_no_role_no_df(db: Database, folder: Path, arguments: list[str]) -> None:
    arguments = [str(folder / text) if text.endswith(".flow") else text for text in arguments]
    for dsn, said in (
        ("host=/nowhere", "/nowhere"),
        ("host=127.0.0.1 port=1", "port 1"),
        ("nonsense", 'missing "="'),
        ("host=127.0.0.1 port=many", "many"),
        (db.server.dsn_for("nowhere"), '"nowhere" does not exist'),
        (db.dsn("nobody"), '"nobody" does not exist'),
    ):
        refused(command(*arguments, "--dsn", dsn), said)
    if arguments[0] != "install":
        done = command(*arguments, "--dsn", db.server.dsn_for("template1"))
        assert done.returncode == 1 and "Is pg_durable installed in this database?" in done.stderr
        assert "Traceback" not in done.stderr and "CONTEXT" not in done.stderr


def test_a_role_that_nobody_has_let_in_reads_who_can(db: Database) -> None:
    db.admin("select df.revoke_usage('other')")
    refused(command("list", "--dsn", db.dsn("other")), "df.grant_usage(")


def test_arguments_that_are_not_utf_8(db: Database) -> None:
    wrong: list[list[str | bytes]] = [["list", "--label", b"\xff"], ["explain", b"\xff"], ["show", b"\xff"]]
    for arguments in wrong:
        line: list[str | bytes] = [sys.executable, "-m", "pg_durable", *arguments, "--dsn", db.dsn("app")]
        done = subprocess.run(line, env=environment(), capture_output=True, check=False, timeout=60)
        assert done.returncode == 1
        assert b"UTF-8" in done.stderr and b"Traceback" not in done.stderr


def shell(line: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", line], env=environment(), capture_output=True, text=True, check=False, timeout=60
    )


def test_output_that_nobody_reads(db: Database) -> None:
    for _ in range(100):  # more than a pipe holds
        start(db, "'select 1'", "\x01" * 1000)
    line = f"{sys.executable} -m pg_durable list --json --dsn '{db.dsn('app')}'"
    done = shell(f"{line} | head -c 1; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("[141\n", "")
    done = shell(f"{line} > /dev/full")
    assert (done.returncode, done.stderr) == (1, "pg-durable: No space left on device\n")
    for closed in (">&-", "2>&-", "<&-"):
        done = shell(f"{line} {closed}")
        assert (done.returncode, done.stderr) == (0, "")


def test_an_encoding_without_the_marks_of_the_tree(db: Database) -> None:
    run = start(db, "'select 1' & df.sleep(1)")
    for encoding in ("ascii", "latin-1"):
        for name in ("show", "explain"):
            done = command(name, run, "--dsn", db.dsn("app"), PYTHONIOENCODING=encoding)
            assert (done.returncode, done.stderr) == (0, "")
            assert run in done.stdout


def test_what_others_wrote_does_not_control_the_terminal(db: Database) -> None:
    run = start(db, r"E'select \'\x1b]0;gotcha\x07\''", "\x1b[2Jlabel")
    for arguments in (("list",), ("show", run), ("explain", run), ("top",)):
        done = command(*arguments, "--dsn", db.dsn("app"))
        assert done.returncode == 0
        assert "\x1b" not in done.stdout and "\x07" not in done.stdout
    assert json.loads(command("list", "--json", "--dsn", db.dsn("app")).stdout)[0]["label"] == "\x1b[2Jlabel"


ODD = ({"COLUMNS": "20"}, {"COLUMNS": "1"}, {"COLUMNS": "0", "LINES": "0"}, {"COLUMNS": "many"}, {"LINES": "1"},
       {"NO_COLOR": "1"}, {"TERM": "dumb"})  # fmt: skip


@pytest.mark.parametrize("variables", ODD, ids=str)
def test_terminals_of_all_kinds(db: Database, variables: dict[str, str]) -> None:
    run = start(db, "'select 1' & df.wait_for_signal('go')", "a label")
    for arguments in (("list",), ("show", run), ("explain", run), ("top", "--once")):
        with on_a_terminal(*arguments, "--dsn", db.dsn("app"), **variables) as terminal:
            terminal.to_its_end()
            assert terminal.process.returncode == 0, terminal.shown
            assert terminal.shown.strip()
            assert "Traceback" not in terminal.shown


def interrupted(terminal: Terminal) -> None:
    terminal.interrupt()
    assert terminal.process.wait(15) == 130
    assert "Traceback" not in terminal.shown and "Error" not in terminal.shown


def test_ctrl_c_is_quiet(db: Database, worker: WorkerProcess, folder: Path) -> None:
    (folder / "wait.flow").write_text("df.wait_for_signal('go')")
    with on_a_terminal("start", str(folder / "wait.flow"), "--wait", "--dsn", db.dsn("app")) as terminal:
        wait_until(lambda: db.sql("select count(*) from df.waiting") == 1)
        run = str(db.sql("select instance_id from df.waiting"))
        terminal.until(run)
        interrupted(terminal)
    assert db.sql("select df.status(%s)", run) == "running"  # it goes on
    for arguments in (("watch", run), ("top",)):
        with on_a_terminal(*arguments, "--interval", "60", "--dsn", db.dsn("app")) as terminal:
            terminal.until("workers" if arguments == ("top",) else "SIGNAL")
            interrupted(terminal)


def test_ctrl_c_while_it_connects() -> None:
    line = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    silent = subprocess.Popen([sys.executable, "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert silent.stdout
    port = silent.stdout.readline().strip()
    try:
        with on_a_terminal("list", "--dsn", f"host=127.0.0.1 port={port}") as terminal:
            stat = Path(f"/proc/{terminal.process.pid}/net/tcp")
            wait_until(lambda: f":{int(port):04X} 01" in stat.read_text(), 15, "its connection")
            interrupted(terminal)
    finally:
        silent.kill()
        silent.wait()


def test_top_quits_on_q(db: Database) -> None:
    start(db, "'select 1'")
    for key in ("q", "Q"):
        with on_a_terminal("top", "--interval", "60", "--dsn", db.dsn("app")) as terminal:
            terminal.until("pending")
            terminal.press("x")
            terminal.press(key)
            assert terminal.process.wait(15) == 0


def test_exit_codes_are_documented() -> None:
    said = command("--help").stdout
    assert all(f"\n  {code} " in said for code in (0, 1, 2, 130, 141))
