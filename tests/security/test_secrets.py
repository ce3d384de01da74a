"""Secrets against those who look for them: other roles, roles that read all data, dumps, workers without the lease."""

import base64
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from pg_durable.secret_keys import KeyRing, UndecryptableError

from tests import state
from tests.cluster import client
from tests.support import Database, Pump

REFUSED = psycopg.errors.InsufficientPrivilege
VALUE = "xyzzy of app"
FLOW = "df.http('https://h.test/', headers => jsonb_build_object('X-Key', df.secret('stripe')))"


@pytest.fixture
def app(db: Database) -> Database:
    """A database in which app has a secret that its flows may send to h.test."""
    db.admin("select df.http_allow('h.test')")
    db.sql("select df.set_secret('stripe', %s)", VALUE)
    return db


def asked_by(db: Database, worker: int, ticket: int, user: str = "durable_worker") -> object:
    return db.sql("select df_engine.leased_secrets(%s, %s)", worker, ticket, user=user)


@pytest.fixture
def leased(app: Database) -> Iterator[tuple[Pump, int]]:
    """A worker that holds the lease of a step with a secret, and its ticket."""
    app.sql("select df.set_secret('another', 'of no concern')")
    app.sql(f"select df.start({FLOW})")
    pump = Pump(app)
    pump.work()
    row = pump.supervisor.execute("select ticket from df_engine.claim_leased(%s, 'http', 1)", [pump.worker]).fetchone()
    assert row
    yield pump, row[0]
    pump.close()


def test_the_worker_gets_the_secrets_of_the_step_that_it_holds_and_no_others(
    app: Database, leased: tuple[Pump, int]
) -> None:
    pump, ticket = leased
    assert asked_by(app, pump.worker, ticket) == [{"name": "stripe", "value": VALUE, "encrypted": False}]
    assert asked_by(app, pump.worker, ticket + 1) is None
    assert asked_by(app, pump.worker + 1, ticket) is None
    app.admin("select df_engine.complete_leased(%s, %s, '{\"value\": 1}')", pump.worker, ticket)
    assert asked_by(app, pump.worker, ticket) is None


def test_the_number_of_a_worker_of_another_role_is_of_no_use(app: Database, leased: tuple[Pump, int]) -> None:
    pump, ticket = leased
    app.admin("select df.grant_worker('other')")
    assert asked_by(app, pump.worker, ticket, user="other") is None


def test_users_cannot_ask_for_what_workers_get(app: Database, leased: tuple[Pump, int]) -> None:
    for user in ("app", "other"):
        with pytest.raises(REFUSED):
            asked_by(app, leased[0].worker, leased[1], user=user)


def test_what_is_queued_has_the_name_and_no_value(app: Database, leased: tuple[Pump, int]) -> None:
    for (table,) in app.rows(state.PRIVATE_TABLES, user=None):
        found = app.rows(state.ROWS_WITH.format(table), VALUE, user=None)
        assert (found != []) == (table == state.SECRETS_TABLE), table


def test_nobody_reads_a_secret_not_even_its_owner(app: Database) -> None:
    app.admin("create role auditor_of_secrets login; grant pg_read_all_data to auditor_of_secrets")
    app.admin("select df.grant_usage('auditor_of_secrets')")
    try:
        for user in ("app", "other", "durable_worker"):
            with pytest.raises(REFUSED):
                app.sql(state.SECRET_VALUES, user=user)
        assert app.rows(state.SECRET_VALUES, user="auditor_of_secrets") == []
        assert app.rows("select name from df.secrets", user="auditor_of_secrets") == []
        assert app.rows("select name from df.secrets", user="other") == []
        assert app.rows("select name from df.secrets", user=None) == []
        assert app.rows("select name from df.secrets", user="app") == [("stripe",)]
    finally:
        app.connections.pop("auditor_of_secrets").close()
        app.admin("drop owned by auditor_of_secrets; drop role auditor_of_secrets")


def test_another_role_changes_only_its_own(app: Database) -> None:
    app.sql("select df.unset_secret('stripe'), df.set_secret('mine', 'of other')", user="other")
    assert app.rows(state.SECRET_VALUES + " order by name", user=None) == [("of other",), (VALUE,)]
    with pytest.raises(REFUSED):
        app.sql("select df_engine.change_secret('made up', 'app'::regrole, 'stripe', 'x', false)", user="other")


def test_a_function_with_its_owners_rights_sets_its_owners_secret(app: Database) -> None:
    app.sql("""create function public.rotate() returns text language sql security definer set search_path = ''
               begin atomic select df.set_secret('stripe', 'rotated value'); end""")
    app.sql("select public.rotate()", user="other")
    assert app.rows("select name from df.secrets", user="other") == []
    assert app.admin(state.SECRET_VALUES) == "rotated value"


def test_a_step_cannot_change_secrets(app: Database) -> None:
    """Its text, and so the value, would be kept with the run."""
    pump = Pump(app)
    run = app.sql("select df.start('select df.set_secret(''stripe'', ''sesame'')')")
    pump.work()
    assert "set_secret cannot be called inside a workflow" in app.admin(
        "select error from df.instances where id = %s", run
    )
    pump.close()


def test_the_keys_that_the_engine_adds_to_a_request_are_not_taken_from_a_flow(app: Database) -> None:
    """A hand-written envelope that says which marks are places, so that a value of a reference becomes one."""
    mark = "0" * 32
    query = f"""{{"url": "https://h.test/", "body": "$x", "mark": "{mark}", "secrets": ["stripe"]}}"""
    pump = Pump(app)
    app.sql(
        """select df.start(df.seq(df.as('select ''{secret:stripe:' || %s || '}''', 'x'),
                                  json_build_object('node_type', 'HTTP', 'query', %s::text)::text))""",
        mark, query,
    )  # fmt: skip
    pump.work()
    request = app.admin(state.QUEUED_REQUEST)
    assert request["body"] == f"{{secret:stripe:{mark}}}"
    assert "mark" not in request and "secrets" not in request
    pump.close()


def test_no_dump_has_an_encrypted_value(app: Database) -> None:
    keys = KeyRing([os.urandom(32)])
    app.admin("select df.set_setting('secrets_encrypted', 'on')")
    app.sql("select df.set_secret('stripe', %s, encrypted => true)", keys.encrypt("app", "stripe", VALUE))
    dump = subprocess.run([str(client("pg_dump")), app.dsn()], capture_output=True, check=True, text=True).stdout
    assert "aes256gcm:" in dump and VALUE not in dump and base64.b64encode(VALUE.encode()).decode() not in dump
    stored = app.admin(state.SECRET_VALUES)
    assert keys.decrypt("app", "stripe", stored) == VALUE
    for role, name in (("other", "stripe"), ("app", "other")):
        with pytest.raises(UndecryptableError, match="was not encrypted for role"):
            keys.decrypt(role, name, stored)
    with pytest.raises(UndecryptableError, match="not in the key file"):
        KeyRing([os.urandom(32)]).decrypt("app", "stripe", stored)


def test_the_same_value_is_never_encrypted_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(base64.b64encode(os.urandom(32)))
    keys = KeyRing.read(str(tmp_path / "key"))
    assert keys.encrypt("app", "a", VALUE) != keys.encrypt("app", "a", VALUE)
