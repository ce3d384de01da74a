"""Installing: what is refused, that it may be done again; and what holds for every function and table of ai."""

import psycopg
import pytest
from psycopg import errors

from generator.reference import AI_PAGE, ai_reference
from generator.render import ROOT, artifacts
from tests.ai.conftest import create, install_ai
from tests.support import Database, Server, install

SCRIPT = artifacts()["dist/pg_durable_ai.sql"]
PIN = "search_path=pg_catalog, pg_temp"


def test_without_pg_durable_it_is_refused(db: Database) -> None:
    db.admin("drop schema ai cascade; drop schema df, df_engine cascade")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="pg_durable is not installed"):
        install(db.dsn(), SCRIPT)


def test_without_pgvector_it_is_refused(db: Database) -> None:
    db.admin("drop schema ai cascade; drop extension vector")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="pgvector is not installed"):
        install(db.dsn(), SCRIPT)
    assert db.admin("select to_regnamespace('ai')") is None


def test_with_an_older_pgvector_it_is_refused(db: Database) -> None:
    db.admin("drop schema ai cascade; update pg_extension set extversion = '0.6.2' where extname = 'vector'")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match=r"need pgvector 0.7 or later, and this is 0.6.2"):
        install(db.dsn(), SCRIPT)


def test_a_schema_of_somebody_else_is_refused(db: Database) -> None:
    db.admin("drop schema ai cascade; create schema ai")
    with pytest.raises(errors.DuplicateSchema):
        install(db.dsn(), SCRIPT)


def test_installed_again_pipelines_stay(library: Database) -> None:
    run = create(library)
    install_ai(library.dsn())
    assert library.rows("select name, instance_id from ai.list_pipelines()") == [("docs", run)]


def test_bodies_compile(db: Database) -> None:
    with db.connect() as conn:
        conn.execute("set check_function_bodies = on")
        conn.execute(
            """select case l.lanname when 'sql' then fmgr_sql_validator(p.oid) else plpgsql_validator(p.oid) end
               from pg_proc p join pg_language l on l.oid = p.prolang where p.pronamespace = 'ai'::regnamespace"""
        )


def test_every_function_is_pinned_and_has_no_rights_but_its_callers(shared: Database) -> None:
    rows = shared.rows("""select oid::regprocedure::text, proconfig, prosecdef from pg_proc
                          where pronamespace = 'ai'::regnamespace""", user=None)  # fmt: skip
    assert [name for name, config, definer in rows if PIN not in (config or []) or definer] == []


def test_everything_has_a_comment(shared: Database) -> None:
    rows = shared.rows("""
      select oid::regprocedure::text from pg_proc where pronamespace = 'ai'::regnamespace and proname !~ '^_'
        and obj_description(oid, 'pg_proc') is null
      union all
      select oid::regclass::text from pg_class where relnamespace = 'ai'::regnamespace and relkind in ('r', 'v')
        and obj_description(oid, 'pg_class') is null""", user=None)  # fmt: skip
    assert rows == []


def test_public_has_nothing(shared: Database) -> None:
    assert shared.admin("select has_schema_privilege('public', 'ai', 'usage, create')") is False
    query = """select oid::regclass::text from pg_class c where relnamespace = 'ai'::regnamespace
               and exists (select from aclexplode(c.relacl) a where a.grantee = 0)"""
    rows = shared.rows(query, user=None)
    assert rows == []


def test_every_table_has_row_security(shared: Database) -> None:
    """The owner's rows are no exception."""
    rows = shared.rows("""select relname::text from pg_class where relnamespace = 'ai'::regnamespace and relkind = 'r'
                          and not (relrowsecurity and relforcerowsecurity)""", user=None)  # fmt: skip
    assert rows == [("_release",)]


def test_another_role_sees_and_changes_nothing(library: Database) -> None:
    create(library)
    for table in ("models", "_pipelines", "_generations", "_usage", "failures", "usage"):
        assert library.sql(f"select count(*) from ai.{table}", user="other") == 0
    with pytest.raises(errors.UndefinedObject, match='there is no pipeline "docs"'):
        library.sql("select ai.pause('docs')", user="other")
    with pytest.raises(errors.InsufficientPrivilege):
        values = "values ('app', 'x', '{}', 'skip')"
        library.sql(f"insert into ai._pipelines (owner, name, definition, error_handling) {values}", user="other")


def test_nobody_adds_to_the_pipeline_of_a_role_that_sees_all(library: Database) -> None:
    """What a generation says is run by whoever owns its pipeline: row security does not hide it from all of them."""
    create(library)
    library.sql("create schema theirs authorization other", user=None)
    library.sql("create view theirs.sink as select 1 as chunk_index", user="other")
    pipeline, generation = (
        library.admin("select pipeline from ai._generations"),
        library.admin("select id from ai._generations"),
    )
    with pytest.raises(errors.ForeignKeyViolation):
        library.sql(
            "insert into ai._generations (pipeline, number, serving, plan, model, source, sink, queue) "
            "select %s, 2, true, '{}', 'small', r, r, r from (select 'theirs.sink'::regclass) x(r)",
            pipeline,
            user="other",
        )
    with pytest.raises(errors.ForeignKeyViolation):
        library.sql(
            "insert into ai._refusals (generation, content_hash, error) values (%s, 'x', 'forged')",
            generation,
            user="other",
        )


def test_who_writes_to_the_source_needs_no_rights_on_the_pipeline(library: Database) -> None:
    create(library)
    library.sql("grant insert, update, delete, select on documents to other")
    library.sql("insert into documents (id, body) values (1, 'by another')", user="other")
    assert library.rows("select id from documents_chunks_queue_1") == [(1,)]
    with pytest.raises(errors.InsufficientPrivilege):
        library.sql("select * from documents_chunks_queue_1", user="other")


def test_the_reference_is_fresh(db: Database) -> None:
    with psycopg.connect(db.dsn()) as conn:
        assert AI_PAGE.read_text("utf-8") == ai_reference(conn), "run: python -m generator.reference"


def test_the_page_runs(db: Database, server: Server) -> None:
    """All that docs/ai.md shows, in order, without a worker."""
    blocks = (ROOT / "docs/ai.md").read_text().split("```SQL\n")[1:]
    assert len(blocks) == 5
    for block in blocks:
        for statement in block.split("```")[0].split(";\n"):
            db.sql(statement)
