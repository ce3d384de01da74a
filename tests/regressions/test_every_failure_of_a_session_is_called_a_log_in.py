"""A role whose sessions fail although they have logged in: its runs say the reason, and do not speak of log-ins."""

from tests.support import Database, wait_until
from tests.worker.process import SpawnWorker, start

REASON = "select wait_reason from df.instances"


def test_the_real_reason_is_said(db: Database, spawn: SpawnWorker) -> None:
    start(db, "'select 1'")
    db.admin("select df.revoke_usage('app')")
    spawn()
    reason = str(wait_until(lambda: db.admin(REASON), 30))
    assert "permission denied" in reason
    assert "log in" not in reason


def test_a_log_in_that_fails_is_called_one(db: Database, spawn: SpawnWorker) -> None:
    start(db, "'select 1'")
    db.admin(f"revoke connect on database {db.name} from public")
    db.admin(f"grant connect on database {db.name} to durable_worker")
    spawn()
    assert 'no worker can log in as role "app"' in str(wait_until(lambda: db.admin(REASON), 30))
