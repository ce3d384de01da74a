"""What each builder returns, byte for byte, and what it refuses."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

Ask = Callable[..., Any]

A = '{"node_type":"SQL","query":"a"}'
B = '{"node_type":"SQL","query":"b"}'
C = '{"node_type":"SQL","query":"c"}'
quoted = json.dumps

ENVELOPES = [
    ("df.sql('SELECT 1')", '{"node_type":"SQL","query":"SELECT 1"}'),
    ("df.sql(df.sql('a'))", r'{"node_type":"SQL","query":"{\"node_type\":\"SQL\",\"query\":\"a\"}"}'),
    (r"df.sql(E'a\n\t\\ \" ä €')", r'{"node_type":"SQL","query":"a\n\t\\ \" ä €"}'),
    ("df.seq('a', 'b')", f'{{"node_type":"THEN","left_node":{A},"right_node":{B}}}'),
    ("df.join('a', 'b')", f'{{"node_type":"JOIN","left_node":{A},"right_node":{B}}}'),
    ("df.join3('a', 'b', 'c')", f'{{"node_type":"JOIN","left_node":{A},"right_node":{B},"extra_nodes":[{C}]}}'),
    ("df.race('a', 'b')", f'{{"node_type":"RACE","left_node":{A},"right_node":{B}}}'),
    ("df.loop('a')", f'{{"node_type":"LOOP","left_node":{A}}}'),
    ("df.loop('a', continue_on_failure => true)",
     f'{{"node_type":"LOOP","left_node":{A},"query":"{{\\"continue_on_failure\\":true}}"}}'),
    ("df.loop('a', 'b', true)", f'{{"node_type":"LOOP","left_node":{A},"condition_node":{B},'
     r'"query":"{\"continue_on_failure\":true}"}'),
    ("df.as(df.loop('a', null, true), 'x')", f'{{"node_type":"LOOP","left_node":{A},'
     r'"query":"{\"continue_on_failure\":true}","result_name":"x"}'),
    ("df.loop('a', continue_on_failure => false)", f'{{"node_type":"LOOP","left_node":{A}}}'),
    ("df.sleep('5 minutes')", '{"node_type":"SLEEP","query":"300"}'),
    ("df.sleep(0.50::float8)", '{"node_type":"SLEEP","query":"0.5"}'),
    ("df.loop('a', 'b')", f'{{"node_type":"LOOP","left_node":{A},"condition_node":{B}}}'),
    ("df.loop(body => 'a', condition => null)", f'{{"node_type":"LOOP","left_node":{A}}}'),
    ("df.if('c', 'a', 'b')", f'{{"node_type":"IF","left_node":{A},"right_node":{B},"condition_node":{C}}}'),
    ("df.if('c', 'a')", f'{{"node_type":"IF","left_node":{A},"condition_node":{C}}}'),
    ("df.if_rows('n!', 'a', 'b')", f'{{"node_type":"IF","left_node":{A},"right_node":{B},"query":'
     r'"{\"condition_type\":\"result_has_rows\",\"result_name\":\"n!\"}"}'),
    ("df.as('a', 'x')", '{"node_type":"SQL","query":"a","result_name":"x"}'),
    ("df.as(df.as('a', 'x'), '_y1')", '{"node_type":"SQL","query":"a","result_name":"_y1"}'),
    ("df.as(df.retry('a', 3), 'x')", '{"node_type":"SQL","query":"a","result_name":"x","retry":{"max_attempts":3}}'),
    ("df.seq('SELECT 7', df.sleep(0.250))", '{"node_type":"THEN","left_node":{"node_type":"SQL","query":"SELECT 7"},'
     '"right_node":{"node_type":"SLEEP","query":"0.25"}}'),
    ("df.sleep(30)", '{"node_type":"SLEEP","query":"30"}'),
    ("df.sleep(0)", '{"node_type":"SLEEP","query":"0"}'),
    ("df.sleep(1e3)", '{"node_type":"SLEEP","query":"1000"}'),
    ("df.sleep(100.0)", '{"node_type":"SLEEP","query":"100"}'),
    ("df.sleep(3155760000)", '{"node_type":"SLEEP","query":"3155760000"}'),
    ("df.sleep(interval '1 hour 30 minutes')", '{"node_type":"SLEEP","query":"5400"}'),
    ("df.sleep('$input.pause')", '{"node_type":"SLEEP","query":"{\\"duration\\":\\"$input.pause\\"}"}'),
    ("df.sleep_until('{due}')", '{"node_type":"SLEEP","query":"{\\"until\\":\\"{due}\\"}"}'),
    ("df.sleep_until('2030-01-01 00:00:00.250+01')",
     '{"node_type":"SLEEP","query":"{\\"until\\":\\"2029-12-31T23:00:00.25Z\\"}"}'),
    ("df.sleep_until(timestamptz '2030-01-01Z')",
     '{"node_type":"SLEEP","query":"{\\"until\\":\\"2030-01-01T00:00:00Z\\"}"}'),
    ("df.sleep(duration => '1 month')", '{"node_type":"SLEEP","query":"2592000"}'),
    ("df.sleep(interval '100 years')", '{"node_type":"SLEEP","query":"3155760000"}'),
    ("df.wait_for_schedule('*/5 * * * *')", r'{"node_type":"WAIT_SCHEDULE","query":"{\"cron_expr\":\"*/5 * * * *\"}"}'),
    ("df.wait_for_schedule('@daily', 'Europe/Berlin')",
     r'{"node_type":"WAIT_SCHEDULE","query":"{\"cron_expr\":\"@daily\",\"timezone\":\"Europe/Berlin\"}"}'),
    ("df.wait_for_signal('go')", r'{"node_type":"SIGNAL","query":"{\"signal_name\":\"go\",\"timeout_seconds\":null}"}'),
    ("df.wait_for_signal('go', 5)", r'{"node_type":"SIGNAL","query":"{\"signal_name\":\"go\",\"timeout_seconds\":5}"}'),
    ("df.wait_for('a')", f'{{"node_type":"WAIT_FOR","condition_node":{A},"query":"{{\\"every\\":60}}"}}'),
    ("df.wait_for('a', '500 ms', 'k', interval '1 hour')", f'{{"node_type":"WAIT_FOR","condition_node":{A},'
     r'"query":"{\"every\":0.5,\"key\":\"k\",\"timeout\":3600}"}'),
    ("df.call('a')", '{"node_type":"CALL","query":' + quoted('{"flow":' + quoted(A) + "}") + "}"),
    ("df.call(df.sql('a'), '{\"id\": $x}', 'l')", '{"node_type":"CALL","query":' + quoted(
        '{"flow":' + quoted(A) + ',"input":' + quoted('{"id": $x}') + ',"label":"l"}') + "}"),
    ("df.retry(df.wait_for('a'), 3)", f'{{"node_type":"WAIT_FOR","condition_node":{A},'
     r'"query":"{\"every\":60}","retry":{"max_attempts":3}}'),
    ("df.break()", r'{"node_type":"BREAK","query":"{\"break_value\":null}"}'),
    ("df.break('x')", r'{"node_type":"BREAK","query":"{\"break_value\":\"x\"}"}'),
    ("df.break(df.sql('a'))", '{"node_type":"BREAK","query":'
     r'"{\"break_value\":\"{\\\"node_type\\\":\\\"SQL\\\",\\\"query\\\":\\\"a\\\"}\"}"}'),
    ("df.retry('a')", '{"node_type":"SQL","query":"a","retry":{}}'),
    ("df.retry('a', max_attempts => 3, initial_delay => '500 ms', backoff => 2.0, max_delay => '1 min', "
     "retry_on => '{23505,40,transient,connection,timeout,http:404,http:4xx}')",
     '{"node_type":"SQL","query":"a","retry":{"max_attempts":3,"initial_delay":0.5,"backoff":2,"max_delay":60,'
     '"retry_on":["23505","40","transient","connection","timeout","http:404","http:4xx"]}}'),
    ("df.retry('a', exhausted => 'pause')", '{"node_type":"SQL","query":"a","retry":{"exhausted":"pause"}}'),
    ("df.retry(df.retry('a', 3), backoff => 1)", '{"node_type":"SQL","query":"a","retry":{"backoff":1}}'),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "envelope"), ENVELOPES)
def test_envelope(pure: Ask, expression: str, envelope: str) -> None:
    assert pure(f"select {expression}") == envelope
    json.loads(envelope)


@pytest.mark.parametrize("text", [
    " \n" + A + "\t",
    '{"query":"a","node_type":"SQL"}',
    '{"node_type":"SQL","query":"a","result_name":null,"left_node":null,"mystery":[1]}',
])  # fmt: skip
def test_hand_written_envelopes_are_used_as_they_are(pure: Ask, text: str) -> None:
    wrapped = json.loads(pure("select df.loop(%s)", text))
    assert wrapped == {"node_type": "LOOP", "left_node": json.loads(text)}


@pytest.mark.parametrize("text", [
    "", " ", "SELECT 1", '{"a":1}', '{"node_type":5}', '{"node_type":"sql","query":"a"}', '{"node_type":"NOPE"}',
    A + "x", "[" + A + "]", '{"node_type":"SQL","query":"\\u0000"}', "{not json", '"SQL"',
])  # fmt: skip
def test_other_text_is_a_statement_verbatim(pure: Ask, text: str) -> None:
    assert json.loads(pure("select df.loop(%s)", text))["left_node"] == {"node_type": "SQL", "query": text}


MALFORMED = [
    '{"node_type":"THEN","left_node":1}', '{"node_type":"THEN","right_node":"x"}',
    '{"node_type":"IF","condition_node":[]}',
    '{"node_type":"JOIN","extra_nodes":{}}', '{"node_type":"JOIN","extra_nodes":[1]}',
    '{"node_type":"JOIN","extra_nodes":[null]}', '{"node_type":"SQL","query":5}',
    '{"node_type":"SQL","result_name":{}}', '{"node_type":"NOPE","query":[]}',
]  # fmt: skip


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_envelopes_are_refused_by_every_composer(pure: Ask, text: str) -> None:
    for call in ("df.loop(%s)", "df.seq('a', %s)", "df.as(%s, 'x')", "df.if('a', %s, 'b')", "df.retry(%s)"):
        with pytest.raises(psycopg.errors.InvalidTextRepresentation, match=r"^Invalid Durofut JSON"):
            pure(f"select {call}", text)


REFUSED = [
    ("df.as('a', '')", "22023", "cannot be empty"),
    ("df.as('a', '1x')", "22023", "not a valid identifier"),
    ("df.as('a', E'x\\n')", "22023", "not a valid identifier"),
    ("df.as('a', 'ä')", "22023", "not a valid identifier"),
    ("df.as('a', 'input')", "22023", "$input is what a run binds itself"),
    ("df.as('a', 'item')", "22023", "$item is"),
    ("df.as('a', 'item_no')", "22023", "$item_no is"),
    ("df.as('a', 'error')", "22023", "$error is"),
    ("df.sleep(-0.1)", "22023", "must be non-negative"),
    ("df.sleep(interval '-1 s')", "22023", "must be non-negative"),
    ("df.sleep('NaN'::numeric)", "22023", ""),
    ("df.sleep('Infinity'::numeric)", "22023", ""),
    ("df.sleep(3155760000.1)", "22023", ""),
    ("df.sleep(interval '101 years')", "22023", ""),
    ("df.sleep('soon')", "22023", '"soon" is no duration'),
    ("df.sleep_until('soon')", "22023", '"soon" is no time'),
    ("df.sleep_until('infinity')", "22023", "within 100 years"),
    ("df.sleep_until(null::timestamptz)", "22004", "argument due of df.sleep_until is NULL"),
    ("df.wait_for_schedule('* * * *')", "22023", "Invalid cron expression"),
    ("df.wait_for_schedule('0 0 30 2 *')", "22023", "Invalid cron expression"),
    ("df.wait_for_schedule('5-1 * * * *')", "22023", "Invalid cron expression"),
    ("df.wait_for_schedule('@daily', 'Mars/Base')", "22023", "time zone \"Mars/Base\""),
    ("df.wait_for_schedule('@daily', 'FOO5')", "22023", "time zone \"FOO5\""),
    ("df.wait_for_signal('')", "22023", ""),
    ("df.wait_for_signal('x', 0)", "22023", "Timeout must be positive"),
    ("df.wait_for_signal(null)", "22004", ""),
    ("df.call(null)", "22004", "argument flow of df.call is NULL"),
    ("df.seq('a', '@bill')", "22023", "@bill is the name of a definition, and no step"),
    ("df.call('a', '{')", "22023", "the input of df.call is no JSON, and holds no reference: {"),
    ("df.call('a', label => repeat('k', 1025))", "54000", "the label of a call has 1025 bytes"),
    ("df.retry(df.call('a'))", "22023", "retry is not valid for CALL nodes"),
    ("df.wait_for(null)", "22004", "argument condition of df.wait_for is NULL"),
    ("df.wait_for('a', null)", "22004", "argument every of df.wait_for is NULL"),
    ("df.wait_for(df.sleep(1))", "22023", "is one SQL step, not SLEEP"),
    ("df.wait_for('a', '0 s')", "22023", "argument every of df.wait_for must be positive"),
    ("df.wait_for('a', '-1 s')", "22023", "argument every of df.wait_for must be positive"),
    ("df.wait_for('a', timeout => '0 s')", "22023", "argument timeout of df.wait_for must be positive"),
    ("df.wait_for('a', timeout => '101 years')", "22023", "argument timeout of df.wait_for must be positive"),
    ("df.wait_for('a', key => '')", "22023", "the key of a wait cannot be empty"),
    ("df.wait_for('a', key => repeat('k', 1025))", "54000", "the key of a wait has 1025 bytes"),
    ("df.loop(null)", "22004", ""),
    ("df.retry(null)", "22004", ""),
    ("df.retry(df.sleep(1))", "22023", "retry is not valid for SLEEP nodes"),
    ("df.retry(df.seq('a', 'b'))", "22023", "retry is not valid for THEN nodes"),
    ("df.retry('a', 0)", "22023", "max_attempts"),
    ("df.retry('a', 1001)", "22023", "max_attempts"),
    ("df.retry('a', initial_delay => '-1 s')", "22023", "initial_delay"),
    ("df.retry('a', max_delay => '2 days')", "22023", "max_delay"),
    ("df.retry('a', backoff => 0.9)", "22023", "backoff"),
    ("df.retry('a', backoff => 'NaN')", "22023", "backoff"),
    ("df.retry('a', exhausted => 'wait')", "22023", "exhausted must be fail or pause"),
    ("df.retry('a', retry_on => '{235055}')", "22023", "retry_on"),
    ("df.retry('a', retry_on => '{http:4}')", "22023", "retry_on"),
    ("df.retry('a', retry_on => '{NULL}')", "22023", "retry_on"),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "code", "fragment"), REFUSED)
def test_refused(pure: Ask, expression: str, code: str, fragment: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        pure(f"select {expression}")
    assert caught.value.sqlstate == code
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    "expression", ["df.sql(null)", "df.wait_for_schedule(null)", "df.wait_for_schedule(null, 'UTC')"]
)
def test_null_gives_null(pure: Ask, expression: str) -> None:
    assert pure(f"select {expression}") is None


def test_builders_work_under_any_search_path(pure: Ask) -> None:
    pure("set search_path = nowhere")
    try:
        assert pure("select df.if('c', df.loop('a'), df.as('b', 'x'))").startswith('{"node_type":"IF"')
    finally:
        pure("reset search_path")


def test_long_chains_do_not_exhaust_the_stack(pure: Ask) -> None:
    chain = pure("with recursive c(n, e) as (select 1, 'x' union all select n + 1, df.seq(e, 'x') from c where n < 257)"
                 " select e from c order by n desc limit 1")  # fmt: skip
    assert chain.count('"THEN"') == 256
