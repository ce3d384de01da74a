"""The pages around the runs: overview, people, schedules, definitions, limits, workers."""

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from tests.support import Database, Pump
from tests.web import test_looks
from tests.web.browser import Browser
from tests.web.test_looks import unfold, violations

EVIL = "<img src=x onerror=alert(1)>'\"&"
axe = test_looks.axe  # the fixture
PAGES = ("/", "/people", "/schedules", "/definitions", "/limits", "/workers", "/doctor")


@pytest.fixture(scope="module")
def shop(home: Database, work: Pump) -> Iterator[Database]:
    """A database in which there is something of everything; names and errors that would be HTML."""
    db = home
    db.sql("select df.define('bill', df.flow(%s), 'first')", "'select 1' ~> 'select 2'")
    db.sql("select df.define('bill', df.flow(%s), %s)", "'select 1' ~> 'select 3'", EVIL)
    db.sql("select df.define('caller', df.call('@bill'))")
    db.sql("select df.schedule(%s, '0 3 * * *', '@bill')", f"nightly {EVIL}")
    db.sql("select df.trigger_schedule(%s)", f"nightly {EVIL}")
    db.sql("select df.set_limit('api', 2)")
    db.admin("select df.set_limit('all', 5, 10, '1 minute', shared => true), df.set_role_limit('app', 7)")
    failing = f"do $$ begin raise exception $m${EVIL}$m$; end $$".replace("'", "''")
    work.run(f"'{failing}'", EVIL)
    work.run("'select 1' ~> 'select 2'", "done")
    work.start("'select 4200 as amount' |=> 'invoice' ~> df.wait_for_signal('approve', 86400)", "approve invoice")
    work.start(f"df.wait_for_signal('{EVIL.replace(chr(39), chr(39) * 2)}')", "odd signal")
    work.until(lambda: db.sql("select count(*) from df.waiting where kind = 'signal'") == 2)
    yield db


def log_in(browser: Browser, role: str) -> None:
    browser.log_in(role, f"secret of {role}")
    browser.wait(lambda: not browser.path.startswith("/login"))


def address(kind: str) -> str:
    """The page of the schedule, or of the definition."""
    name = "bill" if kind == "definition" else f"nightly {EVIL}"
    return f"/{kind}s/one?" + urlencode({"name": name, "owner": "app"})


@pytest.mark.parametrize("role", ["app", "watcher", "other"])
def test_each_page_is_there_for_each_role(shop: Database, browser: Browser, role: str) -> None:
    log_in(browser, role)
    browser.complaints.clear()
    for path in PAGES:
        browser.open(path)
        assert browser.one("h1").text
        assert "The SQL that made this page" in browser.text, path
        assert ("approve invoice" in browser.text) == (path == "/people" and role != "other"), path
    assert browser.script("return document.querySelectorAll('img').length") == 0
    assert not browser.complaints


def test_an_empty_database_says_what_to_do_next(shop: Database, browser: Browser) -> None:
    log_in(browser, "other")
    for path, text in (("/people", "df.wait_for_signal"), ("/schedules", "df.schedule"), ("/definitions", "df.define")):
        browser.open(path).reads(text)


def test_somebody_answers(shop: Database, work: Pump, app: Browser) -> None:
    run = shop.sql("select instance_id from df.waiting where waits_for = 'approve'")
    app.open("/people").reads("4200")
    app.one(f"a[href^='/people/{run}']").click()
    app.reads("4200")
    app.fill("#f-data", '{"approved": ')
    app.press("Send the answer")
    app.reads("This is not JSON")
    app.fill("#f-data", '{"approved": true}')
    app.press("Send the answer")
    app.reads("has its answer to approve")
    work.until(lambda: shop.sql("select df.status(%s)", run) == "completed")
    assert shop.sql("select signal_data from df.signals where instance_id = %s", run) == {"approved": True}
    app.open(f"/people/{run}?signal=approve").reads("does not wait")


def test_a_schedule_is_run_paused_and_resumed(shop: Database, app: Browser) -> None:
    name = f"nightly {EVIL}"
    app.open("/schedules").reads(name)
    app.one("#schedules a").click()
    app.reads("History")
    app.press("Pause…")
    app.reads("It starts nothing until it is resumed.")
    assert not shop.sql("select paused from df.schedules where name = %s", name)
    app.fill("#f-reason", "holidays")
    app.press("Pause it")
    app.reads("It is paused.")
    app.reads("holidays")
    assert shop.sql("select paused from df.schedules where name = %s", name)
    app.press("Resume…")
    app.press("Resume it")
    app.reads("It goes on.")
    app.press("Run now…")
    app.press("Run it now")
    app.wait(lambda: "has begun" in app.text or "refused" in app.text or "earlier run" in app.text)
    app.open(app.path)
    app.open(address("schedule"))
    app.press("Backfill…")
    app.fill("#f-after", "yesterday")
    app.fill("#f-until", "2026-01-02 00:00")
    app.press("Make up")
    app.reads("Write a time such as")


def test_a_flow_is_defined_and_started_with_input(shop: Database, app: Browser) -> None:
    app.open("/definitions").press("Define a flow…")
    app.fill("#f-name", "greet")
    app.fill("#f-flow", "'select $input.who as who'")
    app.press("Define it")
    app.reads("greet has version 1.")
    app.press("Start…")
    app.fill("#f-input", "{")
    app.press("Start it")
    app.reads("This is not JSON")
    app.fill("#f-input", '{"who": "kim"}')
    app.fill("#f-label", "greeting")
    app.press("Start it")
    app.reads("This is the new run.")
    assert shop.sql("select input from df.instances where label = 'greeting'") == {"who": "kim"}


def test_versions_are_compared(shop: Database, app: Browser) -> None:
    app.open(address("definition"))
    assert [line.text for line in app.all(".diff .added")] == ["+'select 1' ~> 'select 3'"]
    app.reads(EVIL)
    app.reads("caller")
    assert app.all("#graph svg")


def test_a_limit_is_changed_by_whom_it_belongs_to(shop: Database, app: Browser) -> None:
    app.open("/limits").reads("api")
    assert len(app.all("a[href^='/limits/change?name=']")) == 1
    app.one("a[href^='/limits/change?name=api']").click()
    app.fill("#f-concurrency", "many")
    app.press("Set the limit")
    app.reads("Write a whole number")
    app.fill("#f-concurrency", "3")
    app.press("Set the limit")
    app.reads("The limit api is set.")
    assert shop.sql("select concurrency from df.limits where name = 'api'") == 3
    app.open("/limits/change?name=all&shared=true").reads("an administrator changes it")
    app.open("/limits/role?role=app")
    app.fill("#f-sessions", "1")
    app.press("Set it")
    app.reads("permission denied")
    assert shop.admin("select sessions from df.role_limits") == 7


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (320, "dark")])
def test_everybody_can_use_it(shop: Database, app: Browser, width: int, scheme: str, axe: str) -> None:
    app.size(width)
    app.scheme(scheme)
    found: dict[str, list[str]] = {}
    app.complaints.clear()
    for path in (*PAGES, address("definition"), address("schedule"), "/limits/change", "/definitions/define"):
        app.open(path)
        unfold(app)
        assert app.script("return document.documentElement.scrollWidth") <= width, path
        app.script(axe)
        found[path] = [*violations(app), *app.complaints]
    assert not {path: faults for path, faults in found.items() if faults}
