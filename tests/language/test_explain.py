"""df.explain: how graphs and runs are drawn, and how its input is read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.state import STANDS, WORKERS_SEEN_AGO
from tests.support import Database, Pump, Run

SQL = {"node_type": "SQL", "query": "SELECT 1"}


def explain(db: Database, text: str, user: str | None = None) -> str:
    """What df.explain draws, without the padding."""
    drawn: str = db.sql("select df.explain(%s)", text, user=user)
    return "\n".join(line.rstrip() for line in drawn.split("\n"))


def draw(db: Database, **node: Any) -> str:
    """A dry run of an envelope."""
    return explain(db, json.dumps(node))


def sql(text: str) -> dict[str, Any]:
    return {"node_type": "SQL", "query": text}


def worker_alive(db: Database) -> None:
    db.sql("select df_engine.register_worker()", user="durable_worker")


FLOW = """
'SELECT id FROM invoice WHERE due < now()' |=> 'inv'
~> ('SELECT $inv.id? IS NOT NULL' ?> (df.wait_for_signal('paid', 60) | (df.sleep(30) ~> 'CALL send_reminder($inv.id)'))
    !> 'SELECT 0')
~> 'UPDATE invoice SET state = ''closed'' WHERE id = $inv.id'"""

DUNNING = """\
Instance: {} (dunning)
Status:   ⏳ running

SQL: SELECT id FROM invoice WHERE due < now() |=> 'inv' ✓
→ IF ✓
    ? condition:
      └─SQL: SELECT $inv.id? IS NOT NULL ✓
    ✓ then:
      └─RACE ✓
          ║ branch 1:
            ├─SIGNAL 'paid' (60s) ✓
          ║ branch 2:
            └─SLEEP 30s ⊘
            → SQL: CALL send_reminder($inv.id) ⊘
    ✗ else:
      └─SQL: SELECT 0 ⊘
→ SQL: UPDATE invoice SET state = 'closed' WHERE id = ... ⏳"""


@contextmanager
def in_a_session(db: Database, run: Run, query: str) -> Iterator[None]:
    """A session of the submitter is in a step, as far as others can see."""
    node = run.node(query)["id"]
    with db.connect("app", application_name=f"pg_durable:{run.id}:{node}") as conn:
        conn.execute("begin")
        conn.execute("select pg_current_xact_id()")
        yield


@contextmanager
def dunning(db: Database) -> Iterator[Run]:
    """The example of the contract: the signal has won the race, the last step runs."""
    db.sql("create table invoice as select 1 as id, now() - interval '1 day' as due, 'open' as state")
    pump = Pump(db)
    run = pump.start(FLOW, "dunning")
    pump.work()
    db.sql("select df.signal(%s, 'paid')", run.id)
    pump.tick()
    with in_a_session(db, run, "UPDATE invoice"):
        yield run
    pump.close()


def test_a_run_is_drawn_as_in_the_contract(db: Database) -> None:
    with dunning(db) as run:
        assert explain(db, run.id) == DUNNING.format(run.id)


def test_all_lines_are_padded_to_the_longest_and_four(db: Database) -> None:
    with dunning(db) as run:
        drawn = db.admin("select df.explain(%s)", run.id).split("\n")
    assert {len(line) for line in drawn} == {max(len(line) for line in DUNNING.split("\n")) + 4}


def stands(
    db: Database, status: str, error: str | None = None, label: str | None = None, reason: str | None = None
) -> str:
    """A run made to stand so."""
    run = str(db.sql("select df.start('SELECT 1')"))
    db.admin(STANDS, status, error, label, reason, run)
    return run


@pytest.mark.parametrize(
    ("columns", "head"),
    [
        ({"status": "pending"}, ["Instance: {}", "Status:   ○ pending"]),
        ({"status": "failed", "error": "no"}, ["Instance: {}", "Status:   ✗ failed", "Output:   no"]),
        ({"status": "cancelled", "error": "canceled: why\nnot", "label": "x"},
         ["Instance: {} (x)", "Status:   ✗ cancelled", "Output:   canceled: why not"]),
        ({"status": "cancelled", "error": "canceled: " + "x" * 51},
         ["Instance: {}", "Status:   ✗ cancelled", "Output:   canceled: " + "x" * 47 + "..."]),
        ({"status": "failed", "error": "JOIN branch 2 failed: SQL execution failed: " + "x" * 61},
         ["Instance: {}", "Status:   ✗ failed", "Output:   " + "x" * 61]),
        ({"status": "running", "reason": "no worker can log in"},
         ["Instance: {}", "Status:   ⏳ running", "Waiting:  no worker can log in"]),
    ],
)  # fmt: skip
def test_the_head_says_how_the_run_stands(db: Database, columns: dict[str, Any], head: list[str]) -> None:
    worker_alive(db)
    run = stands(db, **columns)
    assert explain(db, run).split("\n")[:-2] == [head[0].format(run), *head[1:]]


def test_the_output_of_a_completed_run_is_its_result(db: Database) -> None:
    run = Pump(db).run("'SELECT 1 AS n'")
    assert explain(db, run.id).split("\n")[1:3] == [
        "Status:   ✓ completed",
        'Output:   {"rows": [{"n": 1}], "row_count": 1}',
    ]


def test_a_run_waits_while_no_worker_has_been_seen(db: Database) -> None:
    run = str(db.sql("select df.start('SELECT 1')"))
    assert "\nWaiting:  no worker is running\n" in explain(db, run)
    worker_alive(db)
    db.admin(WORKERS_SEEN_AGO, "16 s")
    assert "\nWaiting:  no worker has been seen for 15 s\n" in explain(db, run)
    db.admin(WORKERS_SEEN_AGO, "1 s")
    assert "Waiting" not in explain(db, run)


def test_a_run_that_has_begun_in_a_session_is_running(db: Database) -> None:
    worker_alive(db)
    run = Run(db, str(db.sql("select df.start('SELECT 1')")))
    with in_a_session(db, run, "SELECT 1"):
        assert explain(db, run.id) == f"Instance: {run.id}\nStatus:   ⏳ running\n\nSQL: SELECT 1 ⏳"


def test_an_unknown_run_is_not_found(db: Database) -> None:
    assert db.admin("select df.explain(' 0123abcd ')") == "Instance '0123abcd' not found"


def test_null_explains_nothing(db: Database) -> None:
    assert db.admin("select df.explain(null)") is None


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (sql("SELECT 1"), "SQL: SELECT 1"),
        (sql("é" * 50), "SQL: " + "é" * 50),
        (sql("é" * 51), "SQL: " + "é" * 47 + "..."),
        (sql("SELECT 1,\r\n 2,\n3"), "SQL: SELECT 1,  2, 3"),
        (sql("SELECT 1") | {"result_name": "n"}, "SQL: SELECT 1 |=> 'n'"),
        ({"node_type": "SLEEP", "query": "0.25"}, "SLEEP 0.25s"),
        ({"node_type": "WAIT_SCHEDULE", "query": '{"cron_expr":"0 8 * * 1-5"}'}, "WAIT '0 8 * * 1-5'"),
        ({"node_type": "WAIT_SCHEDULE", "query": '{"cron_expr":"@daily","timezone":"Europe/Berlin"}'},
         "WAIT '@daily' Europe/Berlin"),
        ({"node_type": "SIGNAL", "query": '{"signal_name":"go","timeout_seconds":null}'}, "SIGNAL 'go'"),
        ({"node_type": "SIGNAL", "query": '{"signal_name":"go","timeout_seconds":1.5}'}, "SIGNAL 'go' (1.5s)"),
        ({"node_type": "BREAK", "query": '{"break_value":null}'}, "BREAK"),
        ({"node_type": "BREAK", "query": '{"break_value":"%s"}' % ("v" * 20)}, "BREAK '" + "v" * 20 + "'"),
        ({"node_type": "BREAK", "query": '{"break_value":"%s"}' % ("v" * 21)}, "BREAK '" + "v" * 17 + "...'"),
        ({"node_type": "HTTP", "query": '{"url":"https://a.example/%s","method":"POST"}' % ("p" * 22)},
         "HTTP POST https://a.example/" + "p" * 22),
        ({"node_type": "HTTP", "query": '{"url":"https://a.example/%s","method":"GET"}' % ("p" * 23)},
         "HTTP GET https://a.example/" + "p" * 19 + "..."),
        ({"node_type": "HTTP_MULTIPART", "query": '{"url":"https://a.example","method":"PUT"}', "result_name": "r"},
         "HTTP_MULTIPART PUT https://a.example |=> 'r'"),
    ],
)  # fmt: skip
def test_leaves(db: Database, node: dict[str, Any], text: str) -> None:
    assert draw(db, **node) == text


def test_sequences_are_flattened_and_have_no_name(db: Database) -> None:
    def then(left: Any, right: Any) -> dict[str, Any]:
        return {"node_type": "THEN", "left_node": left, "right_node": right, "result_name": "seq"}

    graph = then(then(sql("a"), sql("b")), then(sql("c"), sql("d") | {"result_name": "last"}))
    assert draw(db, **graph) == "SQL: a\n→ SQL: b\n→ SQL: c\n→ SQL: d |=> 'last'"


def test_waits_for_a_condition(db: Database) -> None:
    wait = {"node_type": "WAIT_FOR", "condition_node": sql("a"), "result_name": "w"}
    assert draw(db, **wait, query='{"every":60}') == "WAIT_FOR (every 60s) |=> 'w'\n    ? until:\n      └─SQL: a"
    assert draw(db, **wait, query='{"every":0.5,"key":"%s","timeout":9}' % ("k" * 41)).split("\n")[0] == (
        f"WAIT_FOR (every 0.5s, key '{'k' * 37}...', 9s at most) |=> 'w'"
    )


def test_loops(db: Database) -> None:
    forever = {"node_type": "LOOP", "left_node": sql("a"), "result_name": "n"}
    assert draw(db, **forever) == "LOOP (infinite) |=> 'n'\n    ↻ body:\n      └─SQL: a"
    assert draw(db, node_type="LOOP", left_node=sql("a"), condition_node=sql("b")) == (
        "LOOP (while)\n    ↻ body:\n      └─SQL: a\n    ? while:\n      └─SQL: b"
    )


def test_if_rows_has_no_condition(db: Database) -> None:
    config = '{"condition_type":"result_has_rows","result_name":"n"}'
    assert draw(db, node_type="IF", left_node=sql("a"), right_node=sql("b"), query=config, result_name="n") == (
        "IF |=> 'n'\n    ✓ then:\n      └─SQL: a\n    ✗ else:\n      └─SQL: b"
    )


def test_the_indentation_below_a_branch_that_is_not_the_last_has_a_bar(db: Database) -> None:
    race = {"node_type": "RACE", "left_node": sql("a"), "right_node": sql("b"), "result_name": "hidden"}
    graph = {"node_type": "JOIN", "left_node": race, "right_node": sql("c"), "extra_nodes": [race], "result_name": "n"}
    assert draw(db, **graph).split("\n") == [
        "JOIN (3) |=> 'n'",
        "    ║ branch 1:",
        "      ├─RACE",
        "      │   ║ branch 1:",
        "      │     ├─SQL: a",
        "      │   ║ branch 2:",
        "      │     └─SQL: b",
        "    ║ branch 2:",
        "      ├─SQL: c",
        "    ║ branch 3:",
        "      └─RACE",
        "          ║ branch 1:",
        "            ├─SQL: a",
        "          ║ branch 2:",
        "            └─SQL: b",
    ]


def test_a_sequence_in_a_branch_stays_at_one_indentation(db: Database) -> None:
    loop = {"node_type": "LOOP", "left_node": sql("b")}
    branch = {"node_type": "THEN", "left_node": sql("a"), "right_node": loop}
    assert draw(db, node_type="RACE", left_node=branch, right_node=sql("c")).split("\n") == [
        "RACE",
        "    ║ branch 1:",
        "      ├─SQL: a",
        "      → LOOP (infinite)",
        "      │   ↻ body:",
        "      │     └─SQL: b",
        "    ║ branch 2:",
        "      └─SQL: c",
    ]


@pytest.mark.parametrize(
    "word",
    ["SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "VALUES", "CREATE", "ALTER", "DROP", "CALL", "DO",
     "TRUNCATE", "GRANT", "REVOKE", "EXPLAIN", "select"],
)  # fmt: skip
def test_statements_are_one_node(db: Database, word: str) -> None:
    assert explain(db, f"\n {word} & | x ") == f"SQL: {word} & | x"


@pytest.mark.parametrize(
    "text", ["hello", "selection", "a & b", '{"a":1}', '{"node_type":7}', "[]", "12345", "", "abcdefgh"]
)
def test_other_text_is_told_what_is_accepted(db: Database, text: str) -> None:
    assert explain(db, text).startswith("Nothing to explain.")


def test_an_expression_is_evaluated_with_the_rights_and_the_path_of_the_caller(db: Database) -> None:
    with db.connect() as conn:
        conn.execute("create schema mine")
        conn.execute("create function mine.graph() returns text language sql as "
                     "$$ select 'SELECT ' || current_setting('search_path') $$")  # fmt: skip
        conn.execute("set search_path = mine, df")
        drawn = conn.execute("select df.explain('graph() -- df.;\n;')").fetchone()
        assert drawn and drawn[0].strip() == "SQL: SELECT mine, df"
        path = conn.execute("show search_path").fetchone()
        assert path == ("mine, df",)


def test_an_error_in_an_expression_is_raised(db: Database) -> None:
    with pytest.raises(psycopg.errors.UndefinedFunction):
        explain(db, "df.no_such_builder('SELECT 1')")
    with pytest.raises(psycopg.errors.DivisionByZero):
        explain(db, "df.sleep(1/0)")


def test_an_expression_may_return_what_is_no_envelope(db: Database) -> None:
    assert explain(db, "'df.'::text") == "SQL: df."
    assert explain(db, "nullif('df.', 'df.')") == "The expression is NULL: there is no graph to explain."


@pytest.mark.parametrize(
    ("node", "start", "contains"),
    [
        ({"node_type": "NOPE"}, "Invalid durable function graph: root: ", "Unknown node_type 'NOPE'"),
        ({"node_type": "THEN", "left_node": 5, "right_node": SQL}, "Invalid durable function graph: root", "Malformed"),
        ({"node_type": "THEN", "left_node": SQL, "right_node": {"node_type": "NOPE"}},
         "Invalid durable function graph: root.right: ", "Unknown node_type 'NOPE'"),
        ({"node_type": "RACE", "left_node": SQL, "right_node": SQL | {"condition_node": SQL}},
         "Invalid durable function graph: root.right: ", "condition_node is not valid for SQL nodes"),
    ],
)  # fmt: skip
def test_an_invalid_graph_is_described(db: Database, node: dict[str, Any], start: str, contains: str) -> None:
    drawn = draw(db, **node)
    assert drawn.startswith(start)
    assert contains in drawn


def nested(depth: int) -> dict[str, Any]:
    node: dict[str, Any] = sql("leaf")
    for _ in range(depth):
        node = {"node_type": "LOOP", "left_node": node}
    return node


def test_the_deepest_graph_is_drawn_and_a_deeper_one_refused(db: Database) -> None:
    assert draw(db, **nested(256)).split("\n")[-1] == " " * (6 * 256) + "└─SQL: leaf"
    assert "maximum nesting depth of 256" in draw(db, **nested(257))


def test_the_largest_run_is_drawn(db: Database) -> None:
    graph = {"node_type": "JOIN", "left_node": SQL, "right_node": SQL, "extra_nodes": [SQL] * 9_997}
    run = db.sql("select df.start(%s)", json.dumps(graph))
    lines = explain(db, run).split("\n")
    assert "JOIN (9999) ○" in lines
    assert lines[-1] == "      └─SQL: SELECT 1 ○"
    assert len([line for line in lines if "SQL" in line]) == 9_999


def test_flow_text_that_sql_cannot_read_is_explained(db: Database) -> None:
    text = db.sql("select df.explain($f$ 'select 1' |=> n ~> sleep(5) $f$)")
    assert [line.rstrip() for line in text.splitlines()] == ["SQL: select 1 |=> 'n'", "→ SLEEP 5s"]
