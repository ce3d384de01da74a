"""Chunking: nothing is lost, sizes hold, the overlap is the end of the chunk before, and time is linear."""

import itertools
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import errors

from tests.support import Database

METHODS = ("recursive", "sentence", "markdown", "fixed", "none")
BLANKS = " \t\n\x0b\f\r"
QUERY = "select chunk_text, place, headings, chunk_index from ai.chunk_text(%s, %s, %s, %s, %s) order by chunk_index"

words = st.text(alphabet="abcdefgzäß漢字。'-é", min_size=1, max_size=12)
seams = st.sampled_from(
    [" ", "  ", ". ", "! ", "\n", "\n\n", "。", "\n# Heading\n", "\n## A b\n\n", "\n```\n", "\t", ""]
)
texts = st.lists(st.tuples(words, seams), max_size=60).map(lambda parts: "".join(a + b for a, b in parts))
sizes = st.integers(4, 80).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size // 2)))
hypothesis = settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def chunks(db: Database, text: str | None, *arguments: Any) -> list[Any]:
    """(text, place) of each chunk, in order. arguments: method, size, overlap, and the unit if not characters."""
    rows = db.rows(QUERY, text, *arguments, *(["characters"] if len(arguments) == 3 else []))
    assert [row[3] for row in rows] == list(range(len(rows)))
    return [(row[0], row[1]) for row in rows]


@hypothesis
@given(texts, sizes, st.sampled_from(METHODS), st.sampled_from(["characters", "tokens"]))
def test_no_character_is_lost_and_each_chunk_is_a_part_of_the_text(
    shared: Database, text: str, bounds: tuple[int, int], method: str, unit: str
) -> None:
    covered: set[int] = set()
    for chunk, place in chunks(shared, text, method, *bounds, unit):
        assert text[place - 1 : place - 1 + len(chunk)] == chunk
        assert chunk.strip(BLANKS) == chunk != ""
        covered.update(range(place - 1, place - 1 + len(chunk)))
    assert {index for index, letter in enumerate(text) if letter not in BLANKS} <= covered


@hypothesis
@given(texts, sizes, st.sampled_from(["recursive", "sentence", "markdown", "fixed"]),
       st.sampled_from(["characters", "tokens"]))  # fmt: skip
def test_no_chunk_is_larger_than_it_may_be(
    shared: Database, text: str, bounds: tuple[int, int], method: str, unit: str
) -> None:
    found = [chunk for chunk, _ in chunks(shared, text, method, *bounds, unit)]
    measured = [
        len(chunk) if unit == "characters" else shared.sql("select ai.count_tokens(%s)", chunk) for chunk in found
    ]
    assert all(size <= bounds[0] for size in measured)


@hypothesis
@given(texts, sizes, st.sampled_from(["recursive", "sentence", "fixed"]))
def test_two_chunks_share_no_more_than_the_overlap(
    shared: Database, text: str, bounds: tuple[int, int], method: str
) -> None:
    found = chunks(shared, text, method, *bounds)
    for (first, place), (second, start) in itertools.pairwise(found):
        assert place < start, "each chunk has something new"
        assert place + len(first) < start + len(second)
        assert place + len(first) - start <= bounds[1]


@hypothesis
@given(st.lists(st.text(alphabet="abc", min_size=1, max_size=5), min_size=20, max_size=60), st.integers(6, 20))
def test_the_overlap_is_as_many_whole_words_as_fit(shared: Database, text: list[str], overlap: int) -> None:
    found = chunks(shared, " ".join(text), "recursive", 40, overlap)
    for (first, place), (_, start) in itertools.pairwise(found):
        shared_part = first[start - place :]
        assert first.endswith(shared_part) and len(shared_part) >= min(len(first), overlap) - 6
        assert start == 1 or " ".join(text)[start - 2] == " "


@hypothesis
@given(texts)
def test_the_estimate_of_tokens_does_not_shrink_when_texts_are_joined(shared: Database, text: str) -> None:
    whole, halves = shared.rows(
        "select ai.count_tokens(%s), ai.count_tokens(%s) + ai.count_tokens(%s)",
        text, text[: len(text) // 2], text[len(text) // 2 :],
    )[0]  # fmt: skip
    assert whole <= halves
    assert whole >= len(re.findall(r"[^\s]+", text))


def test_paragraphs_stay_whole_where_they_fit(shared: Database) -> None:
    text = "One is short.\n\nTwo is a bit longer. It has two sentences.\n\nThree."
    assert [chunk for chunk, _ in chunks(shared, text, "recursive", 45, 0)] == [
        "One is short.", "Two is a bit longer. It has two sentences.", "Three."
    ]  # fmt: skip


def test_sentences_stay_whole_where_they_fit(shared: Database) -> None:
    text = "He said “Stop!” Then he left. Did he? Yes… he did."
    assert [chunk for chunk, _ in chunks(shared, text, "sentence", 19, 0)] == [
        "He said “Stop!”", "Then he left.", "Did he? Yes…", "he did."
    ]  # fmt: skip


def test_the_overlap_of_sentences_is_whole_sentences(shared: Database) -> None:
    found = [chunk for chunk, _ in chunks(shared, "Aa b. Cc d. Ee f. Gg h. Ii j.", "sentence", 13, 6)]
    assert found == ["Aa b. Cc d.", "Cc d. Ee f.", "Ee f. Gg h.", "Gg h. Ii j."]


def test_markdown_says_the_headings_above_each_chunk(shared: Database) -> None:
    text = "intro\n# A #\none\n## B\ntwo\n```\n# no heading\n```\n### C\nthree\n# D\nfour"
    rows = shared.rows(QUERY, text, "markdown", 100, 10, "characters")
    assert [(row[0], row[2]) for row in rows] == [
        ("intro", []),
        ("# A #\none", ["A"]),
        ("## B\ntwo\n```\n# no heading\n```", ["A", "B"]),
        ("### C\nthree", ["A", "B", "C"]),
        ("# D\nfour", ["D"]),
    ]


def test_a_function_of_ones_own_cuts(db: Database) -> None:
    db.sql("""create function public.halves(t text, o jsonb) returns setof text language sql immutable
              as 'select left(t, 2) || (o ->> ''chunk_size'') union all select substr(t, 3)'""")
    assert chunks(db, "abcd", "public.halves", 9, 1) == [("ab9", None), ("cd", None)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("'a', 'recursive', 10, 6", "overlap must be from 0 to half of chunk_size, 5, and is 6"),
        ("'a', 'recursive', 0", "chunk_size must be from 1 to 1000000, and is 0"),
        ("'a', 'by_magic'", "method must be recursive"),
        ("'a', unit => 'bytes'", "unit must be characters or tokens"),
        ("'a', null", "must not be NULL"),
    ],
)
def test_what_makes_no_sense_is_refused(shared: Database, arguments: str, says: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match=says):
        shared.rows(f"select * from ai.chunk_text({arguments})")


@pytest.mark.parametrize("text", [None, "", " \n\t"])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_has_no_chunks(shared: Database, method: str, text: str | None) -> None:
    assert chunks(shared, text, method, 10, 2) == []


@pytest.mark.parametrize("method", ["recursive", "markdown", "fixed"])
@pytest.mark.parametrize(
    "text", ["ein Wörtchen ", "ä", "Short. Sentences! ", "x\n\n", "# h\n" + 99 * "line "],
    ids=["words", "word", "sentences", "paragraphs", "md"],
)  # fmt: skip
def test_a_megabyte_is_no_matter(shared: Database, method: str, text: str) -> None:
    """Measured are seconds; cutting by position, which counts from the beginning each time, takes minutes."""
    copies = 1_000_000 // len(text)
    query = "select max(place + length(chunk_text)) from ai.chunk_text(repeat(%s, %s), %s)"
    assert shared.sql(query, text, copies, method) >= len(text) * copies - len(text)
