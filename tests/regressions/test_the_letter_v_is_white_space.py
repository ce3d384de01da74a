"""Before PostgreSQL 18 the escape for a vertical tab in a literal is the letter v: it was trimmed from conditions."""

import re

import pytest

from generator.render import artifacts
from tests.support import Pump


@pytest.mark.parametrize("condition", ["select 'v'", "select 'vv '", "values ('v')", "values (true)"])
def test_it_is_a_letter(pump: Pump, condition: str) -> None:
    run = pump.run(f"df.if({pump.db.sql('select quote_literal(%s)', condition)}, 'select 1', 'select 2')")
    assert run.value() == 1


def test_a_vertical_tab_is_still_white_space(pump: Pump) -> None:
    assert pump.run("df.if('select chr(11)', 'select 1', 'select 2')").value() == 2


def test_no_literal_of_the_installer_has_the_escape() -> None:
    assert re.findall(r"E'[^'\n]*\\v[^'\n]*'", artifacts()["dist/pg_durable.sql"]) == []
