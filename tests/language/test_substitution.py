"""Variables and named results in the text of a step."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.language import reference_substitution as reference
from tests.support import Database

NAMES: dict[str, Any] = {
    "n": {
        "value": {
            "rows": [
                {"id": 7, "s": "it's \\", "neg": -5, "t": True, "j": {"a": "o'k"}, "x": None, "größe": 1.5},
                {"id": 8, "s": None, "neg": 0, "t": False, "j": [1], "x": None, "größe": 2.5},
            ],
            "row_count": 2,
        },
        "columns": ["id", "s", "neg", "t", "j", "x", "größe"],
    },
    "empty": {"value": {"rows": [], "row_count": 0}, "columns": ["id", "name"]},
    "ddl": {"value": {"rows": [], "row_count": 0}, "columns": []},
    "obj": {"value": {"k": "v", "z": None, "t": {"a": 1}}, "columns": None},
    "arr": {"value": [1, "two"], "columns": None},
    "str": {"value": "it's", "columns": None},
    "nil": {"value": None, "columns": None},
    "tag": {"value": {"rows": [{"c": "a $do$ b"}], "row_count": 1}, "columns": ["c"]},
    "bare": {"value": {"rows": [{}, {}, {}], "row_count": 3}, "columns": []},
    "typed": {
        "value": {
            "rows": [
                {
                    "i": 7,
                    "d": "2026-05-01",
                    "k": 5,
                    "t": "it's",
                    "ids": [1, None],
                    "c": {"a": 1},
                    "x": None,
                    "j": {"b": []},
                    "js": [[1]],
                    "cs": [{"a": 1}],
                    "f": "NaN",
                }
            ],
            "row_count": 1,
        },
        "columns": ["i", "d", "k", "t", "ids", "c", "x", "j", "js", "cs", "f"],
        "types": [
            "pg_catalog.int4",
            "pg_catalog.date",
            "public.positive",
            "pg_catalog.text",
            "pg_catalog.int4[]",
            "public.pair",
            "pg_catalog.uuid",
            "pg_catalog.jsonb",
            "pg_catalog.jsonb[]",
            "public.pair[]",
            "pg_catalog.float8",
        ],
    },
    "quiet": {
        "value": {"rows": [], "row_count": 0},
        "columns": ["d", "k"],
        "types": ["pg_catalog.date", "public.positive"],
    },
    "two": {
        "value": {"rows": [{"d": "2026-05-01", "k": 5}, {"d": "2026-05-02", "k": None}], "row_count": 2},
        "columns": ["d", "k"],
        "types": ["pg_catalog.date", "public.positive"],
    },
    "pair": {"value": {"rows": [{"c": {"a": 1}}], "row_count": 1}, "columns": ["c"], "types": ["public.pair"]},
    "later": None,
}
VARS = {
    "tbl": "sales.orders",
    "day": "2026-05-01",
    "brace": "{day}",
    "ref": "$n.id",
    "sys_instance_id": "i1",
    "sys_label": "",
}


def render(shared: Database, text: str, mode: str = "sql", names: dict[str, Any] = NAMES) -> str:
    return str(
        shared.admin(
            "select df_engine.render_names(%s, %s, %s::jsonb, %s::text[])", text, mode, json.dumps(names), list(names)
        )
    )


def fill(shared: Database, text: str, mode: str = "sql") -> str:
    return str(shared.admin("select df_engine.render_vars(%s, %s, %s::jsonb)", text, mode, json.dumps(VARS)))


def refusal(shared: Database, text: str, mode: str = "sql", names: dict[str, Any] = NAMES) -> str:
    """The message with which a text is refused."""
    with pytest.raises(psycopg.Error) as caught:
        render(shared, text, mode, names)
    assert caught.value.sqlstate in ("DF010", "DF013")
    return str(caught.value.diag.message_primary)


# what a reference stands for, and how it is written

IN_CODE = {
    "$n": "7", "$n.id": "7", "$n.s": r"'it''s \'", "$n.neg": "-5", "$n.t": "true", "$n.j": """'{"a": "o''k"}'""",
    "$n.größe": "1.5", "$n.x?": "NULL", "$n.nope?": "NULL", "$n?": "7", "$later?": "NULL", "$later.c?": "NULL",
    "$later.*?": "NULL", "$empty?": "NULL", "$empty.id?": "NULL", "$ddl?": "NULL",
    "$obj": """'{"k": "v", "t": {"a": 1}, "z": null}'""", "$obj.k": "'v'", "$obj.t": """'{"a": 1}'""",
    "$obj.z?": "NULL",
    "$obj.nope?": "NULL", "$arr": """'[1, "two"]'""", "$str": """'"it''s"'""", "$nil": "'null'",
    "$n.*": """(VALUES (7,'it''s \\'::text,-5,true,'{"a": "o''k"}'::text,NULL,1.5),"""
            """(8,NULL,0,false,'[1]'::text,NULL,2.5)) AS "n"("id","s","neg","t","j","x","größe")""",
    "$empty.*": '(SELECT NULL AS "id", NULL AS "name" WHERE false) AS "empty"',
    "$ddl.*": '(SELECT FROM pg_catalog.generate_series(1, 0)) AS "ddl"',
    "$bare.*": '(SELECT FROM pg_catalog.generate_series(1, 3)) AS "bare"',
    "$typed": "7", "$typed.d": "'2026-05-01'::pg_catalog.date", "$typed.k": "'5'::public.positive",
    "$typed.t": "'it''s'",
    "$typed.ids": "('{\"1\",NULL}'::pg_catalog.int4[])", "$typed.c": """'{"a": 1}'""", "$typed.x?": "NULL",
    "$typed.j": """'{"b": []}'""", "$typed.js": """('{"[1]"}'::pg_catalog.jsonb[])""", "$typed.cs": """'[{"a": 1}]'""",
    "$typed.f": "'NaN'::pg_catalog.float8",
    "$quiet.*": '(SELECT NULL::pg_catalog.date AS "d", NULL::public.positive AS "k" WHERE false) AS "quiet"',
    "$two.*": "(VALUES ('2026-05-01'::pg_catalog.date,'5'::public.positive),('2026-05-02',NULL::public.positive))"
              ' AS "two"("d","k")',
    "$pair.*": "(VALUES ((SELECT v FROM pg_catalog.jsonb_to_record('{\"v\": {\"a\": 1}}') AS _(v public.pair))"
               '::public.pair))'
               ' AS "pair"("c")',
}  # fmt: skip
IN_RAW = {
    "$n": "7", "$n.s": "it's \\", "$n.neg": "-5", "$n.t": "true", "$n.j": """{"a": "o'k"}""", "$n.x?": "NULL",
    "$obj": """{"k": "v", "t": {"a": 1}, "z": null}""", "$str": '''"it's"''', "$nil": "null", "$empty.*": "[]",
    "a$n": "a7", "$n$n": "77", "/* $n */ '$n'": "/* 7 */ '7'", "$top=5&$filter=x": "$top=5&$filter=x", "$1$": "$1$",
    "$n.": "7.", "$n.5": "7.5", "$later?": "NULL", "$n.größe€": "1.5€",
}  # fmt: skip
REFUSED = {
    "$later": "has no value", "$later.c": "has no value", "$later.*": "has no value", "$empty": "has no rows",
    "$empty.id": "has no rows", "$ddl": "has no rows", "$n.x": "is NULL", "$obj.z": "is NULL",
    "$n.nope": 'no column "nope"; it has: id, s, neg, t, j, x, größe', "$obj.nope": 'no key "nope"; it has: k, t, z',
    "$arr.c": "neither a row set nor a JSON object", "$arr.c?": "neither a row set nor a JSON object",
    "$str.c?": "neither a row set nor a JSON object", "$nil.c": "neither a row set nor a JSON object",
    "$obj.*": "not a row set", "$arr.*?": "not a row set",
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), IN_CODE.items())
def test_writes_a_value_as_code(shared: Database, text: str, expected: str) -> None:
    assert render(shared, f"SELECT {text}, 1") == f"SELECT {expected}, 1"


@pytest.mark.parametrize(("text", "expected"), IN_RAW.items())
def test_writes_a_value_as_it_is(shared: Database, text: str, expected: str) -> None:
    assert render(shared, text, "raw") == expected


@pytest.mark.parametrize(("text", "reason"), REFUSED.items())
@pytest.mark.parametrize("mode", ["sql", "raw"])
def test_refuses_what_has_nothing_to_insert(shared: Database, text: str, reason: str, mode: str) -> None:
    message = refusal(shared, f"SELECT {text}", mode)
    assert reason in message
    assert f"reference {text}:" in message


def test_a_number_keeps_its_digits(shared: Database) -> None:
    names = '{"n": {"value": {"rows": [{"v": 1.50}, {"v": 1e2}]}, "columns": ["v"]}}'
    query = "select df_engine.render_names('SELECT $n, $n.*', 'sql', %s::jsonb, '{n}')"
    assert shared.admin(query, names) == 'SELECT 1.50, (VALUES (1.50),(100)) AS "n"("v")'


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1 -$n.neg", "1 - -5"), ("1 - $n.neg", "1 - -5"), ("-$n", "-7"), ("($n.neg)", "(-5)"), ("'-$n.neg'", "'--5'")],
)
def test_a_negative_number_makes_no_comment(shared: Database, text: str, expected: str) -> None:
    assert render(shared, text) == expected


def test_without_columns_the_keys_of_the_first_row_count(shared: Database) -> None:
    names = {"r": {"value": {"rows": [{"a": 1, "b": 2}]}, "columns": None}}
    assert render(shared, "$r, $r.b", names=names) == "1, 2"
    assert render(shared, "FROM $r.*", names=names) == 'FROM (VALUES (1,2)) AS "r"("a","b")'


def test_quotes_the_names_of_columns(shared: Database) -> None:
    names = {"r": {"value": {"rows": [{'a"b': "x"}]}, "columns": ['a"b']}}
    assert render(shared, "FROM $r.*", names=names) == """FROM (VALUES ('x'::text)) AS "r"("a""b")"""


def test_at_most_10_000_rows_become_a_relation(shared: Database) -> None:
    rows = [{"i": i} for i in range(10_001)]
    many = {"r": {"value": {"rows": rows}, "columns": ["i"]}}
    just = {"r": {"value": {"rows": rows[1:]}, "columns": ["i"]}}
    assert "exceeding the maximum" in refusal(shared, "FROM $r.*", names=many)
    assert "exceeding the maximum" in refusal(shared, "$r.*", "raw", many)
    assert render(shared, "FROM $r.*", names=just).count("),(") == 9_999


# which $ is a reference, and where

REGIONS = {
    "tab$n": "tab$n", "1$n": "1$n", "é$n": "é$n", "$1 $ $": "$1 $ $", "$n.id$n": "7$n", "$n.größe.x": "1.5.x",
    "$n.id.s": "7.s", "$n?$n.t": "7true", "($n)$n": "(7)7", "$n.": "7.",
    "'$n.s'": r"'it''s \'", "'a ''$n.s'' b'": r"'a ''it''s \'' b'", "N'$n.s'": r"N'it''s \'", "'x$n'": "'x$n'",
    "'$nope $n'": "'$nope 7'", "'$n$'": "'7$'", "'$n.x?'": "'NULL'", "'$empty.*'": "'[]'", "'$'": "'$'",
    "E'$n.s'": r"E'it''s \\'", r"e'\'$n'": r"e'\'7'", r"E'\$n'": r"E'\$n'", "date'$n'": "date'7'",
    "E'a'\n'$n.s'": "E'a'\n'it''s \\\\'", "E'a' -- $n\n '$n.s'": "E'a' -- $n\n 'it''s \\\\'",
    "E'a' /**/\n'$n.s'": "E'a' /**/\n'it''s \\'",
    "E'a'\n$n.s": "E'a'\n/**/'it''s \\'", "E'a'$n.s": "E'a'/**/'it''s \\'",
    '"$n" "a""$n"': '"$n" "a""$n"', "U&'$n'": "U&'$n'", 'U&"$n"': 'U&"$n"', "B'$n' x'$n'": "B'$n' x'$n'",
    "-- $n\n$n": "-- $n\n7", "/* $n */ $n": "/* $n */ 7", "/* /* $n */ $n */ $n": "/* /* $n */ $n */ 7",
    "/* ' */ $n '": "/* ' */ 7 '", "2*/* $n */$n": "2*/* $n */7", "/*/ $n */ $n": "/*/ $n */ 7", "/* $n": "/* $n",
    "'-- ' $n": "'-- ' 7", "1 - -$n": "1 - -7",
    "$$ $n $nope '$n.s' -- $n\n$$ $n": "$$ 7 $nope 'it''s \\' -- $n\n$$ 7",
    "$do$ it's $n.s $do$ $n": "$do$ it's it''s \\ $do$ 7", "$a$ $b$ $n $a$ $n": "$a$ $b$ 7 $a$ 7",
    "$n$ $n $n$": "$n$ 7 $n$",
    "": "", "no reference": "no reference",
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), REGIONS.items())
def test_replaces_by_lexical_region(shared: Database, text: str, expected: str) -> None:
    assert render(shared, text) == expected


@pytest.mark.parametrize("text", ["$do$ $tag.c $do$", "$do$ '$tag' $do$", "$x$ $do$ $tag.c $do$ $x$"])
def test_inserted_text_cannot_end_a_dollar_quoted_string(shared: Database, text: str) -> None:
    assert "closing tag" in refusal(shared, text)
    assert render(shared, text.replace("$do$", "$safe$")).count("$safe$") == 2


def test_inserted_text_and_the_closing_tag_cannot_make_another(shared: Database) -> None:
    names = {"half": {"value": {"k": "x$do"}, "columns": None}}
    assert "closing tag" in refusal(shared, "$do$ it's $half.k?$do$", names=names)


def test_an_unknown_name_in_code_fails_with_the_nearest_known_one(shared: Database) -> None:
    message = refusal(shared, "SELECT $laterr")
    assert "$laterr" in message
    assert "did you mean $later?" in message
    assert "$obj" in message
    assert "$nope" in refusal(shared, "SELECT $nope?", names={})


def test_a_name_that_is_only_known_has_no_value(shared: Database) -> None:
    query = "select df_engine.render_names('SELECT $a', 'sql', '{}', '{a}')"
    with pytest.raises(psycopg.Error, match="has no value"):
        shared.admin(query)


def test_whole_values(shared: Database) -> None:
    assert render(shared, " $n.s\n", "whole") == "it's \\"
    assert render(shared, "$n.x?", "whole") == "NULL"
    assert render(shared, "$n", "whole") == "7"
    assert render(shared, " aGVsbG8= ", "whole") == " aGVsbG8= "
    assert fill(shared, " {day} ", "whole") == "2026-05-01"
    for text in ("$n.*", "$n $n", "x$n", "$nope", "$", "$1"):
        assert "whole-value reference" in refusal(shared, text, "whole")
    for text in ("{day}x", "{", "{nope}", "{day}{day}", "$n{"):
        with pytest.raises(psycopg.Error, match="whole-value reference"):
            fill(shared, text, "whole")


# variables

VARIABLES = {
    "FROM {tbl}": "FROM sales.orders", "'{day}' \"{day}\" E'{day}'": "'2026-05-01' \"2026-05-01\" E'2026-05-01'",
    '{"k":"{day}"}': '{"k":"2026-05-01"}', "{{day}}": "{2026-05-01}", "{nope} { day} {day": "{nope} { day} {day",
    "{brace}": "{day}", "{ref}": "$n.id", "{sys_instance_id}[{sys_label}]": "i1[]", "{1}{}": "{1}{}",
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), VARIABLES.items())
@pytest.mark.parametrize("mode", ["sql", "raw"])
def test_fills_in_variables(shared: Database, text: str, expected: str, mode: str) -> None:
    assert fill(shared, text, mode) == expected
    assert fill(shared, f"/* c */ {text}") == f"/* c */ {expected}"


def test_variables_stay_in_comments_of_sql_only(shared: Database) -> None:
    text = "{day} -- {day}\n /* {day} /* {day} */ {day} */ '-- {day}' $$ {day} -- {day}\n$$ {day}"
    assert fill(shared, text) == (
        "2026-05-01 -- {day}\n /* {day} /* {day} */ {day} */ '-- 2026-05-01' $$ 2026-05-01 -- {day}\n$$ 2026-05-01"
    )
    assert "{" not in fill(shared, text, "raw")


def test_variables_without_a_value_and_text_without_braces_are_left_alone(shared: Database) -> None:
    assert shared.admin("select df_engine.render_vars('{a}', 'sql', null)") == "{a}"
    assert shared.admin("select df_engine.render_vars('a', 'whole', null)") == "a"
    assert shared.admin("select df_engine.render_vars(null, 'sql', '{}')") is None


def test_template_names(shared: Database) -> None:
    names = shared.admin("select df_engine.template_names('$a.b $b? $a ''$c'' $1', 'sql')")
    assert sorted(names) == ["a", "b", "c"]
    assert shared.admin("select df_engine.template_names('SELECT 1', 'sql')") is None


# one statement

SINGLE = [
    "SELECT 1", "SELECT 1;", " ;; SELECT 1 ; ; ", "SELECT ';'", "SELECT \";\"", "SELECT E'\\';'", "SELECT $a$;$a$",
    "SELECT 1; -- ; done", "/* ; */ SELECT 1 /* ; /* ; */ ; */;", "-- a\nSELECT 1", "(SELECT 1)",
    "DO $$ BEGIN x; y; END $$;",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 2 END; END",
    "CREATE OR REPLACE PROCEDURE p() begin\n/* x */ atomic insert into t values (1); end;",
    "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2);",
    "SELECT CASE WHEN a THEN b END FROM t;", "SELECT 'unterminated ; ",
]  # fmt: skip
SEVERAL = [
    "SELECT 1; SELECT 2", "SELECT 1;SELECT 2;", "SELECT ';'; SELECT 1", "SELECT 1 /* */; /* */ SELECT 2",
    "BEGIN; SELECT 1; END", "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; SELECT 1",
    "SELECT CASE WHEN a THEN b END; SELECT 1", "DO $$ x $$; SELECT 1",
]  # fmt: skip
NONE = ["", " \n", ";", ";;", "-- SELECT 1", "/* SELECT 1; */", " /* a */ ; -- b"]


@pytest.mark.parametrize("text", SINGLE)
def test_one_statement(shared: Database, text: str) -> None:
    assert shared.admin("select df_engine.single_statement_problem(%s)", text) is None


@pytest.mark.parametrize("text", SEVERAL)
def test_several_statements(shared: Database, text: str) -> None:
    assert "more than one SQL statement" in shared.admin("select df_engine.single_statement_problem(%s)", text)


@pytest.mark.parametrize("text", NONE)
def test_no_statement(shared: Database, text: str) -> None:
    assert "no SQL statement" in shared.admin("select df_engine.single_statement_problem(%s)", text)


# against the second implementation

FRAGMENTS = [
    "$n", "$n.s", "$n.neg", "$n?", "$n.x?", "$n.*", "$n.größe", "$obj.k", "$obj", "$later?", "$tag.c", "$nope", "$1",
    "$typed.d", "$typed.ids", "$typed.cs", "$typed.*", "$two.*", "$quiet.*", "$bare.*", "$",
    "$$", "$do$", "$t$", "{day}", "{ref}", "{nope}", "{", "}", "'", "''", '"', "E'", "e'", "U&'", "B'", "&", "--", "/*",
    "*/", "/", "*", "-", "\\", "\n", " ", "; ", "a", "E", "é", "€", "1", ".", "?", ",", "(", ")", "x$y",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join)
MANY = settings(
    max_examples=600, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def outcome(make: Callable[[], str]) -> str | None:
    """The text, or None when it is refused."""
    try:
        return make()
    except reference.Refused:
        return None
    except psycopg.Error as error:
        assert error.sqlstate in ("DF010", "DF013"), error
        return None


@MANY
@given(text=TEXTS)
def test_names_agree_with_the_reference(shared: Database, text: str) -> None:
    assert outcome(lambda: render(shared, text)) == outcome(lambda: reference.render_sql(text, NAMES))
    assert outcome(lambda: render(shared, text, "raw")) == outcome(lambda: reference.render_raw(text, NAMES))


@MANY
@given(text=TEXTS)
def test_variables_agree_with_the_reference(shared: Database, text: str) -> None:
    assert fill(shared, text) == reference.fill_sql(text, VARS)
    assert fill(shared, text, "raw") == reference.fill(text, VARS)


@MANY
@given(text=TEXTS)
def test_tokens_are_the_text(shared: Database, text: str) -> None:
    assert "".join(shared.admin("select df_engine.sql_tokens(%s)", text)) == text


@MANY
@given(text=TEXTS, hostile=st.text(st.sampled_from("'\\$d-/*;\n\"E x"), max_size=8))
def test_a_string_never_changes_the_structure_of_a_statement(shared: Database, text: str, hostile: str) -> None:
    template = text.replace("$n.s", "$v.c").replace("$obj.k", "$v.c")
    shapes = []
    for value in ("harmless", hostile):
        names = {"v": {"value": {"c": value}, "columns": None}}
        rendered = outcome(partial(render, shared, template, names=names))
        if rendered is None:
            return
        shapes.append(reference.shape(rendered))
    assert shapes[0] == shapes[1]
