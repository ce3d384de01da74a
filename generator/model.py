"""The facts that more than one template needs: node types, statuses, settings."""

from dataclasses import dataclass
from typing import Any

from pg_durable.step_settings import STEP_SETTINGS

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
OLDEST_UPGRADABLE = "1.0.0"

SESSION_STEPS = ("SQL", "BLOCK")  # that run in a session of their submitter, if they can
STEPS = (*SESSION_STEPS, "HTTP", "HTTP_MULTIPART")
RETRIED = (*STEPS, "WAIT_FOR")
LEAVES = (*STEPS, "SLEEP", "WAIT_SCHEDULE", "SIGNAL", "BREAK", "CALL")
NODE_TYPES = ("SQL", "THEN", "IF", "JOIN", "RACE", "ANY", "LOOP", "CATCH", "TIMEOUT", "UNDO", "MAP", "BREAK", "SLEEP",
              "WAIT_SCHEDULE", "SIGNAL", "WAIT_FOR", "CALL", "HTTP", "HTTP_MULTIPART", "BLOCK")  # fmt: skip
# What runs its branches at the same time, and those of them that one branch decides.
PARALLEL = ("JOIN", "RACE", "ANY")
DECIDED_BY_ONE = ("RACE", "ANY")
# Where no UNDO can be: what may be stopped in the middle, or run again and again.
WITHOUT_UNDO = (*DECIDED_BY_ONE, "TIMEOUT", "LOOP", "MAP")
TERMINAL = ("completed", "failed", "cancelled")
STATUSES = ("pending", "running", *TERMINAL)

SETTINGS = (
    Setting("enable_superuser_instances", "off", "boolean", None, None,
            "whether superusers may submit instances"),
    Setting("list_instances_max_limit", "1000", "integer", 1, 1_000_000,
            "largest limit_count of df.list_instances"),
    Setting("paused", "off", "boolean", None, None,
            "whether nothing new of any run begins; df.pause_role does it for one role"),
    Setting("loop_min_interval", "1", "duration", 0, 3600,
            "least time between the starts of two iterations of a forever loop, in seconds"),
    Setting("timezone", "UTC", "zone", None, None, "time zone of schedules that name none"),
    Setting("max_user_connections", "10", "integer", 1, 1000, "SQL steps that one worker runs at the same time"),
    Setting("reserved_connections", "2", "integer", 0, 1000,
            "of max_user_connections: for roles of which nothing runs; two at least are for all"),
    Setting("max_http_requests", "510", "integer", 1, 10_000, "HTTP requests that one worker makes at the same time"),
    Setting("reserved_http_requests", "10", "integer", 0, 10_000,
            "of max_http_requests: for roles that have none under way at that worker"),
    Setting("worker_bytes_in_flight", "268435456", "integer", 1_048_576, 1_099_511_627_776,
            "requests and results of steps outside of transactions that one worker holds in memory, in bytes"),
    Setting("max_transition_rows", "1000", "integer", 1, 1_000_000,
            "branches that a worker opens in one transition, or called runs that it ends; what is more is left to a "
            "session of the role, or for later"),
    Setting("tick_timers", "50", "integer", 1, 10_000,
            "timers and signals, of all roles together, that a worker fires in one transaction"),
    Setting("tick_time", "0.2", "duration", 0, 10,
            "how long a worker fires timers, and removes old runs, before it asks again what is ready, in seconds"),
    Setting("max_new_transaction_starts", "2", "integer", 1, 1000,
            "starts in transaction_mode 'new' that may be under way at the same time"),
    Setting("new_transaction_start_timeout", "5", "duration", 1, 3600,
            "how long a start in transaction_mode 'new' waits for a slot, in seconds"),
    Setting("loopback_dsn", "", "conninfo", None, None,
            "how transaction_mode 'new' reaches this server: host, port and means to authenticate"),
    Setting("retention_days", "30", "integer", 0, 36500, "age in days at which a finished instance is removed"),
    Setting("retention_max", "10000", "integer", 1, 10_000_000, "number of finished instances of a role that are kept"),
    Setting("reconcile_interval", "3600", "duration", 0, 86400, "seconds between two retention passes; 0 is off"),
    Setting("retry_max_attempts", "5", "integer", 1, 1000, "attempts of a step that fails with a transient error"),
    Setting("retry_initial_delay", "1", "duration", 0, 86400, "largest delay before the second attempt, in seconds"),
    Setting("retry_backoff", "2", "number", 1, 100, "factor by which the delay grows with each attempt"),
    Setting("retry_max_delay", "60", "duration", 0, 86400, "largest delay between two attempts, in seconds"),
    Setting("retry_exhausted", "fail", "choice", None, None,
            "what becomes of a step when its attempts are used up: fail, or pause its run", ("fail", "pause")),
    Setting("max_result_bytes", "16777216", "integer", 1024, 268_435_456,
            "largest JSON text of one result, in bytes"),
    Setting("max_flow_bytes", "1048576", "integer", 1024, 104_857_600,
            "largest text of a flow, and of a step in it, in bytes"),
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
    Setting("secrets_encrypted", "off", "boolean", None, None,
            "whether secrets must be encrypted by the client: df.set_secret then refuses plain text"),
)  # fmt: skip


# Largest texts, in bytes: of names, of labels, keys, cron expressions and names of signals; in characters: of each
# part of an error. The longest wait, in seconds. The most statements of a block. The longest comment of a
# definition, in bytes, and how many versions a role may have of all. How many runs may stand above one that was called.
# How many schedules a role may have, and how many ticks are kept of each, or can be waiting.
# On how many channels the end of a run may be told. How many limits a role may have, how many places each, and how
# many steps may begin in its interval.
LIMITS = {
    "name": 63,
    "text": 1024,
    "error": 10_000,
    "seconds": 3_155_760_000,
    "statements": 1000,
    "comment": 10_000,
    "definitions": 10_000,
    "levels": 32,
    "schedules": 1000,
    "ticks": 1000,
    "channels": 10,
    "limits": 1000,
    "places": 1000,
    "rate": 1000,
}

# The priority of a run: its range, each way; how much earlier a point is, in units of 1/64 s; and the rank of priority
# 0, with which its places in the queue end.
PRIORITY = {"most": 100, "units": 3 * 64, "rank": 100}

# A MAP: its defaults, how it may react to a failure, and the kinds of steps that its items come from. How many threads
# the maps of one run may have together, but for one each.
MAPS = {
    "parallel": 10,
    "most_parallel": 1000,
    "most_threads": 10_000,
    "on_error": "fail",
    "reactions": ("fail", "stop", "collect"),
    "sources": ("SQL", "BLOCK"),
}

# What df.work makes of a session that is not a worker's.
VISIT_SETTINGS = STEP_SETTINGS | {
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
}


def context() -> dict[str, Any]:
    """What every template sees."""
    return {
        "steps": STEPS,
        "session_steps": SESSION_STEPS,
        "retried": RETRIED,
        "leaves": LEAVES,
        "node_types": NODE_TYPES,
        "parallel": PARALLEL,
        "decided_by_one": DECIDED_BY_ONE,
        "without_undo": WITHOUT_UNDO,
        "terminal": TERMINAL,
        "statuses": STATUSES,
        "language": language,
        "settings": SETTINGS,
        "step_settings": VISIT_SETTINGS,
        "limits": LIMITS,
        "maps": MAPS,
        "priority": PRIORITY,
        "oldest_upgradable": OLDEST_UPGRADABLE,
        **lexicon.context(),
    }
