"""7.7: timers, schedules and the durable signal inbox."""

import pytest

from tests.state import DUE_AGO, FRESH_SIGNALS, SIGNAL_ROWS_READ, WAITS, WAITS_DELETED
from tests.support import Database, Pump, Run, wait_until


def signals(run: Run) -> list[tuple[object, ...]]:
    return run.db.rows("select signal_name, status from df.signals where instance_id = %s order by signal_id", run.id)


def send(run: Run, name: str, data: str = "{}") -> None:
    assert run.db.sql("select df.signal(%s, %s, %s)", run.id, name, data) == "OK"


def test_a_signal_ends_an_open_wait(pump: Pump) -> None:
    run = pump.start("df.wait_for_signal('go') |=> 's' ~> 'select $s.data'")
    pump.until(lambda: run.status == "running")
    send(run, "go", '{"by": "kim"}')
    pump.until(run.ended)
    node = run.node("SIGNAL")
    assert node["result"] == {"signal_name": "go", "timed_out": False, "data": {"by": "kim"}}
    row = run.db.rows("select status, delivered_to, sent_by::text from df.signals where instance_id = %s", run.id)
    assert row == [("delivered", [node["id"]], "app")]


@pytest.mark.parametrize(("value", "wait", "result"), [
    ("0.01", "df.sleep('$a')", {"slept": True, "seconds": 0.01}),
    ("'10 ms'", "df.sleep('$a.v')", {"slept": True, "seconds": 0.01}),
    ("timestamptz '2001-01-01 01:00:00+01'", "df.sleep_until('$a')", {"slept": True, "until": "2001-01-01T00:00:00Z"}),
    ("7", "df.wait_for_signal('order-$a', 1)", {"signal_name": "order-7", "timed_out": True, "data": None}),
])  # fmt: skip
def test_how_long_and_for_what_may_come_from_data(pump: Pump, value: str, wait: str, result: object) -> None:
    run = pump.run(f"$$select {value} as v$$ |=> 'a' ~> {wait}")
    assert (run.status, run.error, run.result) == ("completed", "", result)


@pytest.mark.parametrize(("value", "wait", "error"), [
    ("'soon'", "df.sleep('$a')", 'SLEEP: "soon" is no duration'),
    ("'$z'", "df.sleep('$a')", 'SLEEP: "$z" is no duration'),
    ("-1", "df.sleep('$a')", 'SLEEP: "-1" is no duration'),
    ("'soon'", "df.sleep_until('$a')", 'SLEEP: "soon" is no time'),
    ("'{due}'", "df.sleep_until('$a')", 'SLEEP: "{due}" is no time'),
    ("repeat('x', 1025)", "df.wait_for_signal('$a')", "SIGNAL: $a has given a text of 1025 bytes"),
    ("''", "df.wait_for_signal('$a')", "SIGNAL: $a has given an empty text"),
    ("1", "df.wait_for_signal('$a.nope')", "SIGNAL: reference $a.nope: "),
])  # fmt: skip
def test_what_is_no_time_and_no_name_fails_the_wait(pump: Pump, value: str, wait: str, error: str) -> None:
    run = pump.run(f"$q$select {value} as v$q$ |=> 'a' ~> {wait}")
    assert run.status == "failed"
    assert run.error.startswith(error)


def test_only_a_session_of_the_submitter_reads_the_text_of_a_wait(pump: Pump) -> None:
    run = pump.start("'select 7 as v' |=> 'a' ~> df.wait_for_signal('go') ~> df.wait_for_signal('order-$a')")
    pump.until(lambda: run.status == "running")
    send(run, "go")
    pump.tick()
    assert run.db.admin(WAITS) == 0
    pump.work()
    send(run, "order-7")
    pump.until(run.ended)
    assert run.result["signal_name"] == "order-7"


def test_a_time_that_has_passed_ends_the_sleep_at_once(pump: Pump) -> None:
    run = pump.start("df.sleep_until('2001-01-01Z') ~> 'select 1'")
    pump.work()
    assert run.status == "completed"


def test_a_signal_sent_before_the_wait_is_kept(pump: Pump) -> None:
    run = pump.start("df.sleep(0.2) ~> df.wait_for_signal('go')")
    send(run, "go", "plain text")
    send(run, "other")
    pump.until(run.ended)
    assert run.result["data"] == "plain text"
    assert signals(run) == [("go", "delivered"), ("other", "undeliverable")]


def test_kept_signals_satisfy_one_wait_each_oldest_first(pump: Pump) -> None:
    run = pump.start(
        "df.sleep(0.1) ~> df.wait_for_signal('n') |=> 'a' ~> df.wait_for_signal('n') |=> 'b' ~> "
        "'select array[$a.data, $b.data]'"
    )
    send(run, "n", "1")
    send(run, "n", "2")
    pump.until(run.ended)
    assert run.value() == [1, 2]


def test_one_signal_goes_to_every_open_wait(pump: Pump) -> None:
    run = pump.start("df.wait_for_signal('go') & df.wait_for_signal('go')")
    pump.until(lambda: pump.db.admin(WAITS) == 2)
    send(run, "go", "7")
    pump.until(run.ended)
    assert [each["data"] for each in run.result] == [7, 7]


def test_a_signal_that_nobody_has_looked_at_is_for_the_waits_that_were_open_when_it_came(pump: Pump) -> None:
    run = pump.start("df.wait_for_signal('go') & df.wait_for_signal('go', 3600)")
    send(run, "go", "7")
    pump.work()
    pump.until(lambda: pump.db.admin(WAITS) == 1)
    assert pump.db.sql("select cardinality(delivered_to) from df.signals where instance_id = %s", run.id) == 1
    send(run, "go", "8")
    pump.until(run.ended)
    assert sorted(each["data"] for each in run.result) == [7, 8]


def test_a_wait_that_opens_late_leaves_a_signal_to_the_earlier_ones(pump: Pump) -> None:
    signal = "select df.signal(''{sys_instance_id}'', ''go'', ''7'')"
    run = pump.start(f"df.wait_for_signal('go') & df.wait_for_signal('go') & ('{signal}' ~> df.wait_for_signal('go'))")
    pump.until(lambda: pump.db.admin(WAITS) == 1)
    assert pump.db.sql("select cardinality(delivered_to) from df.signals where instance_id = %s", run.id) == 2


SIGNALS = 240


def rows_read(pump: Pump, deleted: int) -> int:
    """Of signals and waits, also entries of indexes, so far, once every session has said what it has read."""
    pump.close()
    for conn in pump.db.connections.values():
        conn.close()
    others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    wait_until(lambda: pump.db.admin(others) == 0)
    wait_until(lambda: pump.db.admin(WAITS_DELETED) >= deleted, what="published statistics")
    return int(pump.db.admin(SIGNAL_ROWS_READ))


def take_signals(pump: Pump, waits: str) -> None:
    """A run that is sent many signals before it waits for the first of them, from its beginning to its end."""
    sent = f"select df.signal(%s, 'go', n::text) from generate_series(1, {SIGNALS}) n"
    many = f"df.map('select n from generate_series(1, {SIGNALS}) n', df.wait_for_signal('go'), parallel => {SIGNALS})"
    if waits == "side by side":
        run = pump.start(f"df.wait_for_signal('begin') ~> {many}")
    else:
        pump.db.admin("select df.set_setting('loop_min_interval', '0')")
        run = pump.start(
            "df.wait_for_signal('begin') ~> df.loop(df.wait_for_signal('go') |=> 's', "
            f"'select ($s.data)::int < {SIGNALS}')"
        )
    pump.until(lambda: run.status == "running")
    run.db.sql(sent, run.id)
    pump.until(lambda: pump.db.admin(FRESH_SIGNALS) == 0)
    send(run, "begin")
    pump.until(run.ended, 60)
    assert run.status == "completed"
    assert {status for _, status in signals(run)} == {"delivered"}


@pytest.mark.parametrize("waits", ["one after the other", "side by side"])
def test_to_deliver_many_kept_signals_reads_a_few_rows_for_each(db: Database, waits: str) -> None:
    """Counted, not timed. Most are entries of rows that the same transaction has replaced; to search all that is kept
    would be twice as many, and more with more signals. A snapshot of anybody's keeps such entries longer, so of three
    times the best counts."""
    read = 0
    for time in (1, 2, 3):
        pump = Pump(db)
        take_signals(pump, waits)
        read, before = rows_read(pump, time * SIGNALS), read
        if read - before < 350 * SIGNALS:
            return
    raise AssertionError(f"{read - before} rows were read for {SIGNALS} signals")


def test_a_wait_times_out_and_keeps_a_later_signal(pump: Pump) -> None:
    run = pump.start("df.wait_for_signal('go', 1) ~> df.sleep(0.5) ~> df.wait_for_signal('go')")
    pump.until(lambda: run.db.admin("select count(*) from df.nodes where result @> '{\"timed_out\": true}'") == 1)
    send(run, "go", "9")
    pump.until(run.ended)
    assert run.result["data"] == 9


@pytest.mark.parametrize("end", ["select df.cancel(%s)", None])
def test_a_signal_to_a_run_that_has_ended_is_undeliverable(pump: Pump, end: str | None) -> None:
    run = pump.start("df.sleep(60)" if end else "'select 1'")
    if end:
        pump.db.sql(end, run.id)
    pump.until(run.ended)
    send(run, "late")
    pump.tick()
    assert signals(run) == [("late", "undeliverable")]


def test_a_rolled_back_signal_never_was(pump: Pump) -> None:
    run = pump.start("df.wait_for_signal('go')")
    pump.until(lambda: run.status == "running")
    with pump.db.connect("app") as conn, conn.transaction(force_rollback=True):
        conn.execute("select df.signal(%s, 'go')", [run.id])
    pump.tick()
    assert run.status == "running"


def test_timers_that_fell_due_while_nobody_looked_end_at_once(pump: Pump) -> None:
    run = pump.start("df.sleep(3600) ~> 'select 1'")
    pump.until(lambda: run.status == "running")
    pump.db.admin(DUE_AGO, "1 hour", "1 hour")
    pump.until(run.ended)
    assert run.status == "completed"


def test_a_schedule_ends_at_the_next_matching_minute(pump: Pump) -> None:
    run = pump.start("df.wait_for_schedule('30 8 * * *', 'Europe/Berlin')")
    pump.until(lambda: run.status == "running")
    due = pump.db.sql("select to_char(due_at at time zone 'Europe/Berlin', 'HH24:MI:SS') from df.waiting")
    assert due == "08:30:00"
    pump.db.admin(DUE_AGO, "0", "0")
    pump.until(run.ended)
    assert run.result == {"scheduled": True}


@pytest.mark.parametrize(
    "envelope",
    [
        '{"node_type":"SLEEP","query":"soon"}',
        '{"node_type":"SLEEP","query":"-1"}',
        '{"node_type":"WAIT_SCHEDULE","query":"{\\"cron_expr\\":\\"nonsense\\"}"}',
        '{"node_type":"WAIT_SCHEDULE","query":"never"}',
        '{"node_type":"SIGNAL","query":"{}"}',
        '{"node_type":"SIGNAL","query":"' + "[" * 50000 + '"}',
        '{"node_type":"WAIT_SCHEDULE","query":"' + "[" * 50000 + '"}',
    ],
)
def test_unusable_content_of_a_hand_written_node_fails_it(pump: Pump, envelope: str) -> None:
    run = pump.run(f"'{envelope}'")
    assert run.status == "failed"
    assert envelope.split('"')[3] in run.error


def test_nothing_is_to_be_looked_at_where_nothing_waits(pump: Pump) -> None:
    assert pump.tick()["next_ms"] is None
    pump.start("df.sleep(3600)")
    pump.work()
    assert 3_000_000 < pump.tick()["next_ms"] <= 3_600_000
