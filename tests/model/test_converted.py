"""The converted base and its cache folder: read-only, damaged, full, not to be written to, nobody's."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from composer.core.catalog_types import BaseSpec, Wheel
from composer.core.errors import ComposerError
from composer.model.checkpoints import converted
from composer.model.checkpoints.converted import cache_folder, convert, find_converted, is_whole
from tests.tools import tiny

SPEC = BaseSpec("b", "tiny/b", wheel=Wheel("pack", "1", "b.gguf"))
PLACE = Path("bases") / "pack-1-b"


def write_gguf(path: Path) -> None:
    path.write_bytes(b"GGUF")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    tiny.model("llama").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The user's cache folder, the only variable that leads anywhere, and a temporary folder beside it."""
    monkeypatch.delenv("COMPOSER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(converted.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "xdg" / "adapter-composer"


@pytest.fixture
def conversions(whole, monkeypatch) -> list[Path]:
    """Replaces reading the GGUF, not what is done with its result; returns the folders written to."""
    done: list[Path] = []

    class Read:
        def __init__(self, save: Callable[[Path], None]):
            self.save_pretrained = save
            self.config = SimpleNamespace(quantization_config=None)

    def model(*args, **options):
        def save(folder):
            done.append(folder)
            shutil.copytree(whole, folder, dirs_exist_ok=True)

        return Read(save), {"missing_keys": set(), "mismatched_keys": set()}

    monkeypatch.setattr(converted, "check_gguf", lambda path: None)
    monkeypatch.setattr(converted.AutoModelForCausalLM, "from_pretrained", model)
    tokens = Read(lambda folder: None)
    monkeypatch.setattr(converted.AutoTokenizer, "from_pretrained", lambda *args, **options: tokens)
    return done


def test_bases_of_one_file_share_what_is_converted(cache, conversions):
    other = replace(SPEC, name="b-nf4", quantization="nf4")
    assert find_converted(other) is None
    assert convert(SPEC, write_gguf) == convert(other, write_gguf) == find_converted(other)
    assert len(conversions) == 1
    assert not list((cache / PLACE).rglob("*.gguf")), "the GGUF file is not kept beside what is made of it"


def test_a_file_that_cannot_be_written_is_told_as_it_is(cache):
    def refuse(path):
        raise ComposerError("A part is missing: install it.")

    with pytest.raises(ComposerError, match=r"^A part is missing: install it\.$"):
        convert(SPEC, refuse)
    assert [each.name for each in (cache / "bases").iterdir()] == ["pack-1-b.lock"]


def test_it_is_converted_once(cache, conversions):
    target = convert(SPEC, write_gguf)
    assert target == cache / PLACE and is_whole(target)
    assert convert(SPEC, write_gguf) == target and len(conversions) == 1
    assert sorted(each.name for each in target.parent.iterdir()) == ["pack-1-b", "pack-1-b.lock"]


def test_what_is_there_needs_no_lock_and_no_place_to_write(cache, whole, conversions, monkeypatch):
    shutil.copytree(whole, cache / PLACE)

    def read_only(*args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(converted, "FileLock", read_only)
    monkeypatch.setattr(Path, "mkdir", read_only)
    monkeypatch.setattr(converted.tempfile, "TemporaryFile", read_only)
    assert convert(SPEC, write_gguf) == cache / PLACE and conversions == []


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


DAMAGES = {
    "weights cut": _cut,
    "weights empty": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "weights no safetensors": lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 99),
    "header no object": lambda folder: (folder / "model.safetensors").write_bytes(b"\2" + bytes(7) + b"[]"),
    "weights gone": lambda folder: (folder / "model.safetensors").unlink(),
    "a shard gone": lambda folder: (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"x": "model-00001-of-00002.safetensors"}}'
    ),
    "config gone": lambda folder: (folder / "config.json").unlink(),
    "config cut": lambda folder: (folder / "config.json").write_text('{"model'),
    "config empty": lambda folder: (folder / "config.json").write_bytes(b""),
    "tokenizer gone": lambda folder: (folder / "tokenizer.json").unlink(),
    "tokenizer's config gone": lambda folder: (folder / "tokenizer_config.json").unlink(),
    "tokenizer no text": lambda folder: (folder / "tokenizer.json").write_bytes(b"\xff\xfe"),
    "empty folder": lambda folder: [each.unlink() for each in folder.iterdir()],
    "a file": lambda folder: (shutil.rmtree(folder), folder.write_text("x")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_made_again(damage, cache, whole, conversions):
    shutil.copytree(whole, cache / PLACE)
    DAMAGES[damage](cache / PLACE)
    assert not is_whole(cache / PLACE)
    assert is_whole(convert(SPEC, write_gguf)) and len(conversions) == 1


def test_files_that_did_not_change_are_not_read_again(cache, conversions, monkeypatch):
    """Every page's menu asks; the tokenizer of a large vocabulary took the server half a second each time."""
    folder = convert(SPEC, write_gguf)
    assert is_whole(folder)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", lambda *args: pytest.fail("it was read again"))
        assert is_whole(folder)
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes()[:-1])
    assert not is_whole(folder)


def test_what_a_killed_run_left_is_cleared_and_another_base_is_not(cache, whole, conversions):
    left, other = cache / f"{PLACE}~", cache / f"{PLACE}.v2"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    shutil.copytree(whole, other)
    convert(SPEC, write_gguf)
    assert not left.exists() and is_whole(other)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk of the cache folder is full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "disk of the cache folder"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "COMPOSER_CACHE"),
        (OSError(errno.EIO, "Input/output error"), "COMPOSER_CACHE"),
        (MemoryError(), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory"),
        (ValueError("GGUF magic invalid"), "--force-reinstall pack==1"),
        (KeyError("general.architecture"), "--force-reinstall pack==1"),
    ],
    ids=lambda each: str(each)[:25],
)
def test_a_conversion_that_fails_is_a_sentence_and_leaves_nothing(fault, words, cache, monkeypatch):
    def fail(*args, **options):
        raise fault

    monkeypatch.setattr(converted, "check_gguf", lambda path: None)
    monkeypatch.setattr(converted.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(ComposerError) as result:
        convert(SPEC, write_gguf)
    assert words in str(result.value) and str(cache) not in str(result.value)
    assert not (cache / PLACE).exists() and not (cache / f"{PLACE}~").exists()


def test_ctrl_c_while_it_is_converted_leaves_nothing(cache, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(converted, "check_gguf", stop)
    with pytest.raises(KeyboardInterrupt):
        convert(SPEC, write_gguf)
    assert [each.name for each in (cache / "bases").iterdir()] == ["pack-1-b.lock"]


def test_two_starts_at_once_convert_it_once(cache, conversions):
    starts = [threading.Thread(target=convert, args=(SPEC, write_gguf)) for _ in range(4)]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert len(conversions) == 1 and is_whole(cache / PLACE)


def _file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("not a folder")


def no_home(monkeypatch) -> None:
    def nobody(*args):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nobody)


@pytest.mark.parametrize("obstacle", ["a file", "a file above", "no home"])
def test_without_a_cache_folder_it_is_kept_in_one_of_the_users_own(
    obstacle, cache, conversions, monkeypatch, caplog
):
    if obstacle == "no home":
        no_home(monkeypatch)
    else:
        _file(cache if obstacle == "a file" else cache.parent)
    with caplog.at_level(logging.INFO):
        target = convert(SPEC, write_gguf)
    spare = Path(converted.tempfile.gettempdir()) / f"adapter-composer-{os.getuid()}"
    assert target == spare / PLACE and is_whole(target)
    assert spare.stat().st_mode & 0o077 == 0
    assert "COMPOSER_CACHE" in caplog.text
    assert convert(SPEC, write_gguf) == target and len(conversions) == 1
    assert cache_folder() == spare, "compiled code goes there too"


@pytest.mark.parametrize("trap", ["open to all", "a link", "a file"])
def test_a_temporary_folder_that_others_may_have_made_is_not_trusted(trap, cache, whole, tmp_path):
    _file(cache)
    spare = Path(converted.tempfile.gettempdir()) / f"adapter-composer-{os.getuid()}"
    if trap == "a file":
        spare.write_text("x")
    else:
        real = spare if trap == "open to all" else tmp_path / "elsewhere"
        shutil.copytree(whole, real / PLACE)
        real.chmod(0o777 if trap == "open to all" else 0o700)
        if trap == "a link":
            spare.symlink_to(real)
    with pytest.raises(ComposerError, match="COMPOSER_CACHE"):
        convert(SPEC, write_gguf)


@pytest.mark.parametrize("chosen", ["file", "file/below", "~nobody-of-this-name/x"])
def test_an_unusable_chosen_folder_is_reported_and_not_replaced(chosen, cache, tmp_path, monkeypatch):
    _file(tmp_path / "file")
    monkeypatch.setenv("COMPOSER_CACHE", chosen if chosen.startswith("~") else str(tmp_path / chosen))
    with pytest.raises(ComposerError, match="COMPOSER_CACHE is no folder"):
        convert(SPEC, write_gguf)


def test_a_disk_without_locks_is_a_sentence(cache, monkeypatch):
    def unknown(*args, **options):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(converted.FileLock, "acquire", unknown)
    with pytest.raises(ComposerError, match="COMPOSER_CACHE"):
        convert(SPEC, write_gguf)
