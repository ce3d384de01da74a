"""What is asked and answered below the pages: forms that are not ours, headers, answers that have not changed."""

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pg_durable.web.options import Options
from pg_durable.web.queries import QUERIES, text_of

from tests.cluster import Cluster
from tests.support import Database, wait_until
from tests.web.site import Site

# What statements are given where NULL would not do.
VALUES: dict[str, Any] = {
    "id": "00000000", "node": "00000000", "ids": [], "names": [], "scan": 50, "limit": 10, "undo": False,
    "value": "null",
}  # fmt: skip


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    """Who is logged in as app."""
    with httpx.Client(base_url=site.url) as made:
        site.state.attempts.forget()
        made.post("/login", data={"role": "app", "password": "secret of app"})
        yield made


@pytest.fixture(scope="module")
def run(home: Database) -> str:
    """A run of app."""
    return str(home.sql("select df.start('df.sleep(3600)', 'a run')"))


@pytest.mark.parametrize("token", [None, "", "a guess"])
def test_a_form_without_the_token_of_the_session_does_nothing(
    client: httpx.Client, home: Database, run: str, token: str | None
) -> None:
    form = {"reason": "forged"} | ({} if token is None else {"csrf": token})
    for path in (f"/runs/{run}/cancel", "/runs/all/cancel", "/logout"):
        answer = client.post(path, data=form | {"ids": run})
        assert answer.status_code == 403
        assert "did not come from this page" in answer.text
    assert home.sql("select df.status(%s)", run) != "cancelled"


def test_an_address_alone_changes_nothing(client: httpx.Client, home: Database, run: str) -> None:
    assert client.get(f"/runs/{run}/cancel?reason=forged").status_code == 200
    assert client.get("/runs/all/cancel").status_code == 200
    assert home.sql("select df.status(%s)", run) != "cancelled"


def test_what_has_not_changed_is_not_sent_again(client: httpx.Client, run: str) -> None:
    for path in ("/runs?label=none", f"/runs/{run}/cancel"):
        first = client.get(path)
        again = client.get(path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_every_answer_has_its_headers(client: httpx.Client) -> None:
    for path in ("/runs", "/login", "/nowhere", "/static/app.css", "/healthz"):
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self';" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers
    assert client.get("/healthz").text == "ok\n"


def test_texts_of_other_kinds_are_no_runs(client: httpx.Client, home: Database) -> None:
    for key in ("select%201", "@name", "0000000", "00000000%27", "pg_sleep(1)"):
        assert client.get(f"/runs/{key}").status_code == 404


def test_after_the_login_one_stays_on_the_page(site: Site) -> None:
    for target in ("//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"):
        site.state.attempts.forget()
        form = {"role": "app", "password": "secret of app", "next": target}
        assert httpx.post(f"{site.url}/login", data=form).headers["location"] == "/"


def test_cookies_of_others_are_worth_nothing(site: Site, client: httpx.Client) -> None:
    cookie = client.cookies["pg_durable_session"]
    for forged in (cookie[:-4] + "AAAA", "", "x" * 5000):
        answer = httpx.get(f"{site.url}/runs", cookies={"pg_durable_session": forged})
        assert answer.headers["location"] == "/login?next=%2Fruns"


def test_a_page_that_only_shows_changes_nothing(options: Options, home: Database, run: str) -> None:
    site = Site(replace(options, read_only=True))
    with httpx.Client(base_url=site.url) as client:
        client.post("/login", data={"role": "app", "password": "secret of app"})
        page = client.get(f"/runs/{run}").text
        assert "read-only" in page and "Cancel…" not in page
        session = site.state.sessions.read(client.cookies["pg_durable_session"])
        answer = client.post(f"/runs/{run}/cancel", data={"csrf": session.csrf})
        assert answer.status_code == 403 and "--read-only" in answer.text
    site.stop()
    assert home.sql("select df.status(%s)", run) != "cancelled"


def test_who_is_logged_in_by_itself_is_so_for_this_machine_alone(cluster: Cluster, home: Database) -> None:
    site = Site(Options(cluster.dsn(home.name), login_as="app"))
    assert httpx.get(f"{site.url}/runs").status_code == 200
    assert httpx.get(f"{site.url}/runs", headers={"host": "evil.example"}).status_code == 421
    site.stop()


def test_a_server_that_asks_for_no_password_lets_nobody_in(cluster: Cluster, home: Database) -> None:
    site = Site(Options(cluster.dsn(home.name)))
    answer = httpx.post(f"{site.url}/login", data={"role": "app", "password": "anything"})
    assert answer.status_code == 403
    assert "would let everybody in" in answer.text
    site.stop()


def test_all_tabs_of_a_role_share_an_answer(site: Site, client: httpx.Client) -> None:
    pool = site.state.database.pool(site.state.sessions.read(client.cookies["pg_durable_session"]))
    asked: list[str] = []
    execute = pool._execute

    async def counted(text: str) -> Any:
        asked.append(text)
        return await execute(text)

    pool._execute = counted
    with ThreadPoolExecutor(8) as tabs:
        answers = [*tabs.map(lambda _: client.get("/runs?label=shared").status_code, range(16))]
    assert answers == [200] * 16
    assert len(asked) < 16


def test_the_database_goes_down_and_comes_back(cluster: Cluster, site: Site, client: httpx.Client, run: str) -> None:
    assert run in client.get("/runs").text
    cluster.stop()
    try:
        wait_until(lambda: client.get("/runs").status_code == 503, 30)
        answer = client.get("/runs")
        assert "The database does not answer" in answer.text
        assert answer.headers["refresh"] == "5"
        assert httpx.post(f"{site.url}/login", data={"role": "app", "password": "x"}).status_code == 503
        assert httpx.get(f"{site.url}/healthz").text == "ok\n"
    finally:
        cluster.start()
    wait_until(lambda: client.get("/runs").status_code == 200, 30)
    assert run in client.get("/runs").text


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_each_statement_is_one_that_the_database_takes(home: Database, name: str) -> None:
    text = text_of(name, defaultdict(lambda: None, VALUES))
    assert "df_engine" not in text, "public views and functions alone"
    with home.connect("app") as conn:
        conn.execute(f"prepare p as {text}".encode())
