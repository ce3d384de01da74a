"""df.flow: text to envelope, byte for byte what the builders give; errors with their place."""

import random
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.language.flows import Writer, compact, graph

Ask = Callable[..., Any]

SAME = [
    ("'SELECT 1'", "df.sql('SELECT 1')"),
    ("'a' ~> 'b' ~> 'c'", "df.seq(df.seq('a', 'b'), 'c')"),
    ("'a' ~> ('b' ~> 'c')", "df.seq('a', df.seq('b', 'c'))"),
    ("'a' ~> 'b' |=> x", "df.seq('a', df.as('b', 'x'))"),
    ("('a' ~> 'b') |=> x", "df.as(df.seq('a', 'b'), 'x')"),
    ("'a' |=> x |=> 'y'", "df.as('a', 'y')"),
    ("'a' & 'b'", "df.join('a', 'b')"),
    ("'a' & 'b' & 'c'", "df.join3('a', 'b', 'c')"),
    ("('a' & 'b') & 'c'", "df.join(df.join('a', 'b'), 'c')"),
    ("('a' & 'b' & 'c') |=> x & 'd'", "df.join(df.as(df.join3('a', 'b', 'c'), 'x'), 'd')"),
    ("'a' | 'b' | 'c'", "df.race(df.race('a', 'b'), 'c')"),
    ("'a' & 'b' | 'c' & 'd' ~> 'e'", "df.seq(df.race(df.join('a', 'b'), df.join('c', 'd')), 'e')"),
    ("'c' ?> 'a' !> 'b'", "df.if('c', 'a', 'b')"),
    ("'c' ?> 'a' !> 'd' ?> 'e' !> 'f'", "df.if('c', 'a', df.if('d', 'e', 'f'))"),
    ("'p' ~> 'c' ?> 'a' ~> 'x' !> 'b' ~> 'z'", "df.if(df.seq('p', 'c'), df.seq('a', 'x'), df.seq('b', 'z'))"),
    ("'c' ?> 'd' ?> 'a' !> 'b' !> 'e'", "df.if('c', df.if('d', 'a', 'b'), 'e')"),
    ("@> 'a' ~> 'b'", "df.loop(df.seq('a', 'b'))"),
    ("@> @> 'a'", "df.loop(df.loop('a'))"),
    ("'c' ?> 'a' !> @> 'b'", "df.if('c', 'a', df.loop('b'))"),
    ("loop('a', while => 'c')", "df.loop('a', 'c')"),
    ("df.loop('a', condition => 'c')", "df.loop('a', 'c')"),
    ("loop('a', null)", "df.loop('a')"),
    ("IF('c', else_branch => 'b', then_branch => 'a')", "df.if('c', 'a', 'b')"),
    ("if_rows('r', 'a', 'b' ~> 'c')", "df.if_rows('r', 'a', df.seq('b', 'c'))"),
    ("break", "df.break()"),
    ("break 'x' ~> Break", "df.seq(df.break('x'), df.break())"),
    ("break($$x$$)", "df.break('x')"),
    ("sleep(5) | df.sleep(0.250)", "df.race(df.sleep(5), df.sleep(0.25))"),
    ("sleep('10 minutes')", "df.sleep(interval '10 minutes')"),
    ("sleep(duration => '1 day')", "df.sleep(interval '1 day')"),
    ("wait_for_signal('go', 5)", "df.wait_for_signal('go', 5)"),
    ("wait_for('a')", "df.wait_for('a')"),
    ("df.wait_for('a' |=> x, '5 s', 'key', timeout => '1 day')", "df.wait_for(df.as('a', 'x'), '5 s', 'key', '1 day')"),
    ("call('a')", "df.call('a')"),
    ("call('a' ~> call('b' |=> x, label => 'l') | sleep(1), '{\"a\": $x}')",
     "df.call(df.seq('a', df.race(df.call(df.as('b', 'x'), label => 'l'), df.sleep(1))), '{\"a\": $x}')"),
    ("'a' & call('b' & 'c', {\"a\": 1}) |=> n", "df.join('a', df.as(df.call(df.join('b', 'c'), '{\"a\":1}'), 'n'))"),
    ("retry(wait_for('a', key => 'order-$input.id'), 3)", "df.retry(df.wait_for('a', key => 'order-$input.id'), 3)"),
    ("wait_for_schedule('@daily', timezone => 'Europe/Berlin')", "df.wait_for_schedule('@daily', 'Europe/Berlin')"),
    ("retry('a', max_attempts => 3, retry_on => [\"23505\"])", "df.retry('a', 3, retry_on => '{23505}')"),
    ("retry('a' |=> x, initial_delay => '200 ms') |=> y", "df.retry(df.as('a', 'y'), initial_delay => '200 ms')"),
    ("retry(retry('a', 3), backoff => 1)", "df.retry(df.retry('a', 3), backoff => 1)"),
    ("retry('a', 2, exhausted => 'pause')", "df.retry('a', 2, exhausted => 'pause')"),
    ("retry('a')", "df.retry('a')"),
    ("as('a', 'x') ~> join('b', race('c', 'd'))", "df.seq(df.as('a', 'x'), df.join('b', df.race('c', 'd')))"),
    ("sql('{\"node_type\":\"SLEEP\"}')", "df.sql('{\"node_type\":\"SLEEP\"}')"),
    ("'{\"node_type\":\"SLEEP\",\"query\":\"5\"}' |=> x", "df.as(df.sleep(5), 'x')"),
    ('{"node_type": "SLEEP", "query": "5"} ~> \'a\'', "df.seq(df.sleep(5), 'a')"),
    ('\'a\' ~> {"node_type":"SQL","query":"b","result_name":"x"} |=> y', "df.seq('a', df.as('b', 'y'))"),
    ("-- first\n'a' /* then */ ~> -- second\n'b'\n--", "df.seq('a', 'b')"),
    (r"E'\x41\101\u00e4\'\\\n''\uD83D\uDE00'", "df.sql('AA' || chr(228) || '''\\' || chr(10) || '''' || chr(128512))"),
    ("$$it's$$ ~> $x$ $$ $y$ $x$", "df.seq('it''s', ' $$ $y$ ')"),
    ("http('https://h', 'GET', headers => {\"A\": \"b\"})", "df.http('https://h', 'GET', headers => '{\"A\":\"b\"}')"),
    ("http('https://h', body => {\"n\": [1, \"$x\"]})", "df.http('https://h', body => '{\"n\":[1,\"$x\"]}')"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "built"), SAME)
def test_text_gives_what_the_builders_give(ask: Ask, text: str, built: str) -> None:
    assert ask("select df.flow(%s)", text) == ask(f"select {built}")


REFUSED = [
    ("", "1, column 1", "the end", "both sides"),
    ("SELECT 1 ~> 'b'", "1, column 1", "SQL in quotes", "SQL goes in quotes"),
    ("'a' ~> total", "1, column 8", "SQL in quotes", "SQL goes in quotes"),
    ("('a' ~> 'b'", "1, column 12", '")"', "opened at line 1, column 1 is not closed"),
    ("'a'\n  ~> ('b' & (sleep(1) | 'c')", "2, column 29", '")"', "opened at line 2, column 6"),
    ("'a') ~> 'b'", "1, column 4", "the end", "No parenthesis is open"),
    ("'a' => x", "1, column 5", '"|=>"', "named with |=>"),
    ("'a' !> 'b'", "1, column 5", '"?>"', "belongs to a ?>"),
    ("'a' ~>\n'b", "2, column 1", "SQL in quotes", "never ends"),
    ("'a' /* b", "1, column 5", '"~>"', "never ends"),
    ("'a' ~> $x$ b $$", "1, column 8", "SQL in quotes", "never ends"),
    ("'a';", "1, column 4", "the end", "semicolon"),
    ("'a' ~> @> 'b'", "1, column 8", "SQL in quotes", "(@> b)"),
    ("'a' 'b'", "1, column 5", '"~>"', "operator between them"),
    ("'a' ~> \"b\"", "1, column 8", "SQL in quotes", "single quotes"),
    ("sleep(5,)", "1, column 9", "a number", None),
    ("'a' ~> € 'b'", "1, column 8", 'found "€"', None),
    ("'" + "x\n" * 3 + "' ~> " + " " * 200 + "~> 'b'", "4, column 206", 'found "~>"', None),
]


@pytest.mark.parametrize(("text", "place", "says", "hint"), REFUSED)
def test_a_syntax_error_says_where_and_what(pure: Ask, text: str, place: str, says: str, hint: str | None) -> None:
    with pytest.raises(psycopg.errors.SyntaxError) as caught:
        pure("select df.flow(%s)", text)
    message, detail = caught.value.diag.message_primary or "", caught.value.diag.message_detail or ""
    assert message.startswith(f"flow syntax error at line {place}: ")
    assert says in message
    _, excerpt, caret = detail.split("\n")
    assert caret.strip() == "^" and len(caret) <= len(excerpt) + 1 <= 100
    assert (hint or "") in (caught.value.diag.message_hint or "")


BUILDERS_SAY = [
    ("'a' ~> sleep(-5)", "must be non-negative", "22023", 8),
    ("'a' |=> '1x'", "not a valid identifier", "22023", 1),
    ("'a' ~> as('b', '')", "cannot be empty", "22023", 8),
    ("wait_for_schedule('61 * * * *')", "^Invalid cron expression", "22023", 1),
    ("wait_for_signal('x', 0)", "Timeout must be positive", "22023", 1),
    ("'a' ~> wait_for('b' ~> 'c')", "is one SQL step, not THEN", "22023", 8),
    ("'a' ~> call('b', '{')", "the input of df.call is no JSON", "22023", 8),
    ("'a' ~> retry(call('b'))", "retry is not valid for CALL nodes", "22023", 8),
    ("'a' ~> wait_for('b', '0 s')", "argument every of df.wait_for must be positive", "22023", 8),
    ("'a' ~> retry('a' ~> 'b')", "retry is not valid for THEN nodes", "22023", 8),
    ("retry(sleep(5))", "retry is not valid for SLEEP nodes", "22023", 1),
    ("retry('a', max_attempts => 0)", "max_attempts", "22023", 1),
    ("sleep(null)", "do not fit df.sleep", "42601", 1),
    ("sleep('never')", "is no duration", "22023", 1),
    ("'a' ~> slep(5)", "no graph builder df.slep", "42601", 8),
    ("sleep(5, 6)", "do not fit df.sleep", "42601", 1),
    ("sleep(sekunden => 5)", "do not fit df.sleep", "42601", 1),
    ("seq('a', 5)", "do not fit df.seq", "42601", 1),
    ("'a' ~> {\"a\": 1}", "no envelope", "42601", 8),
    ('\'a\' ~> {"node_type": "SQL", "query": 5}', "^Invalid Durofut JSON", "22P02", 8),
    (r"'a' ~> E'\u00zz'", "stands for no character", "22025", 8),
]


@pytest.mark.parametrize(("text", "says", "code", "column"), BUILDERS_SAY)
def test_a_bad_argument_is_the_builders_own_error_with_its_place(
    pure: Ask, text: str, says: str, code: str, column: int
) -> None:
    with pytest.raises(psycopg.Error, match=says) as caught:
        pure("select df.flow(%s)", text)
    assert caught.value.sqlstate == code
    assert f"In the flow at line 1, column {column}:" in (caught.value.diag.message_detail or "")


def test_null_gives_null(pure: Ask) -> None:
    assert pure("select df.flow(null)") is None


@pytest.mark.parametrize("seed", range(8))
def test_random_graphs_are_read_back_from_their_text(pure: Ask, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        node = graph(rng, rng.randint(1, 25))
        text = Writer(rng).write(node)
        assert pure("select df.flow(%s)", text) == compact(node), text


def test_a_text_of_8000_steps_is_read(pure: Ask) -> None:
    text = "\n~> ".join(f"'SELECT {n}, ''x'' FROM some_table WHERE id = $n' |=> n{n % 9}" for n in range(8000))
    pure("set statement_timeout = '2min'")  # time that grows with the square takes longer
    assert pure("select df.flow(%s) like '{%%'", text) is True


@pytest.mark.parametrize(
    "text", ["(" * 20_000, "'" * 50_001, "$" * 50_000, "/*" * 50_000, '"\\' * 50_000, "@>" * 20_000, "{" * 20_000]
)
def test_hopeless_texts_are_refused_at_once(pure: Ask, text: str) -> None:
    pure("set statement_timeout = '5s'")
    with pytest.raises(psycopg.errors.SyntaxError):
        pure("select df.flow(%s)", text)
