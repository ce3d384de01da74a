"""`make mutants`: takes away one lock, one order or one check of the engine at a time, and shows which test notices.

Each mutant is a copy of the project with one text of a template replaced, near the comment that marks its place; the
tests named beside it must fail there.
"""

import argparse
import re
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
    """Of the lines behind a template's comment `mutant: <what>` one text, what takes its place, and the tests that must
    notice."""

    what: str
    text: str
    instead: str
    tests: str


STORMS = "tests/crash/test_storms.py"
MEETINGS = "tests/crash/test_interleavings.py"
ROLES = "tests/security/test_other_roles.py"
BESIDE = f"{STORMS}::test_all_that_runs_side_by_side_leaves_its_effects_once"
CANCELS = f"{STORMS}::test_steps_that_meet_a_cancel_are_done_whole_or_not_at_all"
TAKEN_OVER = f"{MEETINGS}::test_a_session_does_not_go_on_with_a_run_that_another_has_taken_over"
UNDECIDED_RACE = f"{MEETINGS}::test_no_step_of_a_branch_commits_while_its_race_is_undecided"
UNDECIDED_CANCEL = f"{MEETINGS}::test_no_step_commits_while_a_cancel_is_undecided"
SECRETS = "tests/security/test_secrets.py"
PROGRESS = "tests/engine/test_progress.py"
BLOCKS = "tests/language/test_block.py"
CALLED = "tests/engine/test_call.py"
COMPILED = "tests/language/test_start.py::test_a_graph_is_compiled_once_for_each_role"

PAUSES = "tests/engine/test_pause.py"
RESUMES = "tests/engine/test_resume.py"
ROLE_PAUSES = "tests/engine/test_role_pauses.py"
SCHEDULES = "tests/engine/test_schedules.py"
LIMITS = "tests/engine/test_limits.py"
RATES = "tests/engine/test_rates.py"

PICTURES = "tests/engine/test_pictures.py"

FLEETS = "tests/fleet/test_cells.py"

MUTANTS = (
    # Fleets
    Mutant("a key is started again where its bucket has moved to", "or fleet._ask", "or false and fleet._ask",
           f"{FLEETS}::test_a_key_that_a_kept_run_has_stays_in_its_cell"),
    Mutant("a bucket moves while a start is under way", "access exclusive", "access share",
           f"{FLEETS}::test_buckets_move_only_when_no_start_is_under_way"),
    Mutant("a bucket takes a new place at each move", "p.cell = p_cell or ", "",
           f"{FLEETS}::test_a_bucket_comes_back_to_its_old_place"),
    Mutant("of one moment a page of a fleet leaves runs out", "then '' else", "then 'g' else",
           "tests/fleet/test_lists.py::test_runs_of_one_moment_are_all_in_the_pages"),
    # Pictures
    Mutant("a text of a run becomes markup in a picture", "'<', '&lt;'", "'<', '<'",
           f"{PICTURES}::test_what_a_run_contains_is_never_markup"),
    Mutant("a text of a run becomes markup in a flowchart", "<>&", "",
           f"{PICTURES}::test_what_a_run_contains_is_never_markup"),
    Mutant("a picture of a run of another role is asked for without a refusal",
           "perform df_engine.visible_run(v_input)", "null",
           f"{PICTURES}::test_the_runs_of_others_are_not_found"),
    # Limits
    Mutant("two steps take the same place", "for update skip locked", "for key share skip locked",
           f"{LIMITS}::test_a_step_waits_in_line_while_no_place_is_free"),
    Mutant("a step runs without a place", "cardinality(v_places) > v_above then v_places[1]", "true then 1",
           f"{LIMITS}::test_as_many_run_as_there_are_places"),
    Mutant("one key goes before all others", "greatest(v_next, v_last + 1)", "v_next",
           f"{LIMITS}::test_keys_take_turns"),
    Mutant("the end of a step calls nobody", "(l.limit_id, p_submitter)", "(null, p_submitter)",
           f"{LIMITS}::test_the_end_of_a_step_calls_the_next"),
    Mutant("who comes later goes before those in line", "q.waits_for is null and", "false and",
           f"{LIMITS}::test_who_comes_later_waits_behind_those_in_line"),
    Mutant("a poll calls nobody", "least(v_free - v_coming, p_most)", "0",
           f"{LIMITS}::test_a_place_is_free_when_its_session_has_died"),
    Mutant("a leased step runs without a place", "if v_place is null", "if false",
           f"{LIMITS}::test_a_leased_step_has_its_place_as_long_as_its_lease"),
    Mutant("a place is free while its step is leased", "leased = (p_queue).id", "leased = null",
           f"{LIMITS}::test_a_leased_step_has_its_place_as_long_as_its_lease"),
    Mutant("the place of a lease that is lost is lost", "and not exists", "and false and not exists",
           f"{LIMITS}::test_the_place_of_a_leased_step_is_free_when_its_run_is_cancelled"),
    Mutant("everybody sets shared limits", "p_shared and not", "false and not",
           f"{LIMITS}::test_all_share_a_limit_that_an_administrator_has_set"),
    Mutant("a role sees the limits of others", "l.owner::oid in (0,", "true or l.owner::oid in (0,",
           f"{LIMITS}::test_limits_belong_to_the_role_that_has_set_them"),
    # Rates
    Mutant("a grant is free again at once", "- p_per - {{ slack('p_per') }}", "",
           f"{RATES}::test_no_more_steps_begin_than_a_rate_says"),
    Mutant("two steps have the same grant", "for update skip locked", "for key share skip locked",
           f"{RATES}::test_a_grant_that_another_session_has_locked_is_passed_over"),
    Mutant("a grant is not spent", "granted_at = df_engine.clock()", "granted_at = g.granted_at",
           f"{RATES}::test_no_more_steps_begin_than_a_rate_says"),
    Mutant("a grant is good for ever", "and q.granted_until >= df_engine.clock()", "",
           f"{RATES}::test_a_grant_is_no_good_later_or_for_another_session"),
    Mutant("a grant is good for every session", "q.granted_to = pg_backend_pid() and", "",
           f"{RATES}::test_a_grant_is_no_good_later_or_for_another_session"),
    Mutant("a step begins without a grant", "coalesce(v_number, 0) = 0", "v_number = 0",
           f"{RATES}::test_no_more_steps_begin_than_a_rate_says"),
    Mutant("a leased step begins without a grant", "or v_number is null", "",
           f"{RATES}::test_a_leased_step_spends_a_grant_with_its_lease"),
    Mutant("nobody tells when a grant is due", "greatest(20,", "null + greatest(20,",
           f"{RATES}::test_a_worker_polls_when_the_next_grant_is_due"),
    Mutant("a limit that is paused goes on", "l.paused_until > df_engine.clock()", "false",
           f"{RATES}::test_an_answer_429_pauses_the_limit"),
    Mutant("a limit is not paused by an answer", "p_outcome ->> 'class' is distinct from 'http:429'", "true",
           f"{RATES}::test_an_answer_429_pauses_the_limit"),
    Mutant("a pause ends earlier than an answer has asked for", "greatest(x.paused_until, case", "(case",
           f"{RATES}::test_of_two_answers_the_longer_pause_counts_and_none_is_longer_than_allowed"),
    # Pauses
    Mutant("a step of a paused run is claimed", "r.paused is true and", "false and",
           f"{PAUSES}::test_a_step_whose_session_dies_is_not_claimed_again"),
    Mutant("a pause waits for a step that runs", "for update skip locked", "for update",
           f"{PAUSES}::test_a_step_that_runs_ends_and_is_recorded"),
    Mutant("a step whose attempts are used up has none left when its run is resumed", "and o.state = 'r'", "and false",
           "tests/engine/test_exhausted.py::test_the_run_pauses_and_tries_again_with_a_fresh_policy"),
    Mutant("what is beside a step whose attempts are used up goes on", "x set paused = true", "x set paused = null",
           "tests/engine/test_exhausted.py::test_a_branch_beside_it_ends_and_stops"),
    Mutant("what is forgotten runs again without its input", "act = 'forget'", "act = 'never'",
           "tests/engine/test_rerun.py::test_what_is_forgotten"),
    Mutant("a result is forgotten before its caller has it", "where i.instance = p_instance", "where false",
           "tests/engine/test_rerun.py::test_a_result_that_is_wanted_is_not_forgotten"),
    # Resumes
    Mutant("a run that is forgotten is resumed", "if exists (", "if false and exists (",
           f"{RESUMES}::test_what_is_not_kept_is_not_resumed"),
    Mutant("what is undone goes on", "(p_run).undo_as is not null", "false",
           f"{RESUMES}::test_what_has_begun_to_be_undone_is_not_resumed"),
    Mutant("a step that ran when its run ended goes on beside it", "if exists (", "if false and exists (",
           f"{RESUMES}::test_a_resume_that_finds_a_cancel_and_its_step_is_to_be_tried_again"),
    Mutant("what waits of a run that was stopped with its caller stays when that is resumed",
           "perform df_engine.withdraw(p_instance, null, null, null, null);", "null;",
           f"{RESUMES}::test_a_child_that_was_stopped_a_moment_ago"),
    Mutant("a run of which a part is removed is resumed", "where not exists (", "where false and not exists (",
           f"{RESUMES}::test_what_is_removed_in_part_is_not_resumed"),
    Mutant("a map forgets its items because a CATCH would catch its failure, which another one replaces",
           "not v_replaced and", "",
           "tests/regressions/test_items_of_a_map_run_again_after_a_resume.py"),
    # Limits of roles
    Mutant("a role says itself how many runs it may start", "left(v_text, 64) = df_engine.proof_of_room(",
           "'' < df_engine.proof_of_room(",
           "tests/security/test_role_limits.py::test_a_role_cannot_say_itself_what_room_it_has"),
    Mutant("a count of live runs is believed that was rolled back", "and exists (", "and true or exists (",
           "tests/regressions/test_room_that_was_rolled_back_lets_a_role_start_runs.py"),
    Mutant("a step comes into a line while its run is cancelled", "not df_engine.lock_thread(p_thread)", "false",
           "tests/regressions/test_a_step_comes_into_a_line_while_its_run_is_cancelled.py"),
    Mutant("a role that has many keys goes before others", "(p_queue).submitter::pg_catalog.text", "p_key",
           "tests/regressions/test_a_role_passes_others_in_the_line_of_a_shared_limit.py::test_roles_take_turns_whatever_their_keys_are"),
    Mutant("a role pauses a shared limit for as long as it likes", "when x.owner <>",
           "when x.owner is not null or x.owner <>",
           f"{RATES}::test_an_answer_to_one_role_pauses_a_shared_limit_for_a_minute_at_most"),
    Mutant("a role locks the places of shared limits", "not exists (select from df_engine.live_workers())", "true",
           "tests/regressions/test_a_role_keeps_the_line_of_a_shared_limit_from_going_on.py"),
    # Skips
    Mutant("a step that runs is skipped", "if v_locked < v_queued then", "if false then",
           "tests/engine/test_skip.py::test_a_step_that_runs_is_not_skipped"),
    # Schedules
    Mutant("a schedule is not told of the end that it waits for", "perform df_engine.queue_schedule(-p_call);", "null;",
           f"{SCHEDULES}::test_what_waits_is_started_however_the_run_ends"),
    Mutant("a schedule that is in the queue is not queued again", "df_engine.clock() + interval '1 minute'", "null",
           f"{SCHEDULES}::test_a_queued_tick_survives"),
    Mutant("a tick is made again", "df_engine.tick_after(s, s.next_at)", "s.next_at",
           f"{SCHEDULES}::test_a_tick_starts_a_run"),
    Mutant("a run is started beside an earlier one", "= 'allow'", "<> ''", f"{SCHEDULES}::test_overlap"),
    Mutant("all ticks wait that come while a run goes on", "set state = 'skipped'", "set state = t.state",
           f"{SCHEDULES}::test_overlap"),
    Mutant("who has lost the right to use df goes on starting runs", "if not has_schema", "if false and has_schema",
           f"{SCHEDULES}::test_a_role_without_rights_has_failed_ticks"),
    Mutant("a run that is waited for is not asked to tell of its end",
           "not df_engine.watch_runs(s.schedule, df_engine.live_ticks(s))", "df_engine.live_ticks(s) = '{}'",
           f"{SCHEDULES}::test_what_waits_is_started_however_the_run_ends"),
    Mutant("a role acts on another role's schedules", "if p_owner = p_role or", "if true or",
           f"{SCHEDULES}::test_others_see_nothing_and_administrators_act"),
    Mutant("a role makes as many schedules as it likes", ">= ", "< 0 and 1 >= ",
           f"{SCHEDULES}::test_a_role_has_a_bounded_number"),
    Mutant("a tick is lost when its schedule is replaced", "if v_old.cron = p_cron", "if v_old.cron <> p_cron",
           f"{SCHEDULES}::test_the_same_name_replaces_it"),
    Mutant("what passed during a pause is made up", "if s.next_at <= df_engine.clock() then", "if false then",
           f"{SCHEDULES}::test_pause_and_resume"),
    Mutant("a backfill starts again what has run", "where t.state not in ('started', 'waiting')", "where true",
           f"{SCHEDULES}::test_backfill"),
    # Who is told, who sees
    Mutant("a run ends while who wants to be told is noted", " for no key update;", ";",
           "tests/engine/test_notify_end.py::test_an_end_that_commits_while_it_is_asked_for_is_told"),
    Mutant("administrators see their own runs only", "df_engine.may_act_on_all(p_role) or", "false or",
           "tests/security/test_monitors.py::test_who_may_change_settings_sees_all"),
    # Tests of flows
    Mutant("a setting makes the clock virtual", " and t.token = current_setting('df_engine.virtual', true)", "",
           "tests/virtual/test_rules.py::test_a_setting_makes_no_clock_virtual"),
    Mutant("a step of a real run is ended as one of a test", "if (p_place)", "if false and (p_place)",
           "tests/virtual/test_rules.py::test_no_step_of_a_real_run_is_ended_as_one_of_a_test"),
    Mutant("a mock that stands in for nothing is taken", "if v_key <> all (v_names)", "if false",
           "tests/virtual/test_flows.py::test_mocks_of_steps"),
    Mutant("a test leaves its run", "delete from df_engine.outcomes o where o.instance = any (v_runs);", "",
           "tests/virtual/test_rules.py::test_nothing_is_left_but_effects"),
    Mutant("a test runs a step of a branch that has lost", "place.report is not null or ", "",
           "tests/virtual/test_flows.py::test_a_branch_that_ends_at_once_leaves_no_step_of_the_others"),
    Mutant("of what is due at once the last branch is first", "df_engine.branch_place(p_test, x.instance, x.node),", "",
           "tests/virtual/test_flows.py::test_a_tie_is_decided_by_the_order_of_the_branches"),
    Mutant("a step of a test has no name", "p_step.name", "''",
           "tests/virtual/test_flows.py::test_a_step_knows_its_name"),
    Mutant("a poke is not heard in a test", "'df_engine.poked', 'test'", "'df_engine.poked', ''",
           "tests/virtual/test_flows.py::test_a_poke_is_heard"),
    Mutant("a check takes time in a test", "df_engine.in_test()", "false",
           "tests/virtual/test_flows.py::test_a_poke_of_a_step_that_fails_is_not_heard"),
    # Pauses of roles
    Mutant("a session of a paused role goes on", "if not ({{ role_is_paused", "if true or not ({{ role_is_paused",
           f"{ROLE_PAUSES}::test_runs_of_before_and_of_after_wait_and_say_why"),
    Mutant("the next step of a paused role begins", "'50 ms'", "'1 hour'",
           f"{ROLE_PAUSES}::test_the_step_that_runs_is_the_last_one"),
    Mutant("a step of a paused role is leased", "where not ({{ role_is_paused", "where true or ({{ role_is_paused",
           f"{ROLE_PAUSES}::test_a_leased_step_is_not_leased"),
    Mutant("timers of a paused role fire", "and not ({{ role_is_paused", "and true or ({{ role_is_paused",
           f"{ROLE_PAUSES}::test_timers_and_signals_act_when_it_is_resumed"),
    Mutant("the line of a shared limit waits for a paused role", "if v_shared and l.owner", "if false and l.owner",
           f"{ROLE_PAUSES}::test_others_go_on_in_the_line_of_a_shared_limit"),
    Mutant("a role pauses others", "if v_role <> p_caller and", "if false and",
           f"{ROLE_PAUSES}::test_a_role_acts_on_itself_and_administrators_on_all"),
    Mutant("a role ends the pause of an administrator", "elsif v_by <> pg_get_userbyid(p_caller) and",
           "elsif false and", f"{ROLE_PAUSES}::test_a_role_acts_on_itself_and_administrators_on_all"),
    Mutant("a setting takes a step out of its limits", "if df_engine.in_test() then",
           "if current_setting('df_engine.virtual', true) <> '' then",
           "tests/regressions/test_a_setting_takes_a_step_out_of_its_limits.py"),
    # Claims
    Mutant("the next step is claimed without its lock", "for update skip locked)", ")", BESIDE),
    Mutant("a step is claimed without its lock", " for update skip locked;", ";", BESIDE),
    Mutant("a session goes on with a run that another has claimed", " and q.xmin = p_version", "", TAKEN_OVER),
    Mutant("who claims a run leaves its row as it was", "perform df_engine.requeue(v_role, q.id, t, q.id, false);",
           "null;", TAKEN_OVER),
    Mutant("who claims a run begins its segment again", "t.node := df_engine.next_node(q, g);", "null;",
           f"{MEETINGS}::test_a_run_goes_on_where_a_session_that_is_gone_has_left_it"),
    Mutant("a claimed thread goes on without its locks", "not df_engine.lock_thread(t)", "false",
           f"{MEETINGS}::test_no_construct_opens_while_it_is_undecided_whether_its_run_goes_on"),
    Mutant("what a step had locked of a cancelled run is left", "where a.instance = q.instance", "where false",
           CANCELS),
    Mutant("a run begins whoever it says it is", "if not q.picked", "if false",
           "tests/engine/test_control.py::test_a_superuser_may_not_submit_any_more_at_pick_up"),
    Mutant("a block that cannot be in a transaction is diverted", " and not (p_step).block", "",
           f"{BLOCKS}::test_what_cannot_be_in_a_transaction_fails_and_nothing_is_kept"),
    Mutant("a block runs what no step may be", "df_engine.single_statement_problem(v_statements[i])",
           "null",
           f"{BLOCKS}::test_what_no_step_may_be_no_statement_of_a_block_may_be"),
    Mutant("who has the name of a step says its progress", "q.xmax = v_xid or q.xmin = v_xid and q.picked", "true",
           f"{PROGRESS}::test_outside_of_a_step_it_does_nothing"),
    Mutant("what a step prints is believed", "p_said = df_engine.sealed(substr(p_said, 65))", "true",
           f"{PROGRESS}::test_only_the_session_that_said_it_is_believed"),
    # Ends of steps
    Mutant("a step is recorded without locking its run", "for key share", "", UNDECIDED_CANCEL),
    Mutant("a step of a run that has ended is recorded", " and i.status = any ('{pending,running}')", "", CANCELS),
    Mutant("who records a step names any run", "and p_key =", "and '' <>", ROLES),
    Mutant("a step that is lost is kept", "rollback;", "commit;", UNDECIDED_RACE),
    Mutant("a name is bound only at the end of a segment", "is not null then",
           "is not null and not (p_step).plain then", "tests/engine/test_names.py"),
    Mutant("what was seen of a step that was lost counts wherever the run is", "= p_node", "is not null",
           "tests/crash/test_poison.py::test_what_a_worker_saw_of_commits_that_were_lost_moves_nothing"),
    # Constructs
    Mutant("a JOIN ends with its first branch", "if v_activation.open > 0 then", "if false then", BESIDE),
    Mutant("what has lost a race may still start", "perform df_engine.withdraw((p_thread).instance, (p_thread).scope, "
           "(p_race).node + 1, (p_race).last, p_queue, '{}', v_keep);", "null;",
           f"{MEETINGS}::test_a_wait_that_opens_and_the_end_of_its_race_do_not_block_each_other"),
    Mutant("a step commits without locking its race", " for key share;", ";", UNDECIDED_RACE),
    Mutant("a step commits although its race is lost", "return v_open = cardinality(p_races);", "return true;",
           UNDECIDED_RACE),
    Mutant("a CATCH catches what it does not list",
           "df_engine.is_caught(c.query::pg_catalog.jsonb -> 'errors', v_ending.failure)", "true",
           "tests/language/test_failure.py::test_what_is_not_listed_is_not_caught"),
    Mutant("a step that ends in time leaves its time-out",
           "delete from df_engine.timers t where t.id = v_activation.id;", "null;",
           f"{MEETINGS}::test_a_step_that_is_just_committing_or_its_time_out_counts"),
    # Cancel
    Mutant("a cancel does not wait for a step that commits", " for update;", ";", CANCELS),
    Mutant("a cancel waits for a step that runs", "for update skip locked) d", "for update) d", UNDECIDED_CANCEL),
    Mutant("what waits of a cancelled run stays", "perform df_engine.withdraw(p_instance, null, null, null, null);",
           "null;", CANCELS),
    Mutant("a compensation that a session begins does not get the names of its step",
           "elsif not v_named then", "elsif false then",
           "tests/language/test_undo.py::test_a_session_of_the_submitter_keeps_the_names_of_a_compensation"),
    # Keys of starts
    Mutant("who moves a key does not see that it has been moved", " and k.instance = v_old", "",
           "tests/language/test_start_keys.py::test_two_restarts_at_once_start_one_run"),
    Mutant("a key is taken from a run that retention is about to remove", " for key share;", ";",
           "tests/language/test_start_keys.py::test_retention_waits_for_no_start_that_moves_a_key"),
    # Priorities
    Mutant("priorities order roles", "df_engine.ready_at(w.id)", "w.id",
           "tests/engine/test_start_times.py::test_priorities_do_not_order_roles"),
    # Definitions
    Mutant("a role defines what another role runs", "if p_role <> p_owner", "if false and p_role <> p_owner",
           "tests/language/test_definitions.py::test_another_role_neither_hides_nor_replaces_a_definition"),
    Mutant("retention waits for a step", "where not exists", "where true or not exists",
           "tests/regressions/test_retention_waits_for_a_step_that_was_cancelled.py"),
    # Undoing
    Mutant("what is run again cannot be undone", "case when (p_graph).has_undo", "case when false",
           "tests/engine/test_rerun.py::test_what_runs_again_can_be_undone_again"),
    Mutant("compensations run in the order of their steps", "order by x.place desc", "order by x.place", BESIDE),
    Mutant("a compensation does not get the names that it refers to", "and (u.vars or b.name = any (u.refs))",
           "and u.vars", "tests/language/test_undo.py::test_a_compensation_has_the_values_of_its_moment"),
    Mutant("an UNDO may be in a race", "if kind = 'UNDO'", "if false",
           "tests/language/test_undo.py::test_hand_written_envelopes_are_checked"),
    Mutant("what is under way when a run is undone goes on", "delete from", "perform from",
           "tests/crash/test_undo.py::test_a_step_that_runs_while_its_run_is_undone_leaves_nothing"),
    # Maps
    Mutant("a map goes on after a failure", "x.halted or v_halts", "x.halted",
           "tests/language/test_map.py::test_the_first_failure_in_order_fails_it"),
    Mutant("a map begins an item twice", "returning x.next_item - x.stride", "returning 1",
           "tests/language/test_map.py::test_many_rows_few_at_a_time"),
    # Calls
    Mutant("who has called a run is not told of its end", "if v_call is not null then", "if false then", CALLED),
    Mutant("what has been called goes on when its caller is stopped", "if v_children is not null then",
           "if false then", f"{CALLED}::test_a_cancel_reaches_children_in_its_own_transaction"),
    Mutant("what waits of a run that was stopped with its caller stays",
           "perform df_engine.withdraw(t.instance, null, null, null, null);", "null;",
           "tests/security/test_shares.py::test_runs_stopped_with_their_caller_do_not_put_off_another_role"),
    Mutant("what was called lower down is ended at once, however many there are",
           "if v_ended + cardinality(v_below) <= v_most then", "if true then",
           "tests/security/test_shares.py::test_runs_stopped_with_their_caller_do_not_put_off_another_role"),
    Mutant("a supervisor waits for whoever has locked a run that was called", " skip locked;", ";",
           "tests/security/test_open_transactions.py::"
           "test_an_outcome_that_stops_a_called_run_is_refused_while_that_is_held"),
    # Timers and signals
    Mutant("who has lost a race takes others in the same node with it", " and coalesce(q.xmax = s.xid, true)", "",
           "tests/regressions/test_a_time_out_stops_the_steps_of_other_items.py"),
    Mutant("a step that is stopped while it runs again goes on", "if not found then", "if false then",
           "tests/regressions/test_a_step_that_somebody_stops_runs_again.py"),
    Mutant("a supervisor waits for whoever has locked a run", " skip locked;", ";",
           "tests/security/test_open_transactions.py::test_an_outcome_for_a_held_run_is_refused_for_now"),
    Mutant("a wait opens while a signal is delivered",
           " for no key update;", ";", f"{MEETINGS}::test_a_signal_is_not_kept_while_a_wait_for_it_opens"),
    Mutant("a signal overtakes an older one", "e.signal_id < (p_signal).signal_id)", "false)",
           f"{MEETINGS}::test_a_signal_waits_for_an_older_one"),
    Mutant("a kept signal is for all waits of its name", "v_waits[:1]", "v_waits",
           f"{MEETINGS}::test_a_kept_signal_whose_wait_timed_out_goes_to_one_other_open_wait"),
    # Pokes
    Mutant("a check that was poked while it ran is the last for a while", "and a.poked;", "and false;",
           f"{MEETINGS}::test_a_poke_while_a_check_runs_is_followed_by_one_more"),
    Mutant("a poke is not noted while a check runs", "set poked = true", "set poked = false",
           f"{MEETINGS}::test_a_poke_while_a_check_runs_is_followed_by_one_more"),
    Mutant("what was open when a worker started has poked nobody", "elsif p.hash = 0", "elsif false",
           f"{MEETINGS}::test_a_poke_that_saw_no_worker_and_commits_after_one_has_started_is_not_lost"),
    # Roles
    Mutant("the functions of the driver take any key", "is not true then", "is null then", ROLES),
    Mutant("a role cancels another role's runs", "if not exists", "if false and not exists", ROLES),
    Mutant("a role locks another role's race", " and i.submitter = p_role)", ")", ROLES),
    Mutant("everybody sees everything", "({{ sees_all() }} or", "(true or", f"{ROLES}::test_another_role_sees_nothing"),
    # Graphs
    Mutant("a graph is compiled again for each start", "and g.hash = v_hash", "and false", COMPILED),
    Mutant("a node may lack what its type needs", "df_engine.shape_problem(p_node, p_type)", "null",
           "tests/language/test_validation.py"),
    Mutant("any traceparent is sent on", "if p_text ~", "if true or p_text ~",
           "tests/language/test_secrets.py::test_a_trace_of_another_form_is_left_out_with_a_warning"),
    # Secrets
    Mutant("a flow may bring marks of its own", "p_config - '{mark,secrets}'::text[]", "p_config",
           f"{SECRETS}::test_the_keys_that_the_engine_adds_to_a_request_are_not_taken_from_a_flow"),
    Mutant("a worker gets the secrets of steps that it does not hold", " and q.worker = p_worker", "",
           f"{SECRETS}::test_the_worker_gets_the_secrets_of_the_step_that_it_holds_and_no_others"),
)  # fmt: skip

MARKER = re.compile(r"^ *\{# mutant: (?P<what>.+) #\}\n", re.M)
REACH = 3  # lines behind its marker in which a mutant's text is


def markers(project: Path) -> dict[str, tuple[Path, int]]:
    """Of each mutant that is marked its template, and where the marker ends."""
    found: dict[str, tuple[Path, int]] = {}
    for template in sorted((project / "templates").rglob("*.j2")):
        for marker in MARKER.finditer(template.read_text()):
            if marker["what"] in found:
                raise SystemExit(f"{marker['what']}: marked twice")
            found[marker["what"]] = template, marker.end()
    return found


def mutate(mutant: Mutant, project: Path) -> None:
    """Replaces the mutant's text in its template."""
    template, place = markers(project)[mutant.what]
    source = template.read_text()
    lines = source[place:].splitlines(keepends=True)
    near, rest = "".join(lines[:REACH]), "".join(lines[REACH:])
    if mutant.text not in near:
        raise SystemExit(f"{mutant.what}: its text is not behind its marker in {template.name}")
    template.write_text(source[:place] + near.replace(mutant.text, mutant.instead, 1) + rest)


@contextmanager
def mutated(mutant: Mutant) -> Iterator[Path]:
    """A copy of the project with the mutant in it."""
    with tempfile.TemporaryDirectory(prefix="mutant-", dir="/tmp") as name:
        copy = Path(name)
        copy.chmod(0o755)
        for item in COPIED:
            source = ROOT / item
            if source.is_dir():
                shutil.copytree(source, copy / item, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy(source, copy / item)
        mutate(mutant, copy)
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
