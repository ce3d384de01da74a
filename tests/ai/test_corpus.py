"""The corpus of the example: the same everywhere, large enough, with questions about what is in it."""

import hashlib
import json
from dataclasses import astuple

from examples.rag.corpus import documents, questions
from tests.support import Database

CHUNKS = """
select count(*) from unnest(%s::text[]) b cross join lateral ai.chunk_text(b, 'recursive', 512, 64, 'characters')"""


def test_it_is_the_same_everywhere() -> None:
    text = json.dumps([astuple(document) for document in documents(20)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "498f9f01419179cc"
    assert documents(100)[:73] == documents(20)


def test_it_has_more_than_2000_chunks(shared: Database) -> None:
    found = documents()
    assert shared.sql(CHUNKS, [document.body for document in found]) > 2000
    assert len({document.body for document in found}) == len(found)


def test_questions_are_about_what_is_in_it() -> None:
    titles = {document.id: document.title for document in documents(0)}
    asked = questions()
    assert {question.document for question in asked} == set(titles)
    assert sum(not question.quotes for question in asked) >= 40
    assert len({question.text for question in asked}) == len(asked)
