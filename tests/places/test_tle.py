"""dist/pg_durable.tle.sql against stand-ins for the functions of pg_tle, which is not here: they record their calls.

What they have recorded is put where CREATE EXTENSION finds it, and installed by an owner who is no superuser. What
pg_tle itself makes of the same calls is not shown here.
"""

import subprocess
from pathlib import Path

import pytest

from generator.render import ROOT, control, extension, language_extension, release
from tests.places.conftest import MakeCluster, Spawn, extensions
from tests.places.flight import begin, finish
from tests.support import Database, Server

VERSION, NEXT = release()[0], "99.0.0"
FILE = ROOT / "dist/pg_durable.tle.sql"
STAND_INS = """
create schema pgtle;
create table pgtle.calls (number int generated always as identity, name text, arguments text[]);
create table pgtle.known (name name, version name);
create function pgtle.available_extensions(out name name, out default_version name, out comment text)
  returns setof record language sql as $$ select distinct k.name, k.version, '' from pgtle.known k $$;
create function pgtle.available_extension_versions(out name name, out version name)
  returns setof record language sql as $$ select k.name, k.version from pgtle.known k $$;
create function pgtle.install_extension(name text, version text, description text, ext text)
  returns boolean language sql as $$
  insert into pgtle.known values (name, version);
  insert into pgtle.calls (name, arguments) values ('install_extension', array[name, version, description, ext])
  returning true $$;
create function pgtle.install_update_path(name text, fromvers text, tovers text, ext text)
  returns boolean language sql as $$
  insert into pgtle.known values (name, tovers);
  insert into pgtle.calls (name, arguments) values ('install_update_path', array[name, fromvers, tovers, ext])
  returning true $$;
create function pgtle.set_default_version(name text, version text)
  returns boolean language sql as $$
  insert into pgtle.calls (name, arguments) values ('set_default_version', array[name, version]) returning true $$;
grant usage on schema pgtle to owner;
grant all on all tables in schema pgtle to owner"""


class Shop:
    """A database with the stand-ins, on a server without the files of pg_durable; its owner is no superuser."""

    def __init__(self, programs: Path, make: MakeCluster) -> None:
        cluster = make(programs)
        self.psql = cluster.bin / "psql"
        self.folder = extensions(programs.parent)
        server = Database(Server(cluster.dsn()), "postgres")
        for role in ("owner", "app", "durable_worker"):
            server.admin(f"create role {role} login")
        server.admin("create database shop owner owner")
        self.db = Database(Server(cluster.dsn()), "shop")
        self.db.admin(STAND_INS)
        for file in self.folder.glob("pg_durable*"):
            file.unlink()

    def register(self, file: Path = FILE) -> list[tuple[str, list[str]]]:
        """Runs the file as the owner, with psql: what it has asked pg_tle to do."""
        self.db.admin("truncate pgtle.calls")
        line = [str(self.psql), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(file)]
        done = subprocess.run([*line, self.db.dsn("owner")], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return [(name, given) for name, given in self.db.rows("select name, arguments from pgtle.calls", user=None)]

    def provide(self, versions: str, script: str) -> None:
        """Puts a script where pg_tle would have CREATE EXTENSION find it."""
        (self.folder / "pg_durable.control").write_text(control())
        (self.folder / f"pg_durable--{versions}.sql").write_text(script)

    def serve(self, spawn: Spawn) -> None:
        """A worker for the database, and a role that uses it, by the grants of the owner."""
        self.db.admin("grant create on schema public to app")
        self.db.sql("select df.grant_usage('app'), df.grant_worker('durable_worker')", user="owner")
        assert self.db.admin("select bool_or(rolsuper) from pg_roles where rolname in ('owner', 'app')") is False
        spawn(self.db)


@pytest.fixture
def shop(equipped: Path, make: MakeCluster) -> Shop:
    return Shop(equipped, make)


@pytest.mark.slow
def test_what_the_file_registers_is_installed_by_an_owner_and_serves(shop: Shop, spawn: Spawn) -> None:
    [(name, given)] = shop.register()
    assert (name, given[:2]) == ("install_extension", ["pg_durable", VERSION])
    assert f"comment = '{given[2]}'" in control()
    assert given[3].removeprefix("\n") == extension()
    assert shop.register() == [], "run again it changes nothing"
    shop.provide(VERSION, given[3])
    shop.db.sql("create extension pg_durable", user="owner")
    shop.serve(spawn)
    finish(shop.db, begin(shop.db))
    shop.db.sql("drop extension pg_durable", user="owner")
    assert shop.db.admin("select to_regnamespace('df') is null")


@pytest.mark.slow
def test_the_next_version_updates_with_runs_in_flight(shop: Shop, spawn: Spawn, tmp_path: Path) -> None:
    [(_, given)] = shop.register()
    shop.provide(VERSION, given[3])
    shop.db.sql("create extension pg_durable", user="owner")
    shop.serve(spawn)
    runs = begin(shop.db)
    (tmp_path / "next.sql").write_text(language_extension(version=NEXT, oldest_upgradable=VERSION))
    (path, given), default = shop.register(tmp_path / "next.sql")
    assert (path, given[:3]) == ("install_update_path", ["pg_durable", VERSION, NEXT])
    assert default == ("set_default_version", ["pg_durable", NEXT])
    assert shop.register(tmp_path / "next.sql") == [], "run again it changes nothing"
    shop.provide(f"{VERSION}--{NEXT}", given[3])
    shop.db.sql(f"alter extension pg_durable update to '{NEXT}'", user="owner")
    assert shop.db.admin("select version from df_engine.release") == NEXT
    finish(shop.db, runs)
