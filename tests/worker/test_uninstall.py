"""`pg-durable uninstall`: says what goes, asks, and leaves nothing."""

import json

from tests.support import Database
from tests.terminal import command
from tests.worker.process import start

LEFT = """
select (select count(*) from pg_namespace where nspname in ('df', 'df_engine'))
     + (select count(*) from pg_operator where oprnamespace = 'public'::regnamespace)"""


def test_it_says_what_goes_and_removes_it(db: Database) -> None:
    start(db, "df.wait_for_signal('go')")
    db.sql("select df.define('bill', 'select 1'::text)")
    db.admin("create view mine as select id from df.instances")
    done = command("uninstall", "--yes", "--dsn", db.dsn())
    assert (done.returncode, done.stderr) == (0, "")
    for line in ("live runs, which will not go on: 1", "and their results: 0", "definitions: 1, secrets: 0"):
        assert line in done.stdout
    assert done.stdout.count("what uses it") == 1 and "what uses it: view mine" in done.stdout
    assert f"removed from database {db.name}" in done.stdout
    assert db.admin(LEFT) == 0
    again = command("uninstall", "--yes", "--dsn", db.dsn())
    assert again.returncode == 1
    assert again.stderr == f"pg-durable: pg_durable is not installed in database {db.name}\n"


def test_it_says_in_json_what_it_has_removed(db: Database) -> None:
    db.admin("create view mine as select id from df.instances")
    asked = command("uninstall", "--json", "--dsn", db.dsn(), given="no\n")
    assert (asked.returncode, asked.stdout) == (1, "") and "what uses it: view mine" in asked.stderr
    said = json.loads(command("uninstall", "--json", "--yes", "--dsn", db.dsn()).stdout)
    assert (said["database"], said["live"], said["dependents"]) == (db.name, 0, ["view mine"])
    assert db.admin(LEFT) == 0


def test_an_empty_installation_is_used_by_nobody(db: Database) -> None:
    assert "what uses it" not in command("uninstall", "--dsn", db.dsn(), given="no\n").stdout


def test_only_a_yes_removes_it(db: Database) -> None:
    for answer in ("", "\n", "no\n", "yes please\n"):
        done = command("uninstall", "--dsn", db.dsn(), given=answer)
        assert done.returncode == 1 and "nothing was removed" in done.stderr
        assert db.admin(LEFT) > 0
    assert command("uninstall", "--dsn", db.dsn(), given="yes\n").returncode == 0
    assert db.admin(LEFT) == 0


def test_who_does_not_own_it_is_refused(db: Database) -> None:
    done = command("uninstall", "--yes", "--dsn", db.dsn("app"))
    owner = db.admin("select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'df'")
    assert done.returncode == 1 and done.stdout == ""
    assert f"role app may not remove it: it belongs to role {owner}" in done.stderr
    assert db.admin(LEFT) > 0


def test_a_reader_that_is_busy_is_not_waited_for(db: Database) -> None:
    with db.connect(autocommit=False) as conn:
        conn.execute("select count(*) from df.instances")
        done = command("uninstall", "--yes", "--dsn", db.dsn())
    assert done.returncode == 1 and "nothing was removed" in done.stderr and "Stop the workers" in done.stderr
    assert db.admin(LEFT) > 0
