"""The model, once for the tests of a process."""

from collections.abc import Iterator

import pytest

from tests.ai.model import ModelProcess


@pytest.fixture(scope="session")
def model() -> Iterator[ModelProcess]:
    """A running model."""
    model = ModelProcess()
    yield model
    assert model.stop() == 0
