"""Secrets as users set and name them: what df.secret gives, where it may stand, and what is refused when."""

import json

import pytest
from psycopg import errors

from tests.support import Database

AUTHORIZATION = """headers => jsonb_build_object('Authorization', 'Bearer ' || df.secret('stripe'))"""


@pytest.fixture
def app(db: Database) -> Database:
    """A database in which app may make requests."""
    db.admin("select df.grant_usage('app', include_http => true), df.grant_usage('other', include_http => true)")
    return db


def test_a_placeholder_is_text_that_can_be_written_too(shared: Database) -> None:
    assert shared.admin("select df.secret('stripe.live-2')") == "{secret:stripe.live-2}"
    written = """http('https://h.test/', headers => {"Authorization": "Bearer {secret:stripe}"})"""
    assert shared.admin("select df.flow(%s)", written) == shared.admin(
        f"select df.http('https://h.test/', {AUTHORIZATION})"
    )


@pytest.mark.parametrize("name", ["", "1a", "a b", "a}", "a" * 64, "ä"])
def test_bad_names(shared: Database, name: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="invalid name"):
        shared.admin("select df.secret(%s)", name)
    with pytest.raises(errors.InvalidParameterValue, match="invalid name"):
        shared.admin("select df.set_secret(%s, 'sesame open')", name)


@pytest.mark.parametrize("call", ["df.secret(null)", "df.set_secret('a', null)", "df.set_secret(null, 'sesame')"])
def test_nulls(shared: Database, call: str) -> None:
    with pytest.raises(errors.NullValueNotAllowed):
        shared.admin(f"select {call}")


@pytest.mark.parametrize("value", ["''", "repeat('x', 65537)"])
def test_the_size_of_a_value(shared: Database, value: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="from 1 to 65536 bytes"):
        shared.admin(f"select df.set_secret('a', {value})")


def test_the_view_has_names_and_dates(app: Database) -> None:
    app.sql("select df.set_secret('stripe', 'sk_live_123')")
    assert [row[0] for row in app.rows("select name from df.secrets")] == ["stripe"]
    columns = "select jsonb_object_keys(to_jsonb(s)) from df.secrets s"
    assert {row[0] for row in app.rows(columns)} == {"name", "created_at", "updated_at"}
    app.sql("select df.set_secret('stripe', 'sk_live_456')")
    assert app.rows("select name, updated_at > created_at from df.secrets") == [("stripe", True)]
    assert app.sql("select df.unset_secret('stripe')") == "OK"
    assert app.rows("select name from df.secrets") == []
    assert app.sql("select df.unset_secret('stripe')") == "OK"


def test_a_secret_is_no_step(app: Database) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="cannot be used as a workflow step"):
        app.sql("select df.start(df.set_secret('stripe', 'sk_live_123'))")


@pytest.mark.parametrize("url", ["https://{secret:a}/x", "https://me:{secret:a}@h.test/", "https://h.test:{secret:a}/"])
def test_no_secret_before_the_path(app: Database, url: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="not in the host"):
        app.sql("select df.http(%s)", url)


@pytest.mark.parametrize(
    "url", ["https://h.test/{secret:a}", "https://h.test?key={secret:a}", "https://$r.host/{secret:a}"]
)
def test_secrets_in_path_and_query(app: Database, url: str) -> None:
    assert json.loads(json.loads(app.sql("select df.http(%s)", url))["query"])["url"] == url


def test_a_scheme_is_asked_for_where_only_a_secret_has_braces(app: Database) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="unsupported URL scheme"):
        app.sql("select df.http('h.test/?key={secret:a}')")


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({"name": "{secret:a}", "data_b64": ""}, "name cannot hold a secret"),
        ({"name": "a", "filename": "x{secret:a}", "data_b64": ""}, "filename cannot hold a secret"),
        ({"name": "a", "content_type": "{secret:a}", "data_b64": ""}, "content_type cannot hold a secret"),
        ({"name": "a", "data_b64": "x{secret:a}"}, "must be all of data_b64"),
    ],
)
def test_secrets_in_forms(app: Database, part: dict[str, str], problem: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match=problem):
        app.sql("select df.http_multipart('https://h.test/', parts => %s::jsonb)", json.dumps([part]))
    envelope = {
        "node_type": "HTTP_MULTIPART",
        "query": json.dumps({"url": "https://h.test/", "method": "POST", "parts": [part], "timeout_seconds": 30}),
    }
    with pytest.raises(errors.InvalidTextRepresentation, match=problem):
        app.sql("select df.start(%s)", json.dumps(envelope))


def test_a_part_may_be_a_secret(app: Database) -> None:
    part = {"name": "a", "data_b64": "{secret:a}"}
    assert app.sql("select df.http_multipart('https://h.test/', parts => %s::jsonb)", json.dumps([part]))


def test_a_run_is_not_started_without_its_secrets(app: Database) -> None:
    flow = f"df.http('https://h.test/', {AUTHORIZATION})"
    with pytest.raises(errors.UndefinedObject, match='role app has no secret "stripe"') as caught:
        app.sql(f"select df.start({flow})")
    assert caught.value.diag.message_hint == "Set it before the run starts: pg-durable secret set stripe"
    app.sql("select df.set_secret('stripe', 'sk_live_123')")
    assert app.sql(f"select df.start({flow})")
    app.sql("select df.unset_secret('stripe')")
    with pytest.raises(errors.UndefinedObject, match='role app has no secret "stripe"'):
        app.sql(f"select df.start({flow})")  # the graph is known by now


def test_an_escaped_placeholder_of_an_envelope_is_one(app: Database) -> None:
    envelope = {"node_type": "HTTP", "query": r'{"url": "https://h.test/?k=\u007bsecret:stripe}"}'}
    with pytest.raises(errors.UndefinedObject, match='no secret "stripe"'):
        app.sql("select df.start(%s)", json.dumps(envelope))


def test_secrets_of_another_role_do_not_count(app: Database) -> None:
    app.sql("select df.set_secret('stripe', 'sk_live_123')", user="other")
    with pytest.raises(errors.UndefinedObject, match='role app has no secret "stripe"'):
        app.sql(f"select df.start(df.http('https://h.test/', {AUTHORIZATION}))")


def test_plain_text_is_refused_where_secrets_are_to_be_encrypted(app: Database) -> None:
    app.admin("select df.set_setting('secrets_encrypted', 'on')")
    with pytest.raises(errors.ObjectNotInPrerequisiteState) as caught:
        app.sql("select df.set_secret('stripe', 'sk_live_123')")
    assert caught.value.diag.message_hint == (
        "Let the client encrypt it: pg-durable secret set stripe --secret-key-file FILE"
    )
    assert "sk_live" not in str(caught.value)
    made = f"aes256gcm:0123abcd:{'x' * 40}"
    assert app.sql("select df.set_secret('stripe', %s, encrypted => true)", made) == "OK"


def test_plain_text_that_is_there_already_is_reported(app: Database) -> None:
    app.sql("select df.set_secret('stripe', 'sk_live_123')")
    problems = "select problem, detail from df.check()"
    assert app.rows(problems, user=None) == []
    app.admin("select df.set_setting('secrets_encrypted', 'on')")
    assert app.rows(problems, user=None) == [
        ("a secret is plain text, and secrets_encrypted is on", "stripe of role app")
    ]


def test_encrypted_is_what_the_client_has_encrypted(app: Database) -> None:
    app.admin("select df.set_setting('secrets_encrypted', 'on')")
    with pytest.raises(errors.InvalidParameterValue, match="not what pg-durable secret set makes"):
        app.sql("select df.set_secret('stripe', 'sk_live_123', true)")


def test_expect_is_written_into_flow_text_and_envelope(shared: Database) -> None:
    plain = shared.admin("select df.http('https://h.test/')")
    assert "expect" not in plain
    envelope = shared.admin("select df.http('https://h.test/', expect => 'ok')")
    assert json.loads(json.loads(envelope)["query"])["expect"] == "ok"
    text = "http('https://h.test/', expect => 'ok')"
    assert shared.admin("select df.to_flow(%s)", envelope) == text
    assert shared.admin("select df.flow(%s)", text) == envelope
    form = shared.admin(
        'select df.http_multipart(\'https://h.test/\', parts => \'[{"name": "a", "data_b64": ""}]\', expect => \'ok\')'
    )
    assert shared.admin("select df.flow(df.to_flow(%s))", form) == form


def test_expect_is_ok_or_null(shared: Database) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="expect must be 'ok' or NULL"):
        shared.admin("select df.http('https://h.test/', expect => '200')")


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_the_trace_of_the_session_is_kept_with_the_run(db: Database) -> None:
    db.sql(f"select set_config('df.traceparent', '{TRACE}', false)")
    run = db.sql("select df.start('select 1')")
    assert db.sql("select traceparent from df.instances where id = %s", run) == TRACE
    db.sql("select set_config('df.traceparent', '', false)")
    run = db.sql("select df.start('select 1')")
    assert db.sql("select traceparent from df.instances where id = %s", run) is None


@pytest.mark.parametrize(
    "trace",
    ["x", TRACE.upper(), f"ff{TRACE[2:]}", f"{TRACE}-x", f"00-{'0' * 32}-b7ad6b7169203331-01",
     f"00-{'1' * 32}-{'0' * 16}-01", f"{TRACE}\r\nX-A: b"],
)  # fmt: skip
def test_a_trace_of_another_form_is_left_out_with_a_warning(db: Database, trace: str) -> None:
    with db.connect("app") as conn:
        notices: list[str] = []
        conn.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
        conn.execute("select set_config('df.traceparent', %s, false)", [trace])
        row = conn.execute("select df.start('select 1')").fetchone()
        assert row and notices[0].startswith("df.traceparent is not the traceparent of a trace")
        assert db.sql("select traceparent from df.instances where id = %s", row[0]) is None
