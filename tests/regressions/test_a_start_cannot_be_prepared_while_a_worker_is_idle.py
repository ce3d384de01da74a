"""With SET df.wake = off no function of df notifies: the transaction can be prepared, and is found at a poll."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.cluster import Cluster, under_test
from tests.support import Database, wait_until
from tests.worker.process import WorkerProcess, own_database

OFF = ["off", "false", "no", "0", "OFF"]


@pytest.fixture(scope="module")
def home() -> Iterator[Database]:
    """A server that allows prepared transactions, with a worker that is idle."""
    with Cluster(under_test(), {"max_prepared_transactions": "5"}) as cluster:
        db = own_database(cluster)
        db.admin("select df.grant_usage('app')")
        worker = WorkerProcess(db).logged("registered")
        try:
            first = db.sql("select df.start('select 1')")
            assert db.sql("select df.await_instance(%s)", first) == "completed"
            yield db
        finally:
            worker.kill()
            for conn in db.connections.values():
                conn.close()


def idle(db: Database) -> None:
    """Waits until a worker would have to be woken: then a start that notifies cannot be prepared."""

    def refused() -> bool:
        with db.connect("app", autocommit=False) as conn:
            conn.execute("select df.start('select 1')")
            try:
                conn.execute("prepare transaction 'probe'")
            except psycopg.errors.FeatureNotSupported:
                return True
        db.sql("rollback prepared 'probe'")
        return False

    wait_until(refused, 20)


def prepare(db: Database, acts: str, off: str = "off") -> None:
    idle(db)
    with db.connect("app", autocommit=False) as conn:
        conn.execute(f"set df.wake = '{off}'".encode())
        conn.execute(acts.encode())
        conn.execute("prepare transaction 'two'")


@pytest.mark.parametrize("off", OFF)
def test_a_start_can_be_prepared_and_is_found_at_the_poll(home: Database, off: str) -> None:
    prepare(home, "select df.start('select 7 as n', 'prepared')", off)
    home.sql("commit prepared 'two'")
    run = home.sql("select id from df.instances where label = 'prepared' order by created_at desc")
    assert home.sql("select df.await_instance(%s, 30)", run) == "completed"


def test_a_prepared_start_that_is_rolled_back_leaves_nothing(home: Database) -> None:
    prepare(home, "select df.start('select 7 as n', 'undone')")
    home.sql("rollback prepared 'two'")
    assert home.sql("select count(*) from df.instances where label = 'undone'") == 0


def test_a_signal_a_cancel_and_a_run_can_be_prepared(home: Database) -> None:
    waits, other = (home.sql("select df.start(df.wait_for_signal('go') |=> 's' ~> 'select $s.data')") for _ in "ab")
    for run in (waits, other):
        wait_until(lambda run=run: home.sql("select df.status(%s)", run) == "running")  # type: ignore[misc]
    prepare(home, f"select df.signal('{waits}', 'go', '7'), df.cancel('{other}', 'enough'), df.run()")
    home.sql("commit prepared 'two'")
    assert home.sql("select df.await_instance(%s, 30)", waits) == "completed"
    assert home.sql("select df.status(%s)", other) == "cancelled"


def test_without_the_setting_the_transaction_cannot_be_prepared(home: Database) -> None:
    idle(home)
