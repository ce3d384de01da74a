"""`make mutants`: takes away one lock, one order or one check of the engine at a time, and shows which test notices.

Each mutant is a copy of the project with one text of a template replaced; the tests named beside it must fail there.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("CHANGELOG.md", "pyproject.toml", "generator", "templates", "worker", "tests", "docs", "dist", "examples")
TRIES = 3  # what shows only when two sessions meet may need more than one


@dataclass(frozen=True)
class Mutant:
    """One text of a template, what takes its place, and the tests that must notice."""

    what: str
    template: str
    text: str
    instead: str
    tests: str


STORMS = "tests/crash/test_storms.py"
MEETINGS = "tests/crash/test_interleavings.py"
BESIDE = f"{STORMS}::test_all_that_runs_side_by_side_leaves_its_effects_once"
CANCELS = f"{STORMS}::test_steps_that_meet_a_cancel_are_done_whole_or_not_at_all"

MUTANTS = (
    Mutant("a step is held without its lock", "140_claim", "for update skip locked) as held", ") as held", BESIDE),
    Mutant("a step is claimed without its lock", "140_claim", "order by r.id limit 1 for update skip locked",
           "order by r.id limit 1", BESIDE),
    Mutant("a session goes on with a run that another has taken over", "140_claim", " and r.xmin = p_version", "",
           f"{MEETINGS}::test_a_session_does_not_go_on_with_a_run_that_another_has_taken_over"),
    Mutant("who takes a run over leaves its row as it was", "140_claim", "if v_node.id <> v_begins then",
           "if false then", f"{MEETINGS}::test_a_session_does_not_go_on_with_a_run_that_another_has_taken_over"),
    Mutant("who takes a run over begins it again", "140_claim", "or v_node.status = 'completed' then", "then",
           f"{MEETINGS}::test_a_session_does_not_go_on_with_a_run_that_another_has_taken_over"),
    Mutant("what was seen of a step that was lost is held against the run, wherever it is", "151_supervision",
           "(df_engine.thread_node(n, i.id || '::' || i._generation)).id = p_node", "true",
           "tests/crash/test_poison.py"),
    Mutant("the end of a branch of a wide JOIN is counted in its own row only", "121_constructs",
           "  if v_stripe is not null then", "  if false then", "tests/engine/test_large.py"),
    Mutant("a name is bound only at the end of a run", "142_finish", "  if p_named then",
           "  if p_named and p_next is null then", "tests/engine/test_names.py"),
    Mutant("steps that share a transaction are kept although their run is over", "144_work_in_groups",
           "      rollback;\n      v_short", "      commit;\n      v_short",
           "tests/engine/test_relaxed.py::test_a_cancel_takes_all_that_has_not_been_committed"),
    Mutant("a step moves on without holding its run", "142_finish",
           "  for key share;\n  if v_stamp", "  ;\n  if v_stamp",
           f"{MEETINGS}::test_no_step_commits_while_a_cancel_is_undecided"),
    Mutant("a step moves a run on that has ended", "142_finish",
           "i._submitter = v_role and i._state in ('pending', 'running')", "i._submitter = v_role", CANCELS),
    Mutant("a cancel does not wait for a step that commits", "161_cancel_signal",
           "where i.id = cancel.instance_id for update;", "where i.id = cancel.instance_id;", CANCELS),
    Mutant("a cancel waits for a step that runs", "120_transitions", "for update skip locked) d\n  where r.lane",
           "for update) d\n  where r.lane", "tests/worker/test_steps.py"),
    Mutant("a step commits without holding its race", "124_advance",
           "and n.id = v_scope.owner for no key update;", "and n.id = v_scope.owner;",
           f"{MEETINGS}::test_no_step_of_a_branch_commits_while_its_race_is_undecided"),
    Mutant("a step commits although its race is lost", "124_advance", "if df_engine.is_lost(p_instance, v_next) then",
           "if false then", f"{MEETINGS}::test_no_step_of_a_branch_commits_while_its_race_is_undecided"),
    Mutant("a race opens again while its loser runs", "123_enter",
           "perform df_engine.await_loser(p_node.instance_id, v_tops);", "null;",
           f"{MEETINGS}::test_a_loser_does_not_count_in_the_next_iteration"),
    Mutant("a wait opens while a signal is delivered", "130_waiting",
           "perform from df.instances i where i.id = p_node.instance_id for no key update;", "",
           f"{MEETINGS}::test_a_signal_is_not_kept_while_a_wait_for_it_opens"),
    Mutant("a signal overtakes an older one", "132_due", "and e.signal_id < s.signal_id)", "and false)",
           f"{MEETINGS}::test_a_signal_waits_for_an_older_one"),
    Mutant("a timer waits for whoever holds its run", "132_due",
           "where i.id = p_instance for no key update skip locked;", "where i.id = p_instance for no key update;",
           "tests/security/test_open_transactions.py"),
    Mutant("a run begins whoever it says it is", "140_claim",
           "case when not v_ready.picked then", "case when false then",
           "tests/engine/test_control.py::test_who_may_not_submit_any_more_is_found_at_pick_up"),
    Mutant("a graph is laid out for a run that has one", "110_start",
           "    and not exists (select from df.nodes n where n.instance_id = i.id);", ";", "tests/security"),
    Mutant("the driver's functions take any key", "140_claim", "  if p_key is distinct from",
           "  if p_key is null and p_key <>",
           "tests/security/test_other_roles.py"),
)  # fmt: skip


def mutation(mutant: Mutant, project: Path) -> str:
    """The template with the mutant's text replaced."""
    source = (project / "templates" / f"{mutant.template}.sql.j2").read_text()
    if source.count(mutant.text) != 1:
        raise SystemExit(f"{mutant.what}: its text is not in {mutant.template} exactly once")
    return source.replace(mutant.text, mutant.instead)


@contextmanager
def mutated(mutant: Mutant) -> Iterator[Path]:
    """A copy of the project with the mutant's template."""
    with tempfile.TemporaryDirectory(prefix="mutant-", dir="/tmp") as name:
        copy = Path(name)
        copy.chmod(0o755)
        for item in COPIED:
            source = ROOT / item
            if source.is_dir():
                shutil.copytree(source, copy / item, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy(source, copy / item)
        (copy / "templates" / f"{mutant.template}.sql.j2").write_text(mutation(mutant, copy))
        yield copy


def noticed(copy: Path, tests: str) -> str:
    """The first test that fails, or nothing."""
    for _ in range(TRIES):
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", *tests.split()]
        run = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        if run.returncode == 1 and failed:
            return failed[0].partition(" ")[2].partition(" - ")[0]
        if run.returncode not in (0, 1):
            raise SystemExit(f"pytest could not run {tests}:\n{run.stdout}{run.stderr}")
    return ""


def main() -> int:
    """Tries the mutants whose description contains one of the words, by default all of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=main.__doc__)
    parser.add_argument("words", nargs="*")
    words = parser.parse_args().words
    survivors = 0
    for mutant in MUTANTS:
        if not words or any(word in mutant.what for word in words):
            with mutated(mutant) as copy:
                test = noticed(copy, mutant.tests)
            survivors += not test
            print(f"{'noticed ' if test else 'SURVIVED'}  {mutant.what}: {test or mutant.tests}", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
