"""A role called what df.work calls in a transaction that it left open: that locked the free places of shared limits."""

from tests.support import Database, Pump


def test_what_a_role_has_called_locks_nothing_of_a_shared_limit(db: Database) -> None:
    db.admin("select df.set_limit('shared', 2, shared => true)")
    worker = Pump(db, "other")
    with db.connect(None, autocommit=False) as steps:
        steps.execute("select from df_engine.limit_places for update")
        db.sql("select df.start(df.within('shared', 'select 1')) from generate_series(1, 5)", user="other")
        worker.work()
    with db.connect("app", autocommit=False) as session:
        session.execute("select df_engine.fire_own((select key from df_engine.own_key), 50, true)")
        worker.tick()
        worker.work()
        assert db.sql("select count(*) from df.instances where status = 'completed'", user="other") == 5
    worker.session.close()
    worker.supervisor.close()
