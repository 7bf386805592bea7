"""What several folders of tests share: the real base with the real adapters, loaded once."""

from __future__ import annotations

import pytest

from composer import Engine


@pytest.fixture(scope="session")
def real_engine() -> Engine:
    """The project's own catalog: SmolLM2-135M and the bundled adapters. Tests must not change it."""
    return Engine.from_catalog("adapters.yaml")
