"""The page of a run: what it shows, live, and what can be done there; with keys alone, and without scripts."""

import json
from collections.abc import Iterator

import pytest
from selenium.webdriver.common.keys import Keys

from tests.support import Database, Pump
from tests.web.browser import Browser
from tests.web.site import Site

ORDER = """
  'select 17 as id' |=> 'order'
  ~> df.join('select ''invoice of $order.id''', 'select 2')
  ~> 'select $order.id as done'"""
APPROVAL = (
    """'select 1' ~> df.wait_for_signal('approve', 86400) |=> 'answer' ~> 'select $answer.data.amount as amount'"""
)


@pytest.fixture
def waiting(home: Database, work: Pump) -> str:
    """A run that waits for a signal."""
    run = work.start(APPROVAL, "an approval").id
    work.until(lambda: home.sql("select count(*) from df.waiting where instance_id = %s and kind = 'signal'", run))
    return run


@pytest.fixture(scope="module")
def plain_window() -> Iterator[Browser]:
    """A browser without scripts."""
    browser = Browser(scripts=False)
    yield browser
    browser.close()


def ended(work: Pump, run: str) -> None:
    """Drives a run to its end."""
    work.until(lambda: work.db.sql("select finished_at from df.instances where id = %s", run))


def node(home: Database, run: str, text: str) -> str:
    """The node of a run whose statement contains a text."""
    return str(home.sql("select id from df.nodes where instance_id = %s and strpos(query, %s) > 0", run, text))


def test_a_chosen_node_shows_its_text_what_it_read_and_its_result(app: Browser, home: Database, work: Pump) -> None:
    run = work.run(ORDER, "an order").id
    app.open(f"/runs/{run}")
    assert app.title == "an order"
    app.one(f"#shape-{node(home, run, 'as done')}").click()
    app.reads("What it reads")
    assert app.path == f"/runs/{run}?node={node(home, run, 'as done')}#node"
    assert [cell.text for cell in app.all("#node td")] == ["17", "17"]
    assert app.one("#node-text").text == "select $order.id as done"
    assert len(app.all("#waterfall tbody tr")) == 5
    assert not app.complaints


def test_a_run_changes_while_one_looks(app: Browser, waiting: str, home: Database, work: Pump) -> None:
    app.open(f"/runs/{waiting}")
    app.reads("approve")
    app.one("#as-sql summary").click()
    app.wait(lambda: app.script("return document.documentElement.dataset.live") == "yes")
    home.sql("""select df.signal(%s, 'approve', '{"amount": 4200}')""", waiting)
    ended(work, waiting)
    app.wait(lambda: app.one(".head .status").text == "completed")
    assert app.one("section[aria-labelledby=h-result] td").text == "4200"
    assert app.one("#as-sql").get_attribute("open"), "what was unfolded stays so"


def test_a_signal_is_answered_and_what_is_no_json_is_said_so(app: Browser, waiting: str, work: Pump) -> None:
    app.open(f"/runs/{waiting}").press("answer…")
    app.fill("#f-data", '{"amount": ')
    app.press("Send the signal")
    app.reads("This is not JSON")
    assert app.one("#f-name").get_attribute("value") == "approve"
    app.fill("#f-data", '{"amount": 7}')
    app.press("Send the signal")
    app.reads("The signal is sent.")
    ended(work, waiting)
    app.wait(lambda: app.one(".head .status").text == "completed")


def test_a_run_is_cancelled_after_a_question(app: Browser, waiting: str, home: Database, work: Pump) -> None:
    app.open(f"/runs/{waiting}").press("Cancel…")
    app.reads("Nothing of it starts any more")
    app.press("Back")
    app.wait(lambda: app.path == f"/runs/{waiting}")
    app.press("Cancel…")
    app.fill("#f-reason", "nobody approves")
    app.press("Cancel the run")
    app.reads("It is being cancelled.")
    ended(work, waiting)
    app.reads("nobody approves")
    assert home.sql("select df.status(%s)", waiting) == "cancelled"


def test_a_run_is_paused_and_resumed(app: Browser, waiting: str, home: Database) -> None:
    app.open(f"/runs/{waiting}").press("Pause…")
    app.fill("#f-reason", "the bank is closed")
    app.press("Pause the run")
    app.reads("It is paused.")
    app.reads("the bank is closed")
    app.press("Resume…")
    app.press("Resume the run")
    app.reads("It goes on.")
    assert home.sql("select wait_reason from df.instances where id = %s", waiting) is None


def test_a_failed_run_is_resumed_and_a_failed_node_skipped(app: Browser, home: Database, work: Pump) -> None:
    home.sql("create table rates (rate int)")
    runs = [work.start("'select 1 / count(*) as one from rates' ~> 'select 2'", "rates").id for _ in range(2)]
    for run in runs:
        ended(work, run)
    app.open(f"/runs/{runs[0]}?node={node(home, runs[0], 'rates')}").press("Skip…")
    app.fill("#f-value", '{"one": 1}')
    app.press("Skip the node")
    app.reads("The node is declared done.")
    home.sql("insert into rates values (1)")
    app.open(f"/runs/{runs[1]}").press("Resume…")
    app.press("Resume the run")
    app.reads("It goes on.")
    for run in runs:
        ended(work, run)
        assert home.sql("select df.status(%s)", run) == "completed"


def test_a_run_is_run_again_with_other_input(app: Browser, home: Database, work: Pump) -> None:
    run = home.sql("""select df.start('select $input.n as n', 'with input', input => '{"n": 1}')""")
    ended(work, run)
    app.open(f"/runs/{run}").press("Run again…")
    app.fill("#f-input", '{"n": 2}')
    app.press("Run it again")
    app.reads("This is the new run.")
    again = app.path.removeprefix("/runs/")
    assert again != run
    ended(work, again)
    assert home.sql("select df.result(%s)::jsonb #>> '{rows,0,n}'", again) == "2"


def test_what_the_database_refuses_is_said_in_its_words(app: Browser, home: Database, work: Pump) -> None:
    run = work.run("'select 1'", "done").id
    app.open(f"/runs/{run}/resume").press("Resume the run")
    app.reads("The database has refused this")
    app.reads("completed")


def test_the_keyboard_is_enough(app: Browser, waiting: str, home: Database, work: Pump) -> None:
    app.open("/runs?label=an+approval")
    app.keys(Keys.TAB)
    assert app.driver.switch_to.active_element.text == "Skip to the content"
    app.tab_to(waiting)
    app.keys(Keys.ENTER)
    app.wait(lambda: app.path == f"/runs/{waiting}")
    app.tab_to("Cancel…")
    app.keys(Keys.ENTER)
    app.wait(lambda: app.path.endswith("/cancel"))
    assert app.driver.switch_to.active_element.text == "Cancel the run"
    app.keys(Keys.ENTER)
    app.reads("It is being cancelled.")
    shape = f"#shape-{node(home, waiting, '$answer.data.amount')}"
    app.script(f"document.querySelector('{shape}').focus()")
    app.keys(Keys.ENTER)
    app.wait(lambda: "node=" in app.path)


def test_everything_works_without_scripts(plain_window: Browser, site: Site, waiting: str, home: Database) -> None:
    browser = plain_window
    browser.base = site.url
    browser.log_in()
    browser.wait(lambda: not browser.path.startswith("/login"))
    browser.open("/runs?label=an+approval")
    browser.fill("#f-definition", "none")
    browser.press("Filter")
    browser.reads("No run matches")
    browser.open(f"/runs/{waiting}").press("answer…")
    browser.fill("#f-data", '{"amount": 1}')
    browser.press("Send the signal")
    browser.reads("The signal is sent.")
    browser.press("Cancel…")
    browser.press("Cancel the run")
    browser.reads("It is being cancelled.")
    assert browser.one("time").text.endswith("Z"), "times are those of UTC"


def test_a_run_of_ten_thousand_nodes_folds(app: Browser, home: Database) -> None:
    branches = [json.dumps({"node_type": "SQL", "query": f"select {n}"}) for n in range(9_990)]
    flow = '{"node_type":"JOIN","left_node":%s,"right_node":%s,"extra_nodes":[%s]}'
    run = home.sql("select df.start(%s, 'large')", flow % (*branches[:2], ",".join(branches[2:])))
    app.open(f"/runs/{run}")
    assert home.sql("select count(*) from df.nodes where instance_id = %s", run) >= 9990
    assert 0 < len(app.all("#graph a")) <= 300, app.text[:2000]
    assert len(app.driver.page_source) < 500_000
    home.sql("select df.cancel(%s)", run)
