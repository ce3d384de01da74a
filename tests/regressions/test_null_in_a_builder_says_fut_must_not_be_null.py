"""NULL where a builder or operator wants a graph or a name raises 22004 and says which one it is."""

import psycopg
import pytest

from tests.support import Database

WRITTEN = [
    ("'a' ~> null", "the second step of ~>"),
    ("null::text ~> 'a'", "the first step of ~>"),
    ("'a' & null", "the second branch of &"),
    ("null::text & 'a'", "the first branch of &"),
    ("'a' | null", "the second branch of |"),
    ("null::text | 'a'", "the first branch of |"),
    ("'a' |=> null", "the name on the right of |=>"),
    ("null::text |=> 'n'", "the step on the left of |=>"),
    ("'c' ?> null", "the branch on the right of ?>"),
    ("null::text ?> 'a'", "the condition on the left of ?>"),
    ("'c' ?> 'a' !> null", "the branch on the right of !>"),
    ("null::text !> 'a'", "the left side of !>"),
    ("@> null::text", "the body of @>"),
    ("df.as(null, 'n')", "fut of df.as"),
    ("df.as('a', null)", "name of df.as"),
    ("df.loop(null)", "body of df.loop"),
    ("df.loop('a', null, null)", "continue_on_failure of df.loop"),
    ("df.if(null, 'a', 'b')", "condition of df.if"),
    ("df.if('c', null, 'b')", "then_branch of df.if"),
    ("df.if('c', 'a', null)", "else_branch of df.if"),
    ("df.if_rows(null, 'a', 'b')", "result_name of df.if_rows"),
    ("df.if_rows('n', null, 'b')", "then_branch of df.if_rows"),
    ("df.if_rows('n', 'a', null)", "else_branch of df.if_rows"),
    ("df.join3('a', 'b', null)", "c of df.join3"),
    ("df.sleep(null::numeric)", "seconds of df.sleep"),
    ("df.sleep(null::interval)", "duration of df.sleep"),
    ("df.wait_for_signal(null)", "name of df.wait_for_signal"),
    ("df.retry(null)", "fut of df.retry"),
    ("df.http(null)", "url of df.http"),
    ("df.http_multipart(null)", "url of df.http_multipart"),
    ("df.start(null)", "fut of df.start"),
    ("df.start('a', transaction_mode => null)", "transaction_mode of df.start"),
]


@pytest.mark.parametrize(("written", "named"), WRITTEN)
def test_what_is_null_is_named(shared: Database, written: str, named: str) -> None:
    with pytest.raises(psycopg.errors.NullValueNotAllowed) as caught:
        shared.sql(f"select {written}")
    assert str(caught.value.diag.message_primary).endswith(f"{named} is NULL")
    assert caught.value.diag.message_hint


def test_a_null_deep_in_a_flow_is_not_swallowed(shared: Database) -> None:
    with pytest.raises(psycopg.errors.NullValueNotAllowed, match="the second step of ~> is NULL"):
        shared.sql("select df.start('a' ~> ('b' ~> (select null::text)) & 'c')")


@pytest.mark.parametrize("written", ["df.sql(null)", "df.wait_for_schedule(null)", "df.wait_for_schedule(null, 'UTC')"])
def test_these_give_null_as_before(shared: Database, written: str) -> None:
    assert shared.sql(f"select {written}") is None


def test_no_graph_builder_is_strict_but_df_sql(shared: Database) -> None:
    strict = """
        select p.proname from pg_proc p
        where p.pronamespace = 'df'::regnamespace and p.proisstrict and p.prorettype = 'text'::regtype
          and p.proname in ('sql', 'seq', 'as', 'sleep', 'wait_for_schedule', 'loop', 'break', 'if', 'if_rows', 'join',
                            'join3', 'race', 'wait_for_signal', 'retry', 'http', 'http_multipart', 'start')"""
    assert shared.rows(strict) == [("sql",)]
