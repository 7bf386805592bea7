"""The two files of an adapter, on the Hub and in local folders: missing, damaged, too large, or whole."""

import os
import struct

import pytest

from composer.adapters.hub import HubError, download, inspect
from composer.core.errors import ComposerError
from tests.tools.adapters import adapter_files, lora_tensors, write_adapter
from tests.tools.fake_hub import FakeHub
from tests.tools.hub_checks import CONFIG_FILE, JOY, WEIGHTS_FILE, WHOLE, refused, sentence

MISSING = {
    "no config": ({WEIGHTS_FILE: b"x"}, "has no adapter_config.json"),
    "nothing": ({}, "has no adapter_config.json"),
    "no weights": ({CONFIG_FILE: b"{}"}, "has no adapter_model.safetensors"),
    "pickle": ({CONFIG_FILE: b"{}", "adapter_model.bin": b"x"}, "pickle"),
    "pickle in parts": ({CONFIG_FILE: b"{}", "adapter_model-00001-of-00002.bin": b"x"}, "pickle"),
    "torch": ({CONFIG_FILE: b"{}", "adapter_model.pt": b"x"}, "pickle"),
    "in parts": ({CONFIG_FILE: b"{}", "adapter_model-00001-of-00002.safetensors": b"x"}, "several files"),
    "an index": ({CONFIG_FILE: b"{}", "adapter_model.safetensors.index.json": b"{}"}, "several files"),
    "elsewhere": ({CONFIG_FILE: b"{}", "last/adapter_model.safetensors": b"x"}, "has no adapter_model"),
}


@pytest.mark.parametrize(("files", "said"), MISSING.values(), ids=MISSING)
def test_files_that_are_missing(files, said, hub: FakeHub, tmp_path):
    hub.add(JOY, files)
    assert said in refused(tmp_path)
    if not any("/" in name for name in files):
        folder = write_adapter(tmp_path / "local", files)
        with pytest.raises(ComposerError) as error:
            inspect(str(folder))
        assert said in sentence(error, tmp_path)


def packed(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


BROKEN = {
    "nothing": b"",
    "a few bytes": b"\x08\x00",
    "a huge header": struct.pack("<Q", 2**62) + b"{}",
    "a header longer than the file": struct.pack("<Q", 5000) + b"{}",
    "no JSON": packed(b"pickle!!"),
    "a list": packed(b"[1, 2]  "),
    "deep nesting": packed(b"[" * 100_000),
    "shape of text": packed(b'{"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}', b"0000"),
    "shape of nothing": packed(b'{"a": {"dtype": "F32", "shape": null, "data_offsets": [0, 4]}}', b"0000"),
    "no offsets": packed(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": []}}', b"0000"),
    "a tensor of text": packed(b'{"a": "F32"}'),
    "offsets past the end": packed(
        b'{"a": {"dtype": "F32", "shape": [99], "data_offsets": [0, 396]}}', b"0000"
    ),
    "cut short": WHOLE[: len(WHOLE) // 2],
}


@pytest.mark.parametrize("weights", BROKEN.values(), ids=BROKEN)
def test_damaged_weights_are_found_from_the_header(weights, hub: FakeHub, tmp_path):
    files = {CONFIG_FILE: adapter_files()[CONFIG_FILE], WEIGHTS_FILE: weights}
    hub.add(JOY, files)
    assert "damaged" in refused(tmp_path)
    with pytest.raises(ComposerError) as error:
        inspect(str(write_adapter(tmp_path / "local", files)))
    assert "damaged" in sentence(error, tmp_path)


CONFIGS = {
    "nothing": b"",
    "a list": b"[]",
    "a text": b'"LORA"',
    "no JSON": b"{",
    "no UTF-8": b'{"a": "\xff"}',
    "deep nesting": b"[" * 100_000,
    "a number of a million digits": b'{"r": ' + b"9" * 200_000 + b"}",
    "a target of ten megabytes": b'{"target_modules": "' + b"x" * 10_000_000 + b'"}',
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_damaged_configs(config, hub: FakeHub, tmp_path):
    files = {CONFIG_FILE: config, WEIGHTS_FILE: WHOLE}
    hub.add(JOY, files)
    assert "adapter_config.json of joy" in refused(tmp_path)
    assert hub.sent < 1_000_000
    with pytest.raises(ComposerError) as error:
        inspect(str(write_adapter(tmp_path / "joy", files)))
    assert "adapter_config.json of joy" in sentence(error, tmp_path)


def test_too_large_is_refused_before_the_download(hub: FakeHub, tmp_path):
    hub.add(JOY, adapter_files())
    assert "the limit is 0 MB" in refused(tmp_path, limit_bytes=100)
    files = inspect(JOY)
    hub.requests.clear()
    with pytest.raises(HubError, match="choose a smaller adapter"):
        download(files, limit_bytes=100)
    assert hub.requests == []
    with pytest.raises(ComposerError, match="choose a smaller adapter"):
        inspect(str(write_adapter(tmp_path / "local", adapter_files())), limit_bytes=100)


# --- local folders -------------------------------------------------------------------------------


def test_a_folder_is_read_without_its_weights_and_without_requests(hub: FakeHub, tmp_path):
    folder = write_adapter(tmp_path / "joy", adapter_files())
    files = inspect(str(folder))
    assert (files.name, files.revision, files.folder) == ("joy", None, folder)
    assert files.bytes == len(WHOLE)
    assert set(files.header) == set(lora_tensors())
    assert download(files) == folder
    assert hub.requests == []


def test_a_folder_that_does_not_exist(tmp_path):
    said = refused(tmp_path, str(tmp_path / "gone"))
    assert "'gone' is neither an adapter folder nor a repository id" in said


def test_a_pipe_in_place_of_the_weights_is_not_opened(tmp_path):
    folder = write_adapter(tmp_path / "joy", {CONFIG_FILE: b"{}"})
    os.mkfifo(folder / WEIGHTS_FILE)
    with pytest.raises(ComposerError, match="has no adapter_model"):
        inspect(str(folder))
