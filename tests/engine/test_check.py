"""df.check shows each kind of damage, and nothing in runs that are well."""

import re

from tests.state import DAMAGE, QUEUED_STEPS, WAITS
from tests.support import Database, Pump

WAITING = (
    "df.all('select 1' |=> 'a' ~> df.wait_for_signal('s', 60) ~> 'select $a', "
    "df.sleep(60) | df.loop(df.sleep(60), 'select true'), df.call(df.sleep(60)))"
)


def problems(db: Database) -> list[str]:
    return sorted({row[0] for row in db.rows("select problem from df.check()", user=None)})


def test_nothing_is_wrong_with_runs_that_wait_run_and_have_ended(pump: Pump) -> None:
    pump.run("df.join('select 1', 'select 2' |=> 'b') ~> ('select 1' | df.sleep(60)) ~> df.sleep(0)")
    pump.run("'select 1/0'")
    pump.run("df.call('select 1') & df.call(df.wait_for_signal('s', 1))")
    pump.run("df.loop('select 1' & 'select 2', 'select random() < 0.5')")
    pump.start(WAITING)
    pump.start("'select 1'")
    pump.work()
    pump.start("'select 1'")
    assert problems(pump.db) == []


def test_each_kind_of_damage_is_shown(pump: Pump) -> None:
    pump.start(WAITING)
    pump.db.sql("select df.schedule('s', '0 3 * * *', 'select 1')")
    while pump.db.admin(WAITS) == 0 or pump.db.admin(QUEUED_STEPS) > 0:
        pump.work()
    assert problems(pump.db) == []
    for damage, problem in DAMAGE:
        pump.db.admin("begin; set local session_replication_role = replica")
        pump.db.admin(damage)
        assert problem in problems(pump.db), damage
        pump.db.admin("rollback")


def test_no_kind_of_damage_is_left_out(db: Database) -> None:
    source = db.admin("select prosrc from pg_proc where oid = 'df.check()'::regprocedure")
    kinds = {re.sub(r"a ' \|\| a.kind \|\| ' ", "a JOIN ", kind) for kind in re.findall(
        r"(?:select|union all\s+select) '((?:a|work|nothing)[^\n]*?)'(?: as|,)", source)}  # fmt: skip
    # No damage: tests/security/test_all_seeing_roles.py, tests/security/test_secrets.py.
    elsewhere = {"a role reads or writes what is of all", "a secret is plain text, and secrets_encrypted is on"}
    assert kinds - {problem for _, problem in DAMAGE} == elsewhere


def test_only_administrators_may_look(db: Database) -> None:
    assert db.admin("select has_function_privilege('app', 'df.check()', 'execute')") is False
