"""Settings: what df.set_setting accepts, what df.setting reads, and who sees loopback_dsn."""

import psycopg
import pytest

from generator.model import SETTINGS
from tests.support import Database

NUMBERS = [s for s in SETTINGS if s.low is not None]


def test_every_setting_has_its_default(db: Database) -> None:
    assert dict(db.rows("select name, value from df.settings", user=None)) == {s.name: s.default for s in SETTINGS}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable_superuser_instances", "yes"),
        ("enable_superuser_instances", "1"),
        ("retention_days", "0"),
        ("retry_backoff", "1.5"),
        ("loop_min_interval", "500 ms"),
        ("loop_min_interval", "0.25"),
        ("reconcile_interval", "1 hour"),
        ("timezone", "Europe/Zurich"),
        ("http_mode", "any"),
        ("loopback_dsn", r"host=/tmp port=5432 password='it\'s \\'"),
        ("loopback_dsn", ""),
    ],
)
def test_good_values_are_stored_as_given(db: Database, name: str, value: str) -> None:
    assert db.admin("select df.set_setting(%s, %s)", name, value) == "OK"
    assert db.admin("select df.setting(%s)", name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable_superuser_instances", "maybe"),
        ("retention_days", "1.5"),
        ("retention_days", "-1"),
        ("retention_days", "seven"),
        ("retention_days", ""),
        ("retry_backoff", "NaN"),
        ("retry_backoff", "infinity"),
        ("retry_backoff", "0.5"),
        ("loop_min_interval", "2 hours"),
        ("loop_min_interval", "soon"),
        ("loop_min_interval", "1.2.3"),
        ("timezone", "Europe/Atlantis"),
        ("timezone", ""),
        ("http_mode", "ANY"),
        ("loopback_dsn", "host=/tmp user=postgres"),
        ("loopback_dsn", "host=/tmp DBNAME = other"),
        ("loopback_dsn", "service=s"),
        ("loopback_dsn", "postgresql://localhost/"),
        ("loopback_dsn", "host=/tmp password='open"),
        ("loopback_dsn", "host=/tmp password=back\\slash"),
    ],
)
def test_bad_values_are_refused_by_name(db: Database, name: str, value: str) -> None:
    before = db.admin("select value from df.settings where name = %s", name)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=name):
        db.admin("select df.set_setting(%s, %s)", name, value)
    assert db.admin("select value from df.settings where name = %s", name) == before


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda s: s.name)
def test_ranges_include_their_ends_and_nothing_beyond(db: Database, setting) -> None:  # type: ignore[no-untyped-def]
    for value in (setting.low, setting.high):
        assert db.admin("select df.set_setting(%s, %s)", setting.name, str(value)) == "OK"
        assert db.admin("select df_engine.setting_number(%s)", setting.name) == value
    for value in (setting.low - 1, setting.high + 1):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=setting.name):
            db.admin("select df.set_setting(%s, %s)", setting.name, str(value))


def test_null_restores_the_default(db: Database) -> None:
    db.admin("select df.set_setting('retention_days', '7')")
    db.admin("select df.set_setting('retention_days', null)")
    assert db.admin("select df.setting('retention_days')") == "30"


def test_unknown_names_raise(db: Database) -> None:
    for call in ("df.setting('nonsense')", "df.set_setting('nonsense', '1')", "df.set_setting('nonsense', null)"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match='"nonsense"'):
            db.admin(f"select {call}")
    with pytest.raises(psycopg.errors.NullValueNotAllowed):
        db.admin("select df.set_setting(null, '1')")
    assert db.admin("select df.setting(null)") is None


def test_durations_are_read_in_seconds(db: Database) -> None:
    db.admin("select df.set_setting('loop_min_interval', '1.5 min')")
    assert db.sql("select df_engine.setting_number('loop_min_interval')") == 90


def test_users_read_all_settings_but_loopback_dsn(db: Database) -> None:
    db.admin("select df.set_setting('loopback_dsn', 'host=/secret')")
    assert db.sql("select count(*) from df.settings") == len(SETTINGS) - 1
    assert db.sql("select df.setting('loopback_dsn')") is None
    assert db.sql("select df_engine.setting('loopback_dsn')") is None
    assert db.admin("select df.setting('loopback_dsn')") == "host=/secret"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.sql("update df.settings set value = '1'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        db.sql("select df.set_setting('timezone', 'UTC')")


def test_administrators_by_grant_see_loopback_dsn(db: Database) -> None:
    db.admin("select df.set_setting('loopback_dsn', 'host=/secret')")
    db.admin("grant execute on function df.set_setting(text, text) to app")
    assert db.sql("select df.setting('loopback_dsn')") == "host=/secret"
    assert db.sql("select value from df.settings where name = 'loopback_dsn'") == "host=/secret"
    assert db.sql("select df.setting('loopback_dsn')", user="other") is None


def test_code_that_an_administrator_runs_for_others_does_not_see_loopback_dsn(db: Database) -> None:
    db.admin("select df.set_setting('loopback_dsn', 'host=/secret')")
    db.sql("""create function public.peek() returns text language sql security definer
              as $$ select df.setting('loopback_dsn') $$""")
    db.sql("create table public.bait (x text)")
    db.sql("""create function public.spy(text) returns text immutable language plpgsql
              as $$ begin return coalesce(df.setting('loopback_dsn'), '-'); end $$""")
    db.sql("create index on public.bait (public.spy(x))")
    db.sql("insert into public.bait values ('x')")
    db.admin("reindex table public.bait")
    assert db.admin("select public.peek()") is None
    db.admin("set enable_seqscan = off")
    assert db.admin("select count(*) from public.bait where public.spy(x) = 'host=/secret'") == 0


def test_an_administrator_who_has_set_another_role_does_not_see_loopback_dsn(db: Database) -> None:
    db.admin("select df.set_setting('loopback_dsn', 'host=/secret')")
    with db.connect() as conn:
        conn.execute("set role app")
        assert conn.execute("select df.setting('loopback_dsn')").fetchone() == (None,)
        assert conn.execute("select count(*) from df.settings where name = 'loopback_dsn'").fetchone() == (0,)
