"""The facts that more than one template needs: node types, statuses, settings."""

from dataclasses import dataclass
from typing import Any

from generator import language, lexicon


@dataclass(frozen=True)
class Setting:
    """A row of df.settings: its default as text, how it is validated, its range and its meaning."""

    name: str
    default: str
    kind: str  # boolean, integer, number, duration, zone, choice, conninfo
    low: float | None
    high: float | None
    description: str
    choices: tuple[str, ...] = ()


# The oldest version whose installation this one can upgrade in place. The installer refuses any that is older.
OLDEST_UPGRADABLE = "0.6.0"

STEPS = ("SQL", "HTTP", "HTTP_MULTIPART")
LEAVES = (*STEPS, "SLEEP", "WAIT_SCHEDULE", "SIGNAL", "BREAK")
NODE_TYPES = ("SQL", "THEN", "IF", "JOIN", "RACE", "LOOP", "BREAK", "SLEEP", "WAIT_SCHEDULE", "SIGNAL", "HTTP",
              "HTTP_MULTIPART")  # fmt: skip
TERMINAL = ("completed", "failed", "cancelled")
STATUSES = ("pending", "running", *TERMINAL)

SETTINGS = (
    Setting("enable_superuser_instances", "off", "boolean", None, None,
            "whether superusers may submit instances"),
    Setting("list_instances_max_limit", "1000", "integer", 1, 1_000_000,
            "largest limit_count of df.list_instances"),
    Setting("loop_min_interval", "1", "duration", 0, 3600,
            "least time between the starts of two iterations of a forever loop, in seconds"),
    Setting("timezone", "UTC", "zone", None, None, "time zone of schedules that name none"),
    Setting("max_user_connections", "10", "integer", 1, 1000, "SQL steps that one worker runs at the same time"),
    Setting("max_new_transaction_starts", "2", "integer", 1, 1000,
            "starts in transaction_mode 'new' that may be under way at the same time"),
    Setting("new_transaction_start_timeout", "5", "duration", 1, 3600,
            "how long a start in transaction_mode 'new' waits for a slot, in seconds"),
    Setting("loopback_dsn", "", "conninfo", None, None,
            "how transaction_mode 'new' reaches this server: host, port and means to authenticate"),
    Setting("retention_days", "30", "integer", 0, 36500, "age in days at which a finished instance is removed"),
    Setting("retention_max", "10000", "integer", 1, 10_000_000, "number of finished instances that are kept"),
    Setting("reconcile_interval", "3600", "duration", 0, 86400, "seconds between two retention passes; 0 is off"),
    Setting("retry_max_attempts", "5", "integer", 1, 1000, "attempts of a step that fails with a transient error"),
    Setting("retry_initial_delay", "1", "duration", 0, 86400, "largest delay before the second attempt, in seconds"),
    Setting("retry_backoff", "2", "number", 1, 100, "factor by which the delay grows with each attempt"),
    Setting("retry_max_delay", "60", "duration", 0, 86400, "largest delay between two attempts, in seconds"),
    Setting("max_result_bytes", "16777216", "integer", 1024, 268_435_456,
            "largest JSON text of one result, in bytes"),
    Setting("commit_policy", "strict", "choice", None, None,
            "strict: every step is a transaction that waits for the disk; relaxed: short steps share one, "
            "and a run waits at its end and where the outside could notice",
            ("strict", "relaxed")),
    Setting("http_mode", "allowlist", "choice", None, None, "outbound HTTP: off, allowlist or any",
            ("off", "allowlist", "any")),
    Setting("http_max_timeout", "300", "duration", 1, 86400, "largest timeout_seconds of an HTTP step"),
    Setting("http_max_request_bytes", "10485760", "integer", 0, 104_857_600, "largest HTTP request body, in bytes"),
    Setting("http_max_response_bytes", "10485760", "integer", 0, 104_857_600,
            "largest HTTP response body, in bytes"),
    Setting("http_retry_after_max", "86400", "duration", 0, 604_800,
            "longest Retry-After that is honoured, in seconds"),
)  # fmt: skip


def context() -> dict[str, Any]:
    """What every template sees."""
    return {
        "steps": STEPS,
        "leaves": LEAVES,
        "node_types": NODE_TYPES,
        "terminal": TERMINAL,
        "statuses": STATUSES,
        "language": language,
        "settings": SETTINGS,
        "oldest_upgradable": OLDEST_UPGRADABLE,
        "user_routines": USER_ROUTINES,
        "user_views": USER_VIEWS,
        "worker_routines": WORKER_ROUTINES,
        **lexicon.context(),
    }


# What public functions that run with the caller's rights need of df_engine; granted by df.grant_usage.
USER_ROUTINES = (
    "df_engine.as_json(text)",
    "df_engine.await_end(text, int)",
    "df_engine.bare_sql(text)",
    "df_engine.brace_problem(text)",
    "df_engine.cause(text)",
    "df_engine.check_awaitable(text)",
    "df_engine.check_http(text, text, text, text, jsonb, int)",
    "df_engine.check_page_size(int)",
    "df_engine.check_submitter(text)",
    "df_engine.child_nodes(jsonb, text)",
    "df_engine.children_of(text, text, text, jsonb)",
    "df_engine.claim_step(text, bigint, bigint, boolean)",
    "df_engine.commits_relaxed()",
    "df_engine.config_problem(text, text)",
    "df_engine.construct_parts(text, df_engine.graph_visit, jsonb, text, int)",
    "df_engine.count_events(text)",
    "df_engine.count_events(text[], text)",
    "df_engine.cron_next(text, text, timestamptz)",
    "df_engine.current_execution(text)",
    "df_engine.deadline(int)",
    "df_engine.decode_cursor(text)",
    "df_engine.draw_graph(text, jsonb)",
    "df_engine.drawn_nodes(text, jsonb)",
    "df_engine.encode_cursor(timestamptz, text)",
    "df_engine.evaluate_expression(text, text)",
    "df_engine.final_names(text[])",
    "df_engine.explain(text, text)",
    "df_engine.explain_graph(text)",
    "df_engine.explain_kind(text)",
    "df_engine.explain_run(text)",
    "df_engine.first_part(df_engine.graph_visit, text, text, text)",
    "df_engine.flow_comments(text)",
    "df_engine.flow_layout(jsonb)",
    "df_engine.flow_nodes(text)",
    "df_engine.generation_of(text)",
    "df_engine.graph_nodes(jsonb, text, text, text[])",
    "df_engine.hold_step(bigint, xid, varchar, varchar)",
    "df_engine.http_headers_problem(jsonb)",
    "df_engine.http_headers_text(jsonb)",
    "df_engine.http_method_problem(text, text)",
    "df_engine.http_node(text, text, text, text, jsonb, int)",
    "df_engine.http_parts_problem(jsonb)",
    "df_engine.http_parts_text(jsonb)",
    "df_engine.http_scheme_problem(text)",
    "df_engine.insert_instance(text, text, text, jsonb)",
    "df_engine.is_stamp(text)",
    "df_engine.json_or_null(text)",
    "df_engine.last_part(df_engine.graph_visit, int, text, text, text, boolean)",
    "df_engine.launch(text, text, text, jsonb)",
    "df_engine.lay_out(text, jsonb)",
    "df_engine.live_nodes(text)",
    "df_engine.live_stamps(text[])",
    "df_engine.malformed(jsonb)",
    "df_engine.milliseconds(timestamptz, timestamptz)",
    "df_engine.missing_run_hint(text)",
    "df_engine.node_config(text, text)",
    "df_engine.node_events(text, timestamptz)",
    "df_engine.node_id(text, bigint)",
    "df_engine.node_problem(jsonb, text)",
    "df_engine.node_states(text)",
    "df_engine.node_text(text, text, jsonb)",
    "df_engine.note_helper(text, text)",
    "df_engine.notify(text)",
    "df_engine.one_line(text, int)",
    "df_engine.padded(text[])",
    "df_engine.page_cap()",
    "df_engine.page_of_instances(text, text, timestamptz, text, int)",
    "df_engine.parse_graph(text, text)",
    "df_engine.has_room(df_engine.outcome[], df_engine.step, jsonb)",
    "df_engine.pass_on_group(text, bigint, varchar, df_engine.outcome[], varchar, boolean, varchar, timestamptz)",
    "df_engine.short_statements(jsonb, text, timestamptz)",
    "df_engine.pass_on(text, bigint, varchar, varchar[], varchar, boolean, jsonb, text[], text[], timestamptz, "
    "varchar, timestamptz)",
    "df_engine.random_id()",
    "df_engine.read_expression(text, text)",
    "df_engine.reject_in_workflow(text)",
    "df_engine.reject_node(text, text, int, int, text)",
    "df_engine.request_text(text, jsonb)",
    "df_engine.require_grantable(regprocedure)",
    "df_engine.retry_problem(jsonb)",
    "df_engine.renamed_rows(json, text[])",
    "df_engine.run_statement(text, text, boolean, bigint)",
    "df_engine.run_head(text)",
    "df_engine.run_output(text, text, text, jsonb)",
    "df_engine.seconds(text)",
    "df_engine.setting(text)",
    "df_engine.setting_number(text)",
    "df_engine.setting_on(text)",
    "df_engine.settle_step(text, bigint, varchar, varchar, jsonb, text[], text[], text, text, text, text, timestamptz)",
    "df_engine.split_stamp(text)",
    "df_engine.stamp_key(text)",
    "df_engine.start_here(text, text, text, jsonb)",
    "df_engine.start_new(text, text, text, jsonb)",
    "df_engine.statements_problem(text)",
    "df_engine.status_icon(text)",
    "df_engine.steps_to_beginning(jsonb)",
    "df_engine.stored_query(text, text, text[])",
    "df_engine.unknown_type(text)",
    "df_engine.usage_privileges()",
    "df_engine.work(int, boolean, text)",
    "df_engine.work_in_groups(int, text)",
    "df_engine.worker_problem()",
)
USER_VIEWS = {
    "df.failed_steps": "select",
    "df.running_steps": "select",
    "df.throughput": "select",
    "df.waiting": "select",
    "df.workers": "select",
    "df_engine.own_instances": "insert",
    "df_engine.own_key": "select",
    "df_engine.own_launches": "insert",
    "df_engine.visible_executions": "select",
    "df_engine.visible_inbox": "select, insert",
    "df_engine.visible_scopes": "select",
}

# What a worker calls on its supervising connection; granted by df.grant_worker.
WORKER_ROUTINES = (
    "df_engine.accuse(oid, bigint, text, int)",
    "df_engine.acquit_leased(int, bigint[])",
    "df_engine.agenda(int)",
    "df_engine.census(jsonb)",
    "df_engine.claim_leased(int, text, int)",
    "df_engine.deadline(int)",
    "df_engine.fail_interrupted(text, text)",
    "df_engine.fail_orphans()",
    "df_engine.failed_since(timestamp with time zone)",
    "df_engine.finish_leased(int, bigint, json)",
    "df_engine.fire_due(int)",
    "df_engine.heartbeat(int)",
    "df_engine.mark_long_steps()",
    "df_engine.reclaim_leases()",
    "df_engine.register_worker(int)",
    "df_engine.release_leased(int, bigint[])",
    "df_engine.retain()",
    "df_engine.role_reachable(int, text)",
    "df_engine.role_unreachable(text, text, boolean)",
    "df_engine.sleep_until(int, int)",
    "df_engine.tick(int, jsonb)",
    "df_engine.unregister_worker(int)",
)
