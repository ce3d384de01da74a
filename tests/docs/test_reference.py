"""docs/reference.md is what the installed objects say about themselves."""

import psycopg

from generator.reference import PAGE, reference
from tests.support import Database


def test_the_reference_is_fresh(db: Database) -> None:
    with psycopg.connect(db.dsn()) as conn:
        assert PAGE.read_text("utf-8") == reference(conn), "run: python -m generator.reference"


def test_every_object_has_a_comment(db: Database) -> None:
    assert db.admin(BARE) == []


BARE = """
select coalesce(jsonb_agg(b.name), '[]')
from (select p.oid::regprocedure::text from pg_proc p
      where p.pronamespace = 'df'::regnamespace and obj_description(p.oid, 'pg_proc') is null
      union all
      select c.oid::regclass::text from pg_class c
      where c.relnamespace = 'df'::regnamespace and c.relkind in ('r', 'v')
        and obj_description(c.oid, 'pg_class') is null
     ) as b(name)"""
