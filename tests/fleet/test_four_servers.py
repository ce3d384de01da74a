"""Four servers, one of them stopped for a while: its runs wait, others do not notice, nothing is lost or doubled."""

import os

import pytest

from tests.fleet.proof import CELLS, judge, outage, site

STARTS = int(os.environ.get("PG_DURABLE_FLEET_STARTS", "240"))


@pytest.mark.slow
def test_one_of_four_servers_is_stopped_for_a_while() -> None:
    with site(*CELLS) as made:
        outage(made, STARTS, 0)
        judge(made, STARTS)
