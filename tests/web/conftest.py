"""A server that asks for passwords over TCP and trusts the tests' socket; the page on it; a browser."""

from collections.abc import Iterator

import psycopg
import pytest

pytest.importorskip("selenium", reason="the tests of the page need selenium")

from pg_durable.web.options import Options

from generator.render import artifacts
from tests.cluster import Cluster, free_port, under_test
from tests.support import Database, Pump, Server, install
from tests.web.browser import Browser
from tests.web.site import Site

ROLES = ("app", "other", "watcher")
RULES = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The server."""
    port = free_port()
    options = {"listen_addresses": "127.0.0.1", "port": str(port), "password_encryption": "scram-sha-256"}
    with Cluster(under_test(), options) as made:
        made.write("pg_hba.conf", RULES)
        made.reload()
        with psycopg.connect(made.dsn(), autocommit=True) as conn:
            conn.execute("create database template_web encoding 'UTF8' template template0")
            conn.execute("create role durable_worker login")
            for role in ROLES:
                conn.execute(f"create role {role} login password 'secret of {role}'".encode())
        install(made.dsn("template_web"), artifacts()["dist/pg_durable.sql"])
        with psycopg.connect(made.dsn("template_web"), autocommit=True) as conn:
            conn.execute("grant create on schema public to app, other")
            conn.execute("select df.grant_usage('app', include_http => true), df.grant_usage('other')")
            conn.execute("select df.grant_worker('durable_worker'), df.grant_monitor('watcher')")
        yield made


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> Iterator[Database]:
    """The database of a module."""
    database = Database.clone(Server(cluster.dsn()), "template_web")
    database.sql("create table fx (i int, t text)")
    yield database
    database.drop()


@pytest.fixture(scope="module")
def work(home: Database) -> Iterator[Pump]:
    """Runs what app has started."""
    pump = Pump(home)
    yield pump
    pump.close()


@pytest.fixture(scope="module")
def options(cluster: Cluster, home: Database) -> Options:
    """How the page of a module is started."""
    return Options(f"host=127.0.0.1 port={cluster.options['port']} dbname={home.name}")


@pytest.fixture(scope="module")
def site(options: Options) -> Iterator[Site]:
    """The page of a module."""
    site = Site(options)
    yield site
    site.stop()


@pytest.fixture(scope="session")
def window() -> Iterator[Browser]:
    """The browser of all tests."""
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def browser(window: Browser, site: Site) -> Iterator[Browser]:
    """The browser at the page of the module; nobody is logged in, and nothing of the test before is left."""
    window.base = site.url
    window.size(1280)
    window.scheme("light")
    window.open("/login").forget()
    site.ahead = 0.0
    site.state.attempts.forget()
    window.complaints.clear()
    yield window
    window.open("/healthz")


@pytest.fixture
def app(browser: Browser) -> Browser:
    """The browser, logged in as app."""
    browser.log_in()
    browser.wait(lambda: not browser.path.startswith("/login"))
    return browser
