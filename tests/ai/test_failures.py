"""Failures: what is refused, what is too much, what does not work; limits and budgets."""

import pytest
from psycopg import errors

from tests.ai.conftest import caught_up, create, record, status
from tests.ai.embeddings import Embeddings
from tests.ai.test_pipelines import LOAD
from tests.support import Database, wait_until
from tests.worker.process import WorkerProcess

WHOLE = "ai.embed('small', 'body')"


def test_a_text_that_is_refused_is_found_and_the_rest_goes_on(
    library: Database, endpoint: Embeddings, worker: WorkerProcess
) -> None:
    endpoint.refused = {"word7.", "word13."}
    library.sql(LOAD, 20)
    create(library, WHOLE)
    found = caught_up(library)
    assert (found["embedded"], found["failures"], found["backlog"]) == (18, 2, 0)
    rows = library.rows("select doc_id, status, error from ai.failures order by doc_id")
    assert [(row[0], row[1]) for row in rows] == [("13", 400), ("7", 400)] and "this text is bad" in rows[0][2]
    assert set(endpoint.sent.values()) == {1}
    endpoint.refused = set()
    assert library.sql("select ai.retry_failures('docs')") == 2
    assert caught_up(library)["coverage"] == 100


def test_a_text_that_was_refused_and_changed_is_sent(
    library: Database, endpoint: Embeddings, worker: WorkerProcess
) -> None:
    endpoint.refused = {"word2."}
    library.sql(LOAD, 3)
    create(library, WHOLE)
    assert caught_up(library)["failures"] == 1
    library.sql("update documents set body = 'It is well now.' where id = 2")
    found = caught_up(library)
    assert (found["failures"], found["coverage"]) == (0, 100)


@pytest.mark.parametrize(("reaction", "state"), [("pause", "paused"), ("fail", "failed")])
def test_a_text_that_is_refused_stops_the_pipeline_where_asked(
    library: Database, endpoint: Embeddings, worker: WorkerProcess, reaction: str, state: str
) -> None:
    endpoint.refused = {"word1."}
    library.sql(LOAD, 1)
    create(library, WHOLE, f", error_handling => '{reaction}'")
    wait_until(lambda: status(library)["state"] == state, 60)
    assert "refused" in status(library)["reason"]
    endpoint.refused = set()
    library.sql("select ai.retry_failures('docs')")
    library.sql("select ai.resume('docs')")
    assert caught_up(library)["coverage"] == 100


def test_too_many_requests_are_no_failures(library: Database, endpoint: Embeddings, worker: WorkerProcess) -> None:
    endpoint.failures = [(429, ("Retry-After: 1",)), (500, ()), (429, ("Retry-After: 0",)), (503, ())]
    library.sql(LOAD, 20)
    create(library, WHOLE)
    found = caught_up(library)
    assert (found["coverage"], found["failures"]) == (100, 0)
    assert set(endpoint.sent.values()) == {1} and endpoint.failures == []


def test_an_endpoint_that_is_away_is_trouble_and_not_the_fault_of_texts(
    library: Database, endpoint: Embeddings, worker: WorkerProcess
) -> None:
    endpoint.down = 401
    library.sql(LOAD, 3)
    create(library, WHOLE)
    wait_until(lambda: status(library)["state"] == "in trouble", 60)
    assert 'model "small": HTTP 401: down' in status(library)["reason"]
    endpoint.down = 0
    found = caught_up(library)
    assert (found["state"], found["coverage"], found["failures"]) == ("idle", 100, 0)


def test_other_dimensions_fail_at_once_with_both_numbers(
    library: Database, endpoint: Embeddings, worker: WorkerProcess
) -> None:
    endpoint.dimensions = 12
    library.sql(LOAD, 1)
    create(library, WHOLE)
    wait_until(lambda: status(library)["state"] == "failed", 60)
    assert "answers with 12 dimensions, and 16 are expected" in status(library)["reason"]
    endpoint.dimensions = 16
    library.sql("select ai.resume('docs')")
    assert caught_up(library)["coverage"] == 100


def test_a_worker_that_is_killed_sends_at_most_what_was_under_way_again(
    library: Database, endpoint: Embeddings, worker: WorkerProcess
) -> None:
    library.sql(LOAD, 120)
    create(library, WHOLE)
    wait_until(lambda: endpoint.sent.total() >= 24, 60)
    worker.kill()
    second = WorkerProcess(library).logged("registered", 60)
    try:
        assert caught_up(library)["coverage"] == 100
    finally:
        second.kill()
    assert len(endpoint.sent) == 120 and endpoint.sent.total() <= 120 + 3 * 8


def test_a_budget_that_is_used_up_stops_requests(
    library: Database, endpoint: Embeddings, worker: WorkerProcess
) -> None:
    library.sql("select ai.set_budget(model => 'small', cost => 0)")
    library.sql(LOAD, 5)
    create(library, WHOLE)
    found = status(library)
    assert (found["state"], endpoint.requests) == ("over budget", [])
    assert 'the budget of model "small" is used up' in found["reason"]
    library.sql("select ai.set_budget(model => 'small', tokens => 1000000)")
    assert caught_up(library)["coverage"] == 100
    used = record(library, "select * from ai.usage")
    assert (used["texts"], used["requests"], used["pipeline"]) == (5, 1, "docs")
    assert float(used["cost"]) == pytest.approx(used["tokens"] * 2e-6)


def test_tokens_a_minute_put_off_requests(library: Database, endpoint: Embeddings) -> None:
    library.sql("select ai.set_model('slow', %s, 'tiny-16', 16, tpm => 6)", endpoint.address)
    pauses = [float(library.sql("select ai._reserve_tokens('slow', 100)")) for _ in range(3)]
    assert pauses[0] == 0 and pauses[1] > 500 and pauses[2] > 1400, "each takes a thousand seconds"


@pytest.mark.parametrize(
    ("rpm", "rate", "seconds"), [(60, 60, 60), (1000, 1000, 60), (3000, 1000, 20), (1500, 750, 30), (1, 1, 60)]
)
def test_requests_a_minute_are_a_rate_of_the_models_limit(
    library: Database, endpoint: Embeddings, rpm: int, rate: int, seconds: int
) -> None:
    library.sql("select ai.set_model('m', %s, 'tiny-16', 16, rpm => %s, concurrency => 4)", endpoint.address, rpm)
    query = "select concurrency, rate, extract(epoch from per)::int from df.limits where name = 'ai-model:m'"
    assert library.rows(query) == [(4, rate, seconds)]


@pytest.mark.parametrize(
    "wrong",
    ["dimensions => 0", "batch_size => 0", "rpm => 0", "tpm => 0", "concurrency => 0", "price_per_million => -1"],
)
def test_a_model_that_makes_no_sense_is_refused(library: Database, wrong: str) -> None:
    arguments = "model => 'x'" + ("" if wrong.startswith("dimensions") else ", dimensions => 8")
    with pytest.raises(errors.InvalidParameterValue, match=wrong.split(maxsplit=1)[0]):
        library.sql(f"select ai.set_model('m', 'http://127.0.0.1', {arguments}, {wrong})")


def test_a_model_that_is_used_stays_what_it_is(library: Database, endpoint: Embeddings) -> None:
    create(library, WHOLE)
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="it cannot be other with 16 now"):
        library.sql("select ai.set_model('small', %s, 'other', 16)", endpoint.address)
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match='pipeline "docs" uses model "small"'):
        library.sql("select ai.unset_model('small')")
    library.sql("select ai.drop_pipeline('docs')")
    assert library.sql("select ai.unset_model('small')") == "OK"
