"""df.check shows each kind of damage, and nothing in runs that are well."""

from tests.support import Database, Pump

WAITING = "('select 1' |=> 'a' ~> df.wait_for_signal('s', 60)) & (df.sleep(60) | df.loop(df.sleep(60), 'select true'))"


def problems(db: Database) -> list[str]:
    return sorted({row[0] for row in db.rows("select problem from df.check()", user=None)})


def test_nothing_is_wrong_with_runs_that_wait_run_and_have_ended(pump: Pump) -> None:
    pump.run("df.join('select 1', 'select 2' |=> 'b') ~> ('select 1' | df.sleep(60)) ~> df.sleep(0)")
    pump.run("'select 1/0'")
    pump.run("df.loop('select 1' & 'select 2', 'select random() < 0.5')")
    pump.start(WAITING)
    pump.start("'select 1'")
    pump.work()
    pump.start("'select 1'")
    assert problems(pump.db) == []


DAMAGE = [
    ("update df.instances set _state = 'failed'", "work is left of a run that has ended"),
    (
        "update df_engine.scopes set outcome = 'lost' where path in (select max(path) from df_engine.scopes)",
        "work is left of a branch that has lost its race",
    ),
    ("update df_engine.waits set node_id = '00000000'", "work on a node that does not exist"),
    ("update df_engine.timers set kind = 'pace' where kind = 'timeout'", "work on a node that cannot have it"),
    ("update df.nodes set status = 'pending' where node_type = 'SLEEP'", "work on a node that cannot have it"),
    ("delete from df_engine.timers; delete from df_engine.waits", "nothing moves a run that has not ended"),
    ("delete from df_engine.waits; delete from df_engine.timers where kind = 'timeout'",
     "nothing moves a branch that has not ended"),
    ("insert into df_engine.ready (submitter, instance_id, node_id) "
     "select 0, instance_id, node_id from df_engine.timers", "two threads of control in one scope"),
    ("update df.nodes set _open = _open - 1 where node_type = 'JOIN'", "a JOIN does not agree with its branches"),
    ("update df_engine.scopes set open = open + 1 where branch = 1", "a JOIN does not agree with its branches"),
    ("update df.nodes set _open = 0 where node_type = 'RACE'", "a RACE does not agree with its branches"),
    ("update df.instances set _state = 'completed'", "a run has ended and its root has not"),
    ("update df_engine.scopes set path = 'x' || path", "a scope does not follow from the scope around it"),
    ("update df_engine.scopes set path = replace(path, '::1::', '::7::')",
     "a scope does not follow from the scope around it"),
    ("update df_engine.bindings set scope = '00000000'", "a name without a scope"),
    ("update df_engine.bindings set name = 'zz'", "a name that no node binds"),
    ("insert into df_engine.inbox (instance_id, signal_name, signal_data, sent_by, fresh) "
     "select id, 's', '1', _submitter, false from df.instances", "a kept signal and an open wait have not met"),
    ("insert into df_engine.inbox (instance_id, signal_name, signal_data, sent_by, fresh) "
     "select id, 's', '1', _submitter, false from df.instances; update df.instances set _state = 'failed'",
     "a signal of a run that has ended is kept"),
    ("update df_engine.waits set instance_id = '00000000'", "a row without its run"),
    ("update df_engine.scopes set node_id = '00000000'"
     " where path in (select max(path) from df_engine.scopes)", "a row without its node"),
]  # fmt: skip


def test_each_kind_of_damage_is_shown(pump: Pump) -> None:
    pump.start(WAITING)
    while pump.db.admin("select count(*) from df_engine.waits") == 0 or pump.db.admin("select from df_engine.ready"):
        pump.work()
    assert problems(pump.db) == []
    for damage, problem in DAMAGE:
        pump.db.admin("begin; set local session_replication_role = replica")
        pump.db.admin(damage)
        assert problem in problems(pump.db), damage
        pump.db.admin("rollback")


def test_only_administrators_may_look(db: Database) -> None:
    assert db.admin("select has_function_privilege('app', 'df.check()', 'execute')") is False
