"""Schedules: which lines are accepted, when they come due, and what changes of the clock do to them."""

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter

from tests.support import Database

ACCEPTED = [
    "* * * * *", "0 0 1 1 0", "59 23 31 12 7", "*/59 */23 */31 */12 */7", "5-10,20,*/30 1-5/2 3/4 * *",
    "0 0 ? * MON-FRI",
    "0 0 1 JAN,mar-Apr ?", "0 0 * * SUN-SUN", "0 0 * * fri-SUN", "0 0 * * 5-7/2", "00 05 01 02 03", " 1\t2  3 4 5\n",
    "0 0 29 2 *", "0 0 30 2 MON", "0 0 ?/2 * *", "@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly",
    "@annually", "0 0 L * *", "0 0 1,15,l 2 *", "0 0 L 2 MON",
]  # fmt: skip
REFUSED = {
    "": "five fields", "* * * *": "five fields", "* * * * * *": "five fields", "@reboot": "five fields",
    "60 * * * *": "minute", "-1 * * * *": "minute", "? * * * *": "minute", "a * * * *": "minute",
    "1, * * * *": "minute",
    "1.5 * * * *": "minute", "*-5 * * * *": "minute", "1--2 * * * *": "minute", "*/0 * * * *": "minute",
    "*/60 * * * *": "above 59", "10-5 * * * *": "descends", "* 24 * * *": "hour", "* ? * * *": "hour",
    "0 0 0 * *": "day of month", "0 0 32 * *": "day of month", "0 0 L-3 * *": "day of month",
    "0 0 L/2 * *": "day of month", "0 L * * *": "hour", "0 0 * L *": "month", "0 0 1-L * *": "day of month",
    "0 0 15W * *": "day of month",
    "0 0 * 0 *": "month", "0 0 * 13 *": "month", "0 0 * JANUARY *": "month", "0 0 * MON *": "month",
    "0 0 * * 8": "day of week", "0 0 * * MON#2": "day of week", "0 0 * * 5L": "day of week",
    "0 0 * * FRI-MON": "descends",
    "0 0 * * */8": "above 7", "0 0 30 2 *": "never", "0 0 31 2,4,6,9,11 *": "never", "0 0 31 4 ?": "never",
    "0 0 30 2 */2": "never",
}  # fmt: skip


def due(shared: Database, expr: str, after: str, zone: str = "UTC") -> str:
    """The next time in the zone, in the zone's own clock with its offset."""
    at = shared.admin("select df_engine.cron_next(%s, %s, %s)", expr, zone, after)
    return str(at.astimezone(ZoneInfo(zone)).isoformat(timespec="minutes"))


@pytest.mark.parametrize("expr", ACCEPTED)
def test_accepts(shared: Database, expr: str) -> None:
    assert shared.admin("select df_engine.cron_problem(%s)", expr) is None
    assert shared.admin("select df_engine.cron_next(%s, 'UTC', now()) > now()", expr)


@pytest.mark.parametrize(("expr", "reason"), REFUSED.items())
def test_refuses(shared: Database, expr: str, reason: str) -> None:
    assert reason in shared.admin("select df_engine.cron_problem(%s)", expr)
    with pytest.raises(Exception, match="Invalid cron expression"):
        shared.admin("select df_engine.cron_next(%s, 'UTC', now())", expr)


@pytest.mark.parametrize(
    ("expr", "after", "expected"),
    [
        ("* * * * *", "2026-05-01 10:00Z", "2026-05-01T10:01+00:00"),
        ("* * * * *", "2026-05-01 10:00:59.9Z", "2026-05-01T10:01+00:00"),
        ("0 0 * * 1-5", "2026-05-01 10:00Z", "2026-05-04T00:00+00:00"),  # 1 is Monday
        ("0 0 13 * FRI", "2026-02-13 00:00Z", "2026-02-20T00:00+00:00"),  # either day field
        ("0 0 */13 * FRI", "2026-02-13 00:00Z", "2026-02-27T00:00+00:00"),  # both: */13 is not restricted
        ("0 0 * * SAT-SUN", "2026-05-02 00:00Z", "2026-05-03T00:00+00:00"),
        ("0 0 * * 5/2", "2026-05-01 00:00Z", "2026-05-03T00:00+00:00"),  # 5, 7
        ("0 0 29 2 *", "2096-03-01 00:00Z", "2104-02-29T00:00+00:00"),
        ("0 0 29 2 */7", "2096-03-01 00:00Z", "2128-02-29T00:00+00:00"),  # a 29 February that is a Sunday
        ("0 0 29 2 MON", "2096-03-01 00:00Z", "2097-02-04T00:00+00:00"),
        ("0 12 L * *", "2026-02-01 00:00Z", "2026-02-28T12:00+00:00"),
        ("0 12 L 2 *", "2027-03-01 00:00Z", "2028-02-29T12:00+00:00"),
        ("0 12 15,L * *", "2026-04-15 13:00Z", "2026-04-30T12:00+00:00"),
        ("0 12 L * MON", "2026-04-28 00:00Z", "2026-04-30T12:00+00:00"),
        ("@weekly", "2026-05-01 00:00Z", "2026-05-03T00:00+00:00"),
        ("@annually", "2026-05-01 00:00Z", "2027-01-01T00:00+00:00"),
    ],
)
def test_comes_due(shared: Database, expr: str, after: str, expected: str) -> None:
    assert due(shared, expr, after) == expected


@pytest.mark.parametrize(
    ("expr", "zone", "after", "expected"),
    [
        # 2026-03-29 02:00-03:00 does not exist in Berlin; 2026-10-25 02:00-03:00 happens twice
        ("30 2 * * *", "Europe/Berlin", "2026-03-28 12:00Z", "2026-03-29T03:00+02:00"),
        ("0,30 2,3 * * *", "Europe/Berlin", "2026-03-29 01:00Z", "2026-03-29T03:30+02:00"),
        ("30 * * * *", "Europe/Berlin", "2026-03-29 00:30Z", "2026-03-29T03:30+02:00"),
        ("30 */2 * * *", "Europe/Berlin", "2026-03-29 00:30Z", "2026-03-29T04:30+02:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24 12:00Z", "2026-10-25T02:30+02:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25 00:30Z", "2026-10-26T02:30+01:00"),
        ("30 * * * *", "Europe/Berlin", "2026-10-25 00:30Z", "2026-10-25T02:30+01:00"),
        ("*/30 0-23 * * *", "Europe/Berlin", "2026-10-25 00:30Z", "2026-10-25T03:00+01:00"),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03 12:00Z", "2026-10-04T02:30+11:00"),  # a gap of 30 minutes
        ("0 0 * * *", "America/Santiago", "2026-09-05 12:00Z", "2026-09-06T01:00-03:00"),  # midnight is skipped
        ("0 12 30 12 *", "Pacific/Apia", "2011-12-29 12:00Z", "2011-12-31T00:00+14:00"),  # the day is skipped
    ],
)
def test_a_change_of_the_clock(shared: Database, expr: str, zone: str, after: str, expected: str) -> None:
    assert due(shared, expr, after, zone) == expected


def test_an_unknown_zone_is_refused(shared: Database) -> None:
    with pytest.raises(Exception, match='time zone "Mars/Olympus"'):
        shared.admin("select df_engine.cron_next('* * * * *', 'Mars/Olympus', now())")


ZONES = [
    "UTC", "Europe/Berlin", "Europe/London", "America/New_York", "America/St_Johns", "America/Sao_Paulo",
    "Asia/Kolkata",
    "Asia/Tokyo", "Australia/Lord_Howe", "Pacific/Chatham", "Pacific/Apia", "Africa/Johannesburg",
]  # fmt: skip
RANGES = [(0, 59), (0, 23), (1, 28), (1, 12), (0, 6)]


def random_item(rng: random.Random, low: int, high: int) -> str:
    first, last = sorted(rng.sample(range(low, high + 1), 2))
    step = rng.randint(1, high)
    from_on = f"{first}/{step}" if high > 6 else f"{first}"
    return rng.choice([f"{first}", f"{last}", f"{first}-{last}", f"{first}-{last}/{step}", from_on])


def random_line(rng: random.Random) -> str:
    """A line whose meaning does not differ between us and croniter.

    croniter takes the day field */2 for restricted, the range 8-8 for all, and Saturday for the highest day of the week
    in 5/2; those are left out.
    """
    fields = [
        rng.choice(["*", f"*/{rng.randint(1, high)}"])
        if rng.random() < 0.4 and position in (0, 1, 3)
        else ",".join(random_item(rng, low, high) for _ in range(rng.choice([1, 1, 2, 3])))
        for position, (low, high) in enumerate(RANGES)
    ]
    fields[2] = rng.choice([fields[2], fields[2], f"{fields[2]},L", "L"])
    for position in rng.sample((2, 4), rng.choice([0, 1, 2])):
        fields[position] = "*"
    return " ".join(fields)


def clock_changes_near(at: datetime, zone: ZoneInfo) -> bool:
    before, after = (at + timedelta(hours=hours) for hours in (-26, 26))
    return before.astimezone(zone).utcoffset() != after.astimezone(zone).utcoffset()


def test_agrees_with_croniter_away_from_changes_of_the_clock(shared: Database) -> None:
    rng = random.Random(7)
    start = datetime(2016, 1, 1, tzinfo=UTC)
    cases = [
        (random_line(rng), rng.choice(ZONES), start + timedelta(seconds=rng.randrange(10 * 365 * 86400)))
        for _ in range(1500)
    ]
    exprs, zones, afters = (list(column) for column in zip(*cases, strict=True))
    ours = shared.rows(
        "select df_engine.cron_next(e, z, a) from unnest(%s::text[], %s::text[], %s::timestamptz[]) t(e, z, a)",
        exprs, zones, afters, user=None,
    )  # fmt: skip
    compared = 0
    for (expr, name, after), (our,) in zip(cases, ours, strict=True):
        zone = ZoneInfo(name)
        theirs = croniter(expr, after.astimezone(zone)).get_next(datetime).astimezone(UTC)
        if not any(clock_changes_near(at, zone) for at in (after, theirs, our)):
            assert our == theirs, (expr, name, after)
            compared += 1
    assert compared > 1200


def reference_times(expr: str, zone: ZoneInfo, start: datetime, minutes: int) -> list[datetime]:
    """Minute by minute, remembering the latest local time that was reached: the daylight saving rules word by word."""
    follows_clock = expr.split()[1].startswith("*")
    due_times = []
    reached = (start - timedelta(days=2)).astimezone(zone).replace(tzinfo=None)
    for at in (start + timedelta(minutes=minute) for minute in range(-2 * 1440, minutes)):
        local = at.astimezone(zone).replace(tzinfo=None)
        passed = [local] if follows_clock else []
        while not follows_clock and reached < local:
            reached += timedelta(minutes=1)
            passed.append(reached)
        if at > start and any(croniter.match(expr, time) for time in passed):
            due_times.append(at)
    return due_times


@pytest.mark.parametrize("expr", ["*/20 * * * *", "15,45 */2 * * *", "*/15 0-3 * * *", "30 2 * * SUN", "0 0,2 * * *"])
@pytest.mark.parametrize(
    ("zone", "change"),
    [
        ("Europe/London", datetime(2024, 3, 31, 1, tzinfo=UTC)),
        ("America/New_York", datetime(2024, 11, 3, 6, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2024, 4, 6, 15, tzinfo=UTC)),
        ("America/Sao_Paulo", datetime(2018, 11, 4, 3, tzinfo=UTC)),
    ],
)
def test_agrees_with_the_rules_around_changes_of_the_clock(
    shared: Database, expr: str, zone: str, change: datetime
) -> None:
    start = change - timedelta(hours=30)
    expected = reference_times(expr, ZoneInfo(zone), start, 60 * 60)
    ours = shared.rows(
        "with recursive due(at) as (select df_engine.cron_next(%s, %s, %s) union all"
        "  select df_engine.cron_next(%s, %s, at) from due where at < %s) select at from due",
        expr, zone, start, expr, zone, expected[-1], user=None,
    )  # fmt: skip
    assert [at for (at,) in ours] == expected
