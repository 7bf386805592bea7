"""What the tests of the hub share: one adapter's names and bytes, and how a refusal must read."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.adapters.hub import HubError, inspect
from tests.tools.adapters import adapter_files

JOY = "me/joy"
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
WHOLE = adapter_files()[WEIGHTS_FILE]


def sentence(error: pytest.ExceptionInfo, tmp_path: Path) -> str:
    """The message, which is one sentence for anyone to read."""
    text = str(error.value)
    assert text.endswith(".")
    assert ": " in text
    assert "\n" not in text
    for secret in (str(tmp_path), "127.0.0.1", "Traceback", "hf_secret", "Request ID"):
        assert secret not in text
    return text


def refused(tmp_path: Path, source: str = JOY, revision: str | None = None, **options) -> str:
    with pytest.raises(HubError) as error:
        inspect(source, revision, **options)
    return sentence(error, tmp_path)
