"""Whatever is killed: every run ends, every effect is there once, and nothing is left over."""

import pytest

from tests.crash.chaos import Chaos


@pytest.mark.parametrize("policy", ["strict", "relaxed"])
def test_nothing_is_lost_or_done_twice(policy: str) -> None:
    with Chaos(seed=4, standby=True) as chaos:
        chaos.db.admin("select df.set_setting('commit_policy', %s)", policy)
        for harm in (chaos.kill_worker, chaos.pause_worker, chaos.cut_sessions, chaos.cut_supervisor):
            chaos.start(20)
            chaos.pause_runs()
            harm()
            chaos.cancel_runs()
            chaos.start(20)
            chaos.pause_runs()
            chaos.resume_runs()
            chaos.crash_server()
        chaos.start(20)
        chaos.fail_over()
        chaos.settle()
