"""Logging in and out."""

from tests.support import Database
from tests.web.browser import Browser
from tests.web.site import Site


def test_a_role_logs_in_and_sees_what_it_may(browser: Browser, home: Database) -> None:
    run = home.sql("select df.start('select 1', 'of app')")
    browser.open("/runs")
    assert browser.path == "/login?next=%2Fruns"
    browser.fill("#role", "app")
    browser.fill("#password", "secret of app")
    browser.press("Log in")
    browser.reads(run)
    assert browser.path == "/runs"
    assert not browser.complaints


def test_a_wrong_password_is_refused_in_the_words_of_the_server(browser: Browser) -> None:
    browser.log_in(password="not that")
    browser.reads('Password authentication failed for user "app".')
    browser.open("/runs")
    assert browser.path.startswith("/login")


def test_who_guesses_has_to_wait(browser: Browser, site: Site) -> None:
    for _ in range(5):
        browser.log_in("other", "a guess")
        browser.reads("Log in")
    browser.log_in("other", "secret of other")
    browser.reads("Too many attempts.")
    site.ahead = 61
    browser.log_in("other", "secret of other")
    browser.wait(lambda: not browser.path.startswith("/login"))


def test_a_session_expires(app: Browser, site: Site) -> None:
    app.open("/runs")
    site.ahead = 9 * 3600
    app.open("/runs")
    assert app.path == "/login?next=%2Fruns"


def test_logging_out_ends_the_session(app: Browser) -> None:
    app.open("/runs")
    cookie = app.driver.get_cookie("pg_durable_session")
    assert cookie
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    assert not cookie["secure"]
    app.press("Log out")
    app.reads("As a role of the database.")
    app.driver.add_cookie(cookie)
    app.open("/runs")
    assert app.path.startswith("/login")
