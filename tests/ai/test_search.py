"""Search: by vector, by text, by both; what a filter does; generations that take each other's place."""

from typing import Any

import pytest
from psycopg import errors

from tests.ai.conftest import caught_up, create
from tests.ai.embeddings import Embeddings, embedding
from tests.support import Database, wait_until
from tests.worker.process import WorkerProcess

TEXTS = [
    "Refunds are paid within a week.",
    "Parcels travel by train.",
    "A refund of parcels needs a letter.",
    "Cats sleep.",
]


@pytest.fixture
def answers(library: Database, endpoint: Embeddings, worker: WorkerProcess) -> Database:
    """A pipeline over a few texts, in two languages."""
    for number, text in enumerate(TEXTS):
        library.sql(
            "insert into documents (id, title, body) values (%s, %s, %s)", number, "en" if number < 3 else "de", text
        )
    create(library)
    caught_up(library)
    return library


def found(db: Database, call: str, *args: Any) -> list[tuple[str, str]]:
    """Documents, and by what they were found."""
    return [(row[0], row[1]) for row in db.rows(f"select doc_id, found_by from {call}", *args)]


def test_full_text_alone_finds_and_says_so(answers: Database) -> None:
    rows = found(answers, "ai.search('docs', 'How do refunds work?')")
    assert sorted(rows) == [("0", "text"), ("2", "text")]


def test_a_query_whose_embedding_is_known_is_searched_by_vector_too(answers: Database, endpoint: Embeddings) -> None:
    run = answers.sql("select ai.embed_query('docs', %s)", "{x} $y refunds?")
    wait_until(lambda: answers.sql("select df.status(%s)", run) == "completed", 60)
    assert "{x} $y refunds?" in endpoint.sent
    rows = dict(found(answers, "ai.search('docs', %s)", "{x} $y refunds?"))
    assert rows["0"] == rows["3"] == "vector", "no text has all the words"


def test_a_vector_finds_what_is_near(answers: Database) -> None:
    vector = str(embedding("cats sleep"))
    assert found(answers, "ai.search_vector('docs', %s, k => 1)", vector) == [("3", "vector")]
    assert found(answers, "ai.search_vector('docs', %s::vector, k => 1)", vector) == [("3", "vector")]


def test_a_filter_is_a_condition_on_the_sink(answers: Database) -> None:
    filtered = found(
        answers, "ai.search_vector('docs', %s, filter => %s)", str(embedding("parcels")), "metadata ->> 'title' = 'de'"
    )
    assert filtered == [("3", "vector")]
    with pytest.raises(errors.UndefinedColumn):
        found(answers, "ai.search('docs', 'x', filter => 'missing = 1')")


def test_an_embedding_of_another_size_is_refused_with_both_numbers(answers: Database) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="has 3 dimensions, and those of the pipeline have 16"):
        found(answers, "ai.search_vector('docs', '[1, 2, 3]')")


def test_another_model_takes_the_place_of_the_first_when_it_is_complete(
    answers: Database, endpoint: Embeddings
) -> None:
    answers.sql("select ai.set_model('large', %s, 'tiny-16-v2', 16, batch_size => 2)", endpoint.address)
    before = endpoint.sent.total()
    answers.sql("select ai.alter_pipeline('docs', model => 'large')")
    seen = set()

    def promoted() -> bool:
        seen.add(len(found(answers, "ai.search_vector('docs', %s, k => 4)", str(embedding("refund")))))
        return bool(answers.sql("select generation from ai.list_pipelines()") == 2)

    wait_until(promoted, 90)
    assert seen == {4}
    assert endpoint.sent.total() == before + 4
    assert answers.rows("select distinct model from documents_chunks") == [("tiny-16-v2",)]
    assert answers.sql("select to_regclass('documents_chunks_g2')") is None
    answers.sql("update documents set body = 'Dogs bark.' where id = 3")
    assert caught_up(answers)["coverage"] == 100


def test_other_sizes_do_not_send_what_is_known(answers: Database, endpoint: Embeddings) -> None:
    before = endpoint.sent.total()
    answers.sql("select ai.alter_pipeline('docs', steps => array[ai.chunk('body', 100, 0), ai.embed('small')])")
    wait_until(lambda: answers.sql("select generation from ai.list_pipelines()") == 2, 90)
    assert endpoint.sent.total() == before
    assert caught_up(answers)["coverage"] == 100


def test_altered_back_nothing_is_left(answers: Database) -> None:
    answers.sql("select ai.pause('docs')")
    answers.sql("select ai.alter_pipeline('docs', steps => array[ai.chunk('body', 100, 0), ai.embed('small')])")
    assert len(answers.rows("select * from ai.status('docs')")) == 2
    answers.sql("select ai.alter_pipeline('docs', steps => array[ai.chunk('body', 60, 10), ai.embed('small')])")
    assert len(answers.rows("select * from ai.status('docs')")) == 1
    assert answers.sql("select to_regclass('documents_chunks_g2')") is None
