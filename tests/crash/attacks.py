# ruff: noqa: E501, RUF005 - statements as they are sent
"""What one role can do to hurt others: statements that its sessions send over and over. `vandal` has no grant on df."""

from dataclasses import dataclass

CHANNELS = ("df_wake", "df", "pg_durable", "df_engine", "df_work")
GUESSED = f"array{list(CHANNELS)}"
LARGE = "'select repeat(''x'', 9000000)'"
BOMB = "$s$do $x$ begin for i in 1..{n} loop {body}; end loop; end $x$$s$"


@dataclass(frozen=True)
class Attack:
    """Statements of one session, sent in turn; `held` ones are sent once, and the session stays as it then is."""

    name: str
    statements: tuple[str, ...]
    role: str = "rogue"
    held: bool = False
    sessions: int = 1
    pause: float = 0.2  # seconds after each round


def starts(flow: str, runs: int = 20, options: str = "") -> str:
    """Starts many runs of a flow, an SQL expression in which i is the number of the run."""
    return f"select count(df.start({flow}{options})) from generate_series(1, {runs}) i"


def held(name: str, *statements: str, role: str = "rogue", sessions: int = 1) -> Attack:
    return Attack(name, statements, role, held=True, sessions=sessions)


def vandal(name: str, *statements: str, pause: float = 0.0) -> Attack:
    return Attack(name, statements, "vandal", pause=pause)


def http(url: str, timeout: int = 30, body: str = "null", runs: int = 20) -> str:
    return starts(f"df.http('{url}', body => {body}, timeout_seconds => {timeout})", runs)


WITHOUT_GRANTS = (
    vandal("NOTIFY with digits",
           f"select count(pg_notify(c, 'r ' || repeat('1', 4301) || i)) from unnest({GUESSED}) c, generate_series(1, 500) i"),
    vandal("NOTIFY, one a transaction", *(f"notify {channel}, 't'" for channel in CHANNELS)),
    held("LISTEN, and idle in a transaction", *(f"listen {channel}" for channel in (*CHANNELS, "noise")), "begin",
         "select 1", role="vandal"),
    vandal("the queue of notifications filled", "select pg_notify('noise', i || repeat('x', 7000)) from generate_series(1, 50) i"),
    held("advisory locks of small numbers",
         *(f"select count(pg_advisory_lock({space}, i)) from generate_series(0, 300) i" for space in (0, 1346982470, 1346982471)),
         "select count(pg_advisory_lock(i)) from generate_series(0, 300) i", role="vandal"),
    vandal("LOCK TABLE", *(f"lock table {name} in {mode} mode" for name in ("df.instances", "df.vars", "df_engine.queue")
                           for mode in ("access share", "access exclusive")), pause=0.05),
    held("an old snapshot", "begin isolation level repeatable read", "select 1", role="vandal"),
    vandal("sessions of others ended", "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename <> 'vandal'",
           "select count(pg_cancel_backend(pid)) from pg_stat_activity where usename <> 'vandal'", pause=0.05),
    vandal("functions of the engine called", "select df_engine.listen_for_work()", "select df_engine.register_worker()",
           "select df_engine.fire_due(100000)", "call df_engine.work(1000, false, null)", pause=0.05),
    held("names of steps in sessions", "set application_name = 'pg_durable:00000000:00000000'", "select 1", role="vandal",
         sessions=5),
)  # fmt: skip

STEPS = (
    Attack("every session asleep", (starts("'select pg_sleep(25)'", 40),), pause=10),
    Attack("every session busy", (starts("'select count(*) from generate_series(1, 3000000)'", 5),), pause=2),
    Attack("sleeps of no length", (starts("df.sleep(0)", 2000),), pause=1),
    Attack("nests of sleeps", (starts("df.flow((select string_agg('sleep(0)', ' ~> ') from generate_series(1, 200)))", 20),), pause=1),
    Attack("loops of sleeps", (starts("df.loop(df.sleep(0))", 50),), pause=2),
    Attack("signals to nobody", ("select df.start(df.wait_for_signal('no'), 'mail')",
                                 "select count(df.signal(id, 'other')) from df.instances, generate_series(1, 200) "
                                 "where label = 'mail' and status in ('pending', 'running')"), pause=1),
    Attack("large signals", ("select df.start(df.wait_for_signal('go'), 'large')",
                             "select df.signal(id, 'go', to_json(repeat('x', 15000000))::text) from df.instances "
                             "where label = 'large' and status in ('pending', 'running') limit 3"), pause=1),
    Attack("cron expressions", (starts("df.wait_for_schedule('* * * * *')", 200),
                                starts("df.wait_for_schedule(repeat('1,', 500) || '1 * * * *')", 50),
                                "select df.wait_for_schedule(repeat('1,', 100000) || '1 * * * *')"), pause=2),
    Attack("large results", (starts("'select repeat(''x'', 15000000)'", 4), starts("'select repeat(''x'', 200000000)'", 2),
                             starts("'select * from generate_series(1, 200000)'", 2)), pause=2),
    Attack("JOINs that grow", (starts(f"df.join3({LARGE}, {LARGE}, {LARGE})", 1),
                               starts(f"{LARGE} |=> 'a' ~> 'select length(''$a''), ''$a'' as b'", 1)), pause=2),
    Attack("long names", ("select df.start('select 1' |=> repeat('n', 10000))", "select df.start('select 1', repeat('l', 60000))",
                          "select df.setvar(repeat('v', 10000), 'x')", "select df.start(df.wait_for_signal(repeat('s', 100000)))")),
    Attack("long texts", (starts("'select 1 ' || repeat('$a$ $b$ ', 100000)", 2), starts("repeat('select {a} $b ', 40000)", 2),
                          "select df.flow(repeat('(', 100000))", "select df.flow(repeat('$a$ ', 200000))"), pause=1),
    Attack("wide runs", ("select df.start(df.flow((select string_agg('''select ' || i || '''', ' ~> ') from generate_series(1, 3000) i)))",
                         "select df.start(df.flow((select string_agg('''select ' || i || '''', ' & ') from generate_series(1, 1000) i)))"), pause=3),
    Attack("new texts", (starts("'select ' || random()", 200),), pause=0.5),
    Attack("control characters", (starts(r"'select 1/0 as ' || quote_ident(E'\x1b[2J\x07'), E'\x1b]0;x\x07\n\r'"),
                                  starts(r"'do $x$ begin raise exception using message = E''\x1b[2J\x01''; end $x$'")), pause=1),
    Attack("messages", (starts(BOMB.format(n=200000, body="raise info 'pg_durable:%:0', repeat('1', 4301)"), 1),
                        starts(BOMB.format(n=200000, body="raise info 'pg_durable:1:00000000'"), 1)), pause=2),
    Attack("large messages", (starts(BOMB.format(n=1, body="raise info '%', repeat('x', 60000000)"), 2),
                              starts(BOMB.format(n=1, body="raise exception '%', repeat('x', 60000000)"), 2)), pause=3),
    Attack("large messages from elsewhere",
           (starts(BOMB.format(n=1, body="raise exception '%', repeat('x', 60000000)"), 2, ", database => 'elsewhere'"),
            starts("'select repeat(''x'', 60000000)'", 2, ", database => 'elsewhere'"),
            starts("'vacuum (verbose)'", 2, ", database => 'elsewhere'")), pause=3),
    Attack("steps that end their session", (starts("'select pg_terminate_backend(pg_backend_pid())'", 10),), pause=2),
    Attack("all sessions of the role ended",
           ("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'rogue' and application_name like 'pg_durable%'",), pause=0.5),
    Attack("all steps of the role cancelled",
           ("select pg_cancel_backend(pid) from pg_stat_activity where usename = 'rogue' and application_name like 'pg_durable%'",)),
    Attack("hostile settings of the role", tuple(
        f"alter role rogue set {setting}" for setting in (
            "statement_timeout = 1", "lock_timeout = 1", "idle_session_timeout = 1", "idle_in_transaction_session_timeout = 1",
            "transaction_timeout = 1", "search_path = nowhere", "row_security = off", "client_min_messages = debug5",
            "default_transaction_isolation = serializable", "default_transaction_read_only = on", "work_mem = 64",
            "standard_conforming_strings = off", "jit_above_cost = 0", "timezone = 'Asia/Kathmandu'")) + ("alter role rogue reset all",),
        pause=0.3),
    Attack("transactions in steps", (starts("'commit'", 5), starts("'begin'", 5), starts("'set role none'", 5), starts("'discard all'", 5),
                                     starts("'listen df_wake'", 5), starts("'vacuum'", 10)), pause=1),
    Attack("notifications of steps", (starts("'select pg_notify(''noise'', i || repeat(''x'', 5000)) from generate_series(1, 500) i'", 10),), pause=1),
    Attack("starts and cancels", ("select count(df.cancel(df.start(df.sleep(60)))) from generate_series(1, 50)",
                                  "select count(df.cancel(id)) from (select id from df.instances where status = 'running' limit 20) i"), pause=0.5),
    Attack("wake-ups", ("select df.run()",), sessions=2, pause=0),
    Attack("questions", ("select count(*) from df.nodes", "select count(*) from df.instances", "select * from df.metrics()"), pause=0.5),
    Attack("a worker of its own", ("call df.work(1)", "call df_engine.work(1000, false, null)"), pause=0),
)  # fmt: skip

LIVE = "(select id from df.instances where status in ('pending', 'running') limit 50) i"
ENDED = "(select id from df.instances where status not in ('pending', 'running') limit 50) i"
OPERATORS = (
    Attack("runs of high priority", (starts("'select pg_sleep(0.2)'", 100, ", priority => 100"),), pause=1),
    Attack("runs that begin together", (starts("'select 1'", 2000, ", start_at => date_trunc('minute', now() + '1 minute')"),
                                        starts("'select 1'", 500, ", start_at => 'infinity'")), pause=2),
    Attack("one key", (starts("'select 1'", 50, ", key => 'k', on_conflict => 'replace'"),
                       starts("'select 1'", 50, ", key => 'k' || i, on_conflict => 'restart'")), sessions=2),
    Attack("new versions", ("select df.define('f', 'select ' || random())", "select df.define('g' || i, 'select 1') from generate_series(1, 100) i",
                            starts("'@f'", 50), "select df.undefine('f')"), pause=0.3),
    Attack("trees of calls", ("select df.define('leaf', df.wait_for_signal('never'))",
                              "select df.define('tree', (select df.all_agg(df.call('@leaf')) from generate_series(1, 30)))",
                              starts("df.timeout((select df.all_agg(df.call('@tree')) from generate_series(1, 30)), 3, 'select 1')", 2)), pause=5),
    Attack("a flow that calls itself", ("select df.define('self', 'select 1')", "select df.define('self', df.call('@self') & df.call('@self'))",
                                        "select df.start('@self')"), pause=3),
    Attack("schedules", ("select df.schedule('s' || i, '* * * * *', 'select pg_sleep(0.1)', overlap => 'queue') from generate_series(1, 300) i",
                         "select df.trigger_schedule('s' || i) from generate_series(1, 50) i",
                         "select df.backfill('s1', now() - interval '10 hours', now())", "select df.unschedule('s' || i) from generate_series(200, 300) i"), pause=0.5),
    Attack("tests of flows", ("select count(*) from df.test(df.loop('select 1' ~> df.sleep(1), 'select true'), steps => 2000)",
                              "select df.test(df.map('select * from generate_series(1, 500)', df.sleep(1)))"), pause=0.2),
    Attack("resumes", ("select df.start('select 1' ~> 'select 1/0') from generate_series(1, 100)",
                       "select count(df.resume(id)) from (select id from df.instances where status in ('failed', 'cancelled') limit 100) i"), pause=0.3),
    Attack("pauses of itself", ("select df.set_limit('l' || i, 1) from generate_series(1, 10) i",
                                "select count(df.start(df.within('l1', 'select pg_sleep(0.01)'))) from generate_series(1, 300) i",
                                *(f"select df.{act}_role('rogue')" for act in ("pause", "resume") * 50)), sessions=2, pause=0),
    Attack("looks for changes", ("select count(*) from df.changes((select c.mark from df.changes() c))",
                                 "select count(*) from df.changes('[0, [], [[0, \"-infinity\", 0, 0, 0, 0]]]')",
                                 "select count(*) from df.recent_throughput('10 days', '1 second')"), sessions=2, pause=0),
    Attack("runs that fail", (starts("'select 1/0'", 5000),), pause=3),
    Attack("lines of limits", ("select df.set_limit('l' || i, i % 3) from generate_series(1, 90) i",
                               "select count(df.start(df.within('l' || i % 90, df.within('l' || (i + 1) % 90, 'select pg_sleep(0.01)'), 'k' || i))) from generate_series(1, 2000) i",
                               "select df.set_limit('l' || i) from generate_series(1, 30) i"), pause=1),
    Attack("skips", (f"select df.skip(i.id, n.id) from {LIVE} join lateral (select id from df.nodes where instance_id = i.id and node_type <> 'THEN' limit 3) n on true",
                     "select df.skip(n.instance_id, n.id, '1') from df.failed_steps f join df.nodes n on n.instance_id = f.instance_id and n.id = f.node_id limit 50"), pause=0.3),
    Attack("ends told", (f"select count(df.notify_end(id, 'c' || n)) from {LIVE}, generate_series(1, 10) n",
                         "select * from df.stuck('0 s')", "select * from df.queue", "select count(*) from df.blocked_steps"), pause=0.2),
    Attack("maps", (starts("df.map('select * from generate_series(1, 20000)', 'select 1', parallel => 50)", 2),
                    starts("df.map('select * from generate_series(1, 1000)', df.sleep(0), parallel => 1000)", 2)), pause=3),
    Attack("waits and pokes", (starts("df.wait_for('select false', '1 s', 'all')", 200), "select df.poke('all')"), pause=0.5),
    Attack("compensations", ("select df.start(df.undo('select 1', 'select pg_sleep(1)') ~> 'select 1/0') from generate_series(1, 50)",
                             f"select count(df.cancel(id, undo => true)) from {LIVE}"), pause=1),
    Attack("pauses and resumes", (f"select count(df.pause(id, repeat('r', 1000))) from {LIVE}", f"select count(df.resume(id)) from {LIVE} join df.instances x using (id) where x.wait_reason like 'paused%'"), pause=0.1),
    Attack("runs again and again", (f"select count(df.rerun(id)) from {ENDED}", f"select count(df.forget(id)) from {ENDED}"), pause=0.3),
)  # fmt: skip

HELD_OPEN = (
    held("an open start of the same text", "begin", "select df.start('select 1')"),
    held("an open start of the same text, elsewhere", "begin", "select df.start('select 1', database => 'elsewhere')"),
    held("open changes of everything", "begin", "select df.setvar('x', 'y')", "select df.start(df.sleep(0)) from generate_series(1, 50)",
         "select count(df.cancel(id)) from df.instances where status in ('pending', 'running')"),
    held("open pauses", "begin", f"select count(df.pause(id)) from {LIVE}"),
    held("open resumes", "begin", "select df.start('select 1/0')",
         "select count(df.resume(id)) from (select id from df.instances where status in ('failed', 'cancelled') limit 200) i"),
    held("open schedules", "begin", "select df.schedule('h' || i, '* * * * *', 'select 1') from generate_series(1, 300) i",
         "select df.pause_schedule(name) from df.schedules"),
    held("an open start with a key", "begin", "select df.start('select 1', key => 'k', on_conflict => 'replace')"),
    held("open limits", "begin", "select df.set_limit('l1', 5)", "select df.start(df.within('l1', 'select 1')) from generate_series(1, 50)", "select df.set_limit('l1')"),
    held("open skips", "begin", "select df.start('select 1/0')", "select df.skip(n.instance_id, n.id, '1') from df.failed_steps f join df.nodes n on n.instance_id = f.instance_id and n.id = f.node_id limit 50"),
    held("open reruns", "begin", f"select count(df.rerun(id)), count(df.forget(id)) from {ENDED}", "select df.define('f', 'select 2')"),
    held("ACCESS SHARE of all that can be read", "begin", "lock table df.instances, df.nodes, df.vars, df.signals in access share mode"),
    held("steps of its own claimed", "select df.start('select 1')", "begin",
         "select df_engine.claim_step(key, null, 0, false) from df_engine.own_key"),
)  # fmt: skip

HTTP = (
    Attack("slow HTTP", (http("{url}/slow?s=20", runs=260),), pause=10),
    Attack("HTTP that never answers", (http("{url}/hang", 60, runs=260), http("{url}/drip", 60, runs=20)), pause=10),
    Attack("HTTP answers without end", (http("{url}/endless", runs=10), http("{url}/gzip?mb=500", runs=4)), pause=3),
    Attack("HTTP answers of control characters", (http("{url}/control?bytes=10000000", runs=30),), pause=5),
    Attack("large HTTP requests", (http("{url}/ok", body="repeat(chr(1), 10000000)", runs=20),), pause=5),
    Attack("HTTP that is refused", (http("http://10.0.0.1/", runs=50), http("http://nowhere.invalid/", runs=50)), pause=3),
)  # fmt: skip


ALL = (*WITHOUT_GRANTS, *STEPS, *OPERATORS, *HELD_OPEN, *HTTP)
