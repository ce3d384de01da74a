"""Where references are replaced in HTTP nodes, and how."""

import json
from typing import Any

import psycopg
import pytest

from tests.support import Database

VARS = {"v": "V$n", "q": 'a"b', "b64": "YQ==", "sys_label": ""}
NAMES = {
    "n": {"value": {"rows": [{"id": 7, "pdf": "YWI="}], "row_count": 1}, "columns": ["id", "pdf"]},
    "o": {"value": {"k": "x"}, "columns": None},
    "later": None,
}


def render(shared: Database, config: dict[str, Any], node_type: str = "HTTP") -> Any:
    """A config after substitution."""
    return shared.admin(
        "select df_engine.render_http(%s, %s, %s, %s, %s)",
        node_type, json.dumps(config), json.dumps(VARS), json.dumps(NAMES), list(NAMES),
    )  # fmt: skip


def names(shared: Database, config: dict[str, Any], node_type: str = "HTTP") -> set[str]:
    found = shared.admin("select df_engine.http_names(%s, %s, %s)", node_type, json.dumps(config), json.dumps(VARS))
    return set(found or [])


def test_url_body_and_header_values_are_replaced_as_text(shared: Database) -> None:
    config = {
        "url": "http://h/{v}/$n.id??a=$n.id&$top=1",
        "method": "POST",
        "body": '{"q": "{q}", "o": $o, "u": $unknown}',
        "headers": {"X-{v}": "$n.id", "$n": "{q}"},
        "timeout_seconds": 5,
    }
    assert render(shared, config) == {
        "url": "http://h/V7/7?a=7&$top=1",
        "method": "POST",
        "body": '{"q": "a"b", "o": {"k": "x"}, "u": $unknown}',
        "headers": {"X-{v}": "7", "$n": 'a"b'},
        "timeout_seconds": 5,
    }
    assert {"n", "o"} <= names(shared, config)


def test_the_method_is_not_replaced(shared: Database) -> None:
    assert render(shared, {"url": "u", "method": "{v}"})["method"] == "{v}"


def test_parts(shared: Database) -> None:
    part = {"name": "a-$n.id", "filename": "{q}.pdf", "content_type": "x/$n.id", "data_b64": " $n.pdf "}
    more = {"name": "b", "data_b64": "{b64}"}
    rendered = render(shared, {"url": "u", "parts": [part, more, {"name": "c", "data_b64": "AAAA"}]}, "HTTP_MULTIPART")
    first, second, third = rendered["parts"]
    assert first == {"name": "a-7", "filename": 'a"b.pdf', "content_type": "x/$n.id", "data_b64": "YWI="}
    assert (second["data_b64"], third["data_b64"]) == ("YQ==", "AAAA")


@pytest.mark.parametrize("data", ["x$n.pdf", "$n.pdf$n.pdf", "{b64}{b64}", "$n.*", "{nope}", "a{"])
def test_content_of_a_part_is_one_reference_or_none(shared: Database, data: str) -> None:
    with pytest.raises(psycopg.Error, match="whole-value reference"):
        render(shared, {"url": "u", "parts": [{"name": "a", "data_b64": data}]}, "HTTP_MULTIPART")


def test_a_name_without_value_fails(shared: Database) -> None:
    with pytest.raises(psycopg.Error, match="has no value"):
        render(shared, {"url": "http://h/$later"})
    assert render(shared, {"url": "http://h/$later?"})["url"] == "http://h/NULL"


@pytest.mark.parametrize("config", [{}, {"url": 1, "headers": [], "body": {}}, {"url": None, "headers": {"a": 1}}])
def test_what_is_no_text_is_left_for_the_checks(shared: Database, config: dict[str, Any]) -> None:
    rendered = render(shared, config)
    assert {key: rendered[key] for key in config} == config
    parts = render(shared, {"parts": [1, {"name": 2}]}, "HTTP_MULTIPART")["parts"]
    assert parts[0] == 1 and parts[1]["name"] == 2
    assert names(shared, config) == set()
