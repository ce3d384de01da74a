"""The list of runs: filters, what can be done with many, and what each role sees."""

from selenium.webdriver.common.by import By

from tests.support import Database, Pump, wait_until
from tests.web.browser import Browser
from tests.web.site import Site


def labels(browser: Browser) -> list[str]:
    """What the table shows, from top to bottom."""
    return [cell.text for cell in browser.all("#runs tbody td:nth-child(4)")]


def ended(work: Pump, *runs: str) -> None:
    """Drives runs to their end."""
    work.until(lambda: not work.db.sql("select count(*) from df.instances where id = any (%s) and finished_at is null",
                                       list(runs)))  # fmt: skip


def test_filters_stand_in_the_address_and_the_back_button_takes_them_back(
    app: Browser, home: Database, work: Pump
) -> None:
    good = home.sql("select df.start('select 1', 'a good one')")
    bad = home.sql("select df.start('select 1 / 0', 'a bad one')")
    ended(work, good, bad)
    app.open("/runs").press("failed")
    app.wait(lambda: "status=failed" in app.path and labels(app) == ["a bad one"])
    app.fill("#f-error", "by zero")
    app.press("Filter")
    app.wait(lambda: "error=by+zero" in app.path and labels(app) == ["a bad one"])
    app.fill("#f-error", "something else")
    app.press("Filter")
    app.reads("No run matches")
    app.driver.back()
    app.driver.back()
    app.wait(lambda: app.path == "/runs?status=failed" and labels(app) == ["a bad one"])
    app.driver.back()
    app.wait(lambda: app.path == "/runs" and set(labels(app)) == {"a bad one", "a good one"})
    app.open("/runs?label=a+good+one")
    assert labels(app) == ["a good one"]


def test_a_list_goes_on_page_by_page(app: Browser, home: Database) -> None:
    home.sql("select count(df.start('df.sleep(3600)', 'number ' || n)) from generate_series(1, 60) n")
    app.open("/runs?status=pending&since=1+h")
    first = labels(app)
    app.open("/runs")
    assert len(labels(app)) == 50
    app.press("Older")
    app.wait(lambda: "after=" in app.path)
    assert not set(labels(app)) & set(first[:50]) or len(first) > 50
    app.press("Newest")
    app.wait(lambda: "after=" not in app.path)
    home.sql("select count(df.cancel(id)) from df.instances where label like 'number %'")


def test_all_that_match_are_run_again_after_their_number_was_shown(app: Browser, home: Database, work: Pump) -> None:
    runs = [home.sql("select df.start('select 1 / 0', 'again')") for _ in range(3)]
    ended(work, *runs)
    app.open("/runs?label=again")
    app.all(".bulk a")[3].click()
    app.reads("Run again: 3 runs")
    assert home.sql("select count(*) from df.instances where label = 'again'") == 3
    app.press("Run 3 runs again")
    app.reads("3 runs run again.")
    assert app.path == "/runs?label=again"
    assert home.sql("select count(*) from df.instances where label = 'again'") == 6


def test_chosen_runs_are_resumed_and_the_others_left_alone(app: Browser, home: Database, work: Pump) -> None:
    home.sql("create table parts (n int)")
    runs = [home.sql("select df.start('select 1 / count(*) from parts', 'to be resumed')") for _ in range(2)]
    ended(work, *runs)
    home.sql("insert into parts values (1)")
    app.open("/runs?label=to+be+resumed")
    app.one(f"input[value='{runs[0]}']").click()
    app.driver.find_element(By.XPATH, "//button[normalize-space()='Resume…']").click()
    app.reads("Resume: 1 run")
    app.press("Resume 1 run")
    app.reads("1 run resumed.")
    ended(work, runs[0])
    assert [home.sql("select df.status(%s)", run) for run in runs] == ["completed", "failed"]


def test_a_new_run_arrives_by_itself(app: Browser, home: Database, work: Pump) -> None:
    app.open("/runs?label=arrives")
    app.reads("No run matches")
    app.wait(lambda: app.script("return document.documentElement.dataset.live") == "yes")
    run = home.sql("select df.start('select 1', 'arrives')")
    app.reads(run)
    ended(work, run)
    app.reads("completed")
    app.wait(lambda: app.one("#runs tbody .status").text == "completed")


def test_two_roles_do_not_see_each_other_and_a_monitor_sees_both(browser: Browser, home: Database) -> None:
    mine = home.sql("select df.start('df.sleep(3600)', 'of app alone')")
    theirs = home.sql("select df.start('df.sleep(3600)', 'of other alone')", user="other")
    sees = {"app": {mine}, "other": {theirs}, "watcher": {mine, theirs}}
    for role, visible in sees.items():
        browser.forget()
        browser.log_in(role, f"secret of {role}")
        browser.open("/runs")
        shown = browser.text
        for run in (mine, theirs):
            assert (run in shown) == (run in visible), role
            browser.open(f"/runs/{run}")
            assert ("There is no run" in browser.text) == (run not in visible), role


def test_nothing_of_a_run_is_markup(app: Browser, home: Database, work: Pump) -> None:
    evil = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
    quoted = evil.replace("'", "''")
    flow = f"""select df.start(
      df.as($q$select '{quoted}' as "{evil.replace('"', '""')[:50]}"$q$, 'named')
      ~> df.wait_for_signal($q${evil}$q$)
      ~> $q$do $$ begin raise exception '%', '{quoted}'; end $$ $q$,
      $q${evil}$q$, input => jsonb_build_object($q${evil}$q$, $q${evil}$q$))"""
    run = home.sql(flow)
    work.until(lambda: home.sql("select count(*) from df.waiting where instance_id = %s", run))
    pages = ["/runs", f"/runs/{run}", *node_pages(home, run), f"/runs/{run}/signal?name={evil}"]
    look_at(app, pages)
    home.sql("select df.signal(%s, %s, to_jsonb(%s::text)::text)", run, evil, evil)
    ended(work, run)
    look_at(app, [*pages, "/runs?status=failed", "/runs/all/rerun?label=" + evil])


def node_pages(home: Database, run: str) -> list[str]:
    """A page for each node."""
    return [f"/runs/{run}?node={node}" for (node,) in home.rows("select id from df.nodes where instance_id = %s", run)]


def look_at(browser: Browser, pages: list[str]) -> None:
    """Opens pages, and looks for what they must not have."""
    for path in pages:
        browser.open(path)
        browser.script("for (const d of document.querySelectorAll('details')) d.open = true")
        assert browser.driver.title != "taken", path
        assert not browser.all("main img, main script, [onerror]"), path
        assert not browser.complaints, path
        assert "onerror" in browser.script("return document.body.textContent"), path


def test_the_statements_of_a_page_are_copied_as_they_were_sent(app: Browser, home: Database) -> None:
    app.open("/runs?label=it's+here")
    app.one("#sql summary").click()
    text = app.one("#sql-text").text
    assert "df.list_instances(" in text
    assert " 'it''s here'" in text
    home.rows(text.split(";\n")[0].removesuffix(";"))
    app.press("Copy")
    app.reads("Copied")


def test_a_hidden_tab_hears_nothing_and_a_role_without_tabs_costs_nothing(app: Browser, site: Site) -> None:
    app.open("/runs")
    app.wait(lambda: site.state.hub.listening == 1)
    app.hide(True)
    app.wait(lambda: site.state.hub.listening == 0)
    asked = site.state.hub.asked
    app.hide(False)
    app.wait(lambda: site.state.hub.listening == 1 and site.state.hub.asked > asked)
    app.open("/healthz")
    wait_until(lambda: site.state.hub.listening == 0, 30)
