"""A tiny engine of two families, and a scheduler of four slots."""

from __future__ import annotations

import pytest

from composer.engine.scheduler import Scheduler
from tests.tools import tiny


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def engine(request, tmp_path_factory):
    return tiny.engine(
        request.param, tiny.three_unlike(tmp_path_factory.mktemp(request.param), request.param)
    )


@pytest.fixture
def scheduler(engine, monkeypatch):
    # A text must not end early, or there is nothing to be in company with.
    monkeypatch.setattr(engine, "end_tokens", frozenset())
    # And a fast machine must not be through with it before the queue's first update.
    monkeypatch.setattr("composer.engine.scheduler.POLL", 0.02)
    made = Scheduler(engine, slots=4, queue=5)
    yield made
    made.close()
