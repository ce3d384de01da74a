"""plpgsql_check over every function in PL/pgSQL: no error, and each warning has a reason to stay."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from generator.render import artifacts
from tests.cluster import Cluster
from tests.support import Database, Server, install

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
EXTENSION = Path("/usr/share/postgresql/15/extension/plpgsql_check.control")

OF_THE_DRIVER = "the submitter's own statement, run with the submitter's rights"
OF_DBLINK = "the schema of dblink is quoted where it is read, and values are parameters"
NO_END = "ends by RETURN or RAISE inside the loop or by a function that raises"

# (function, beginning of the message) -> why it stays.
EXCEPTED = {
    ("run_statement", "cannot determinate a result of dynamic SQL"): OF_THE_DRIVER,
    ("work", "text type variable is not sanitized"): OF_THE_DRIVER,
    ("run_statement", "text type variable is not sanitized"): OF_THE_DRIVER,
    ("run_block", "cannot determinate a result of dynamic SQL"): OF_THE_DRIVER,
    ("run_block", "the expression is not SQL injection safe"): OF_THE_DRIVER,
    ("result_types", "text type variable is not sanitized"): OF_THE_DRIVER,
    ("result_types", "the expression is not SQL injection safe"): OF_THE_DRIVER,
    (
        "evaluate_expression",
        "text type variable is not sanitized",
    ): "the caller's own expression and rights",
    ("open_link", "text type variable is not sanitized"): OF_DBLINK,
    ("start_on", "text type variable is not sanitized"): OF_DBLINK,
    (
        "renew_grants",
        "text type variable is not sanitized",
    ): "built with %I and regprocedure from the catalog",
    ("await_end", "control reached end of function"): NO_END,
    ("flow_call", "control reached end of function"): NO_END,
    ("flow_emit", "control reached end of function"): NO_END,
    ("sql_tokens", "control reached end of function"): NO_END,
    ("template_names", 'unused parameter "p_mode"'): "called like the other functions of substitution",
    ("advance", "control reached end of function"): NO_END,
    ("ends_run", "control reached end of function"): NO_END,
    ("find_position", "composite OUT variable"): "one of five that are answered",
    ("resume_thread", "composite OUT variable"): "one of three that are answered",
    ("enter", "composite OUT variable"): "one of three that are answered",
    ("enter_map", "composite OUT variable"): "one of three that are answered",
    ("enter_undo", "composite OUT variable"): "one of two that are answered",
    ("own_step", "composite OUT variable"): "one of two that are answered",
    ("open_construct", "composite OUT variable"): "one of two that are answered",
    ("open_map", "composite OUT variable"): "one of three that are answered",
    ("open_timeout", "composite OUT variable"): "one of two that are answered",
    ("next_in_test", "composite OUT variable"): "two of three that are answered",
    ("run_in_test", "composite OUT variable"): "one of several that are answered",
    ("run_in_test", "text type variable is not sanitized"): OF_THE_DRIVER,
    ("open_wait_for", "composite OUT variable"): "one of two that are answered",
}

# (function, beginning of the error) -> why it is none.
TRIED = "a COMMIT that PostgreSQL refuses where df.work must not be called: that is how it is found out"
NO_ERRORS = {
    ("work", "cannot commit while a subtransaction is active"): TRIED,
    ("said_of_commit", "invalid transaction termination"): TRIED,
}

# A declaration with a literal: '{}' is read as a text, and has the type of the variable.
LITERAL = re.compile(r"^cast \"text\" value to \"\"?[a-z ]+\"?\[\]\" type$")
INITIAL = re.compile(r":= '\{[^']*\}'")

FINDINGS = """
select p.proname, c.level, c.message, coalesce(c.detail, ''), p.prosrc, coalesce(c.lineno, 0)
from pg_proc p
join pg_language l on l.oid = p.prolang
cross join lateral lint.plpgsql_check_function_tb(
  p.oid, coalesce((select t.tgrelid from pg_trigger t where t.tgfoid = p.oid limit 1), 0::oid), fatal_errors => false,
  other_warnings => true, extra_warnings => true, security_warnings => true, compatibility_warnings => true,
  performance_warnings => false) c
where l.lanname = 'plpgsql' and p.pronamespace in ('df'::regnamespace, 'df_engine'::regnamespace)"""


@pytest.fixture(scope="module")
def checked() -> Iterator[Database]:
    """An installation beside plpgsql_check."""
    if not EXTENSION.exists():
        pytest.skip("plpgsql_check is not installed (apt-get install postgresql-15-plpgsql-check)")
    with Cluster(PROGRAMS) as cluster:
        db = Database(Server(cluster.dsn()), "postgres")
        install(db.dsn(), artifacts()["dist/pg_durable.sql"])
        db.admin("create schema lint; create extension plpgsql_check schema lint")
        yield db
        db.connections[""].close()


def literals(source: str) -> int:
    """How many variables are declared with a literal array."""
    return len(INITIAL.findall(source))


def test_no_errors_and_no_warning_without_a_reason(checked: Database) -> None:
    declared: defaultdict[str, int] = defaultdict(int)
    found, used = [], set()
    for name, level, message, detail, source, _ in checked.rows(FINDINGS, user=None):
        reasons = NO_ERRORS if level == "error" else EXCEPTED
        key = next((key for key in reasons if key[0] == name and message.startswith(key[1])), None)
        if key:
            used.add(key)
        elif LITERAL.match(detail) and declared[name] < literals(source):
            declared[name] += 1
        else:
            found.append((name, level, message, detail))
    assert found == [], "\n".join(map(str, found))
    assert used == {*EXCEPTED, *NO_ERRORS}, "exceptions that nothing needs"


def test_a_fault_would_be_found(checked: Database) -> None:
    checked.admin("create function df.faulty() returns int language plpgsql as 'begin return missing; end'")
    levels = {row[1] for row in checked.rows(FINDINGS, user=None) if row[0] == "faulty"}
    checked.admin("drop function df.faulty()")
    assert levels == {"error"}
