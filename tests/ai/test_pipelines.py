"""Pipelines: the sink is as the source is, and no text is sent twice."""

from typing import Any

import pytest
from psycopg import errors

from tests.ai.conftest import caught_up, create
from tests.ai.embeddings import Embeddings, embedding
from tests.support import Database, wait_until
from tests.worker.process import WorkerProcess

LOAD = """insert into documents (id, title, body, metadata)
select n, 'title ' || n, format('Document %%s speaks of word%%s. It has a second sentence about thing%%s.', n, n, n),
       '{"lang": "en"}'
from generate_series(1, %s) n"""

DOCS = "'docs', ai.table_source('documents')"


def sink(db: Database) -> list[tuple[Any, ...]]:
    """All chunks, in order."""
    return db.rows("select doc_id, chunk_index, chunk_text, embedding::text from documents_chunks order by 1, 2")


def test_a_load_is_embedded(library: Database, endpoint: Embeddings, worker: WorkerProcess) -> None:
    library.sql(LOAD, 30)
    create(library)
    found = caught_up(library)
    assert (found["state"], found["source_rows"], found["coverage"], found["backlog"]) == ("idle", 30, 100, 0)
    assert sorted(endpoint.sent) == sorted(row[2] for row in sink(library)) and set(endpoint.sent.values()) == {1}
    distance = "select max(embedding <-> %s::halfvec) from documents_chunks where chunk_text = %s"
    assert all(library.sql(distance, str(embedding(text)), text) < 0.01 for text in list(endpoint.sent)[:5])
    assert max(endpoint.requests) <= 8 and set(endpoint.tokens) == {"Bearer sk-0123456789"}


def test_one_run_can_be_waited_for_in_one_statement(
    library: Database, endpoint: Embeddings, worker: WorkerProcess
) -> None:
    """The statement that waits is older than the indexes, which wait for it."""
    library.sql(LOAD, 3)
    create(library)
    assert library.sql("select df.await_instance(%s, 60)", library.sql("select ai.run('docs')")) == "completed"
    wait_until(lambda: library.sql("select indexed from ai._generations"), 60)
    assert (
        library.sql("select count(*) from pg_index where indrelid = 'documents_chunks'::regclass and indisvalid") == 5
    )


def test_only_what_has_changed_is_sent_again(library: Database, endpoint: Embeddings, worker: WorkerProcess) -> None:
    library.sql(LOAD, 20)
    create(library)
    caught_up(library)
    endpoint.sent.clear()
    library.sql("update documents set updated_at = now()")
    library.sql("update documents set body = 'A text that is all new.' where id = 7")
    library.sql('update documents set metadata = \'{"lang": "de"}\' where id = 8')
    library.sql("delete from documents where id = 9")
    caught_up(library)
    assert dict(endpoint.sent) == {"A text that is all new.": 1}
    assert {row[0] for row in sink(library)} == set(range(1, 21)) - {9}
    assert library.sql("select metadata from documents_chunks where doc_id = 8 limit 1")["metadata"] == {"lang": "de"}


def test_a_text_that_moves_or_is_there_twice_is_sent_once(
    library: Database, endpoint: Embeddings, worker: WorkerProcess
) -> None:
    library.sql("insert into documents (id, body) values (1, 'The same text.'), (2, 'The same text.')")
    create(library, "ai.chunk('body', 24, 0), ai.embed('small')")
    caught_up(library)
    library.sql("update documents set body = 'Something before it.  The same text.' where id = 1")
    library.sql("update documents set id = 30 where id = 2")
    caught_up(library)
    assert dict(endpoint.sent) == {"The same text.": 1, "Something before it.": 1}
    assert [row[:3] for row in sink(library)] == [
        (1, 0, "Something before it."), (1, 1, "The same text."), (30, 0, "The same text.")
    ]  # fmt: skip


def test_a_load_is_noted_in_the_queue(library: Database) -> None:
    create(library)
    library.sql(LOAD, 1000)
    assert library.sql("select count(*) from documents_chunks_queue_1") == 1000


def test_truncate_clears_the_sink(library: Database, endpoint: Embeddings, worker: WorkerProcess) -> None:
    library.sql(LOAD, 3)
    create(library)
    caught_up(library)
    library.sql("truncate documents cascade")
    caught_up(library)
    assert sink(library) == []


def test_a_key_of_several_columns_and_a_template(
    library: Database, endpoint: Embeddings, worker: WorkerProcess
) -> None:
    library.sql('create table notes (lang text, "No" bigint, head text, body text, primary key (lang, "No"))')
    library.sql("insert into notes values ('de', 1, 'Kopf', 'Ein Satz.'), ('en', 1, null, 'A sentence.')")
    library.sql("""select ai.create_pipeline('notes', ai.table_source('notes'),
      array[ai.chunk('body', template => '{head}: {chunk} ({x'), ai.embed('small')],
      sink => ai.table_sink('notes_v'))""")
    caught_up(library, "notes")
    library.sql("update notes set lang = 'fr' where lang = 'de'")
    caught_up(library, "notes")
    rows = library.rows('select doc_lang, "doc_No", chunk_text from notes_v order by 1')
    assert rows == [("en", 1, ": A sentence. ({x"), ("fr", 1, "Kopf: Ein Satz. ({x")]
    assert set(endpoint.sent.values()) == {1}


def test_a_manual_pipeline_works_when_it_is_told_to(
    library: Database, endpoint: Embeddings, worker: WorkerProcess
) -> None:
    library.sql(LOAD, 5)
    create(library, more=", trigger => 'manual'")
    caught_up(library)
    library.sql("update documents set body = 'New.', updated_at = now() where id = 1")
    library.sql("delete from documents where id = 2")
    endpoint.sent.clear()
    caught_up(library)
    assert dict(endpoint.sent) == {"New.": 1} and {row[0] for row in sink(library)} == {1, 3, 4, 5}


def test_a_pipeline_that_is_paused_sends_nothing(
    library: Database, endpoint: Embeddings, worker: WorkerProcess
) -> None:
    create(library)
    caught_up(library)
    library.sql("select ai.pause('docs', 'a rest')")
    library.sql(LOAD, 5)
    found = caught_up(library)
    assert (found["state"], found["reason"], found["backlog"], endpoint.sent.total()) == ("paused", "a rest", 5, 0)
    library.sql("select ai.resume('docs')")
    assert caught_up(library)["coverage"] == 100


def test_another_address_of_the_model_is_used_by_what_runs(
    library: Database, endpoint: Embeddings, worker: WorkerProcess
) -> None:
    create(library)
    library.sql("select ai.set_model('small', %s, 'tiny-16', 16, batch_size => 2)", endpoint.address + "?again")
    library.sql(LOAD, 3)
    assert caught_up(library)["coverage"] == 100
    assert set(endpoint.tokens) == {""}


def test_a_backfill_goes_through_the_rows_that_meet_a_condition(
    library: Database, endpoint: Embeddings, worker: WorkerProcess
) -> None:
    library.sql(LOAD, 5)
    create(library)
    caught_up(library)
    library.sql("delete from documents_chunks")
    run = library.sql("select ai.backfill('docs', 'id <= 2')")
    wait_until(lambda: library.sql("select df.status(%s)", run) == "completed", 60)
    assert {row[0] for row in sink(library)} == {1, 2}
    with pytest.raises(errors.UndefinedColumn):
        library.sql("select ai.backfill('docs', 'missing > 1')")


def test_dropping_leaves_the_sink_and_nothing_else(library: Database, endpoint: Embeddings) -> None:
    create(library)
    library.sql("select ai.drop_pipeline('docs')")
    library.sql(LOAD, 1)
    left = "select array_agg(relname::text order by 1) from pg_class where relname like 'documents%' and relkind = 'r'"
    assert library.sql(left) == ["documents", "documents_chunks"]
    assert library.sql("select count(*) from pg_proc where proname like 'documents%'") == 0
    assert library.rows("select * from ai.list_pipelines()") == []
    create(library, more=", trigger => '0 3 * * *'") if library.sql("drop table documents_chunks") else None


def test_explain_shows_the_flow(library: Database) -> None:
    create(library)
    drawn = library.sql("select ai.explain('docs')")
    assert all(part in drawn for part in ("ai._take_changes", "POST", "ai-model:small", "CREATE INDEX CONCURRENTLY"))


def test_a_sink_of_ones_own(library: Database, endpoint: Embeddings, worker: WorkerProcess) -> None:
    library.sql("""create table mine (
      doc_id int, chunk_index int, chunk_text text, embedding halfvec(16), metadata jsonb, model text,
      content_hash text, unique (doc_id, chunk_index))""")
    library.sql(LOAD, 2)
    library.sql(f"""select ai.create_pipeline({DOCS}, array[ai.embed('small', 'body')],
                                             sink => ai.table_sink('mine', create_table => false))""")
    assert caught_up(library)["coverage"] == 100
    library.sql("delete from documents where id = 1")
    caught_up(library)
    assert library.rows("select doc_id, model from mine") == [(2, "tiny-16")]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("'docs', '{{}}', array[ai.embed('small', 'body')]", "source must be what ai.table_source returns"),
        ("{docs}, array['{{}}'::jsonb]", "steps must be an array"),
        ("{docs}, array[ai.chunk('body')]", "its steps have no ai.embed"),
        ("{docs}, array[ai.embed('big', 'body')]", 'there is no model "big"'),
        ("{docs}, array[ai.embed('small', 'text')]", 'has no column "text"'),
        (
            "{docs}, array[ai.embed('small', 'body', 17)]",
            "has 16 dimensions, and ai.embed says 17",
        ),
        (
            "{docs}, array[ai.embed('small', 'body')], 'daily'",
            "trigger must be on_change",
        ),
        ("'docs', ai.table_source('no_key'), array[ai.embed('small', 'body')]", "has no primary key"),
        (
            "{docs}, array[ai.embed('small', 'body')], sink => ai.table_sink('no_key')",
            "there is a table",
        ),
        (
            "{docs}, array[ai.embed('small', 'body')], sink => ai.table_sink('no_key', false)",
            "has no column",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_once(library: Database, arguments: str, says: str) -> None:
    library.sql("create table no_key (body text)")
    with pytest.raises(errors.Error, match=says):
        library.sql(f"select ai.create_pipeline({arguments.format(docs=DOCS)})")
    assert library.rows("select * from ai.list_pipelines()") == []


@pytest.mark.parametrize(
    "name", ["extract('small', 'body')", "generate('small', 'body')", "rank('small')", "sql('f')", "approve()"]
)
def test_what_is_not_supported_says_so(library: Database, name: str) -> None:
    with pytest.raises(errors.FeatureNotSupported, match="not supported yet"):
        library.sql(f"select ai.{name}")
