"""Adapters and bases from the Hub: what is asked for, what is fetched, what the cache spares."""

import logging
import os
import subprocess
import sys

import pytest
from huggingface_hub import constants

from composer.adapters.hub import HubError, base_snapshot, download, inspect
from tests.tools.adapters import CONFIG, SITE, adapter_files, lora_tensors
from tests.tools.fake_hub import FakeHub, Fault, fake_hub
from tests.tools.hub_checks import JOY, WEIGHTS_FILE, sentence


def tokens_for_joy(hub: FakeHub) -> set[str | None]:
    """The tokens sent with requests for the repo; the client also has a request of its own without one."""
    return {token for line, token in zip(hub.requests, hub.tokens, strict=True) if JOY in line}


# --- adapters ------------------------------------------------------------------------------------


def test_a_repo_is_inspected_without_downloading_its_weights(hub: FakeHub, tmp_path):
    files = adapter_files(tensors={**lora_tensors(out=4096, inner=4096, rank=64)})
    commit = hub.add(JOY, files)
    seen = inspect(JOY)
    assert (seen.name, seen.source, seen.revision, seen.folder) == ("joy", JOY, commit, None)
    assert seen.config == CONFIG
    assert seen.bytes == len(files[WEIGHTS_FILE]) > 2_000_000
    assert seen.header[f"{SITE}.lora_A.weight"].shape == (64, 4096)
    assert seen.header[f"{SITE}.lora_A.weight"].dtype == "F32"
    assert hub.sent < 110_000
    assert not list((tmp_path / "cache").rglob(WEIGHTS_FILE))


def test_a_long_header_is_read_whole(hub: FakeHub):
    tensors = {}
    for layer in range(600):
        tensors |= lora_tensors(rank=1, site=f"{SITE}{'x' * 100}.{layer}", out=1, inner=1)
    hub.add(JOY, adapter_files(tensors=tensors))
    assert len(inspect(JOY).header) == 1200


def test_download_brings_the_two_files_and_nothing_else(hub: FakeHub):
    files = adapter_files()
    others = {
        "adapter_model.bin": b"pickle",
        "evil.py": b"import os",
        "README.md": b"#",
        "optimizer.pt": b"x",
    }
    hub.add(JOY, {**files, **others})
    folder = download(inspect(JOY))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_pinned_commit_in_the_cache_costs_no_request(hub: FakeHub):
    commit = hub.add(JOY, adapter_files())
    folder = download(inspect(JOY, commit))
    hub.requests.clear()
    again = inspect(JOY, commit)
    assert download(again) == folder == again.folder
    assert again.revision == commit
    assert again.header == inspect(JOY, commit).header
    assert hub.requests == []


def test_an_older_commit_stays_what_it_was(hub: FakeHub):
    old = hub.add(JOY, adapter_files())
    new = hub.add(JOY, adapter_files(tensors=lora_tensors(rank=2)))
    assert inspect(JOY, old).header[f"{SITE}.lora_A.weight"].shape == (4, 16)
    assert inspect(JOY, "main").revision == inspect(JOY).revision == new


def test_a_branch_that_moved_is_followed_and_its_commit_logged(hub: FakeHub, caplog):
    hub.add(JOY, adapter_files())
    download(inspect(JOY))
    new = hub.add(JOY, adapter_files(tensors=lora_tensors(rank=2)))
    caplog.set_level(logging.INFO, "composer")
    assert inspect(JOY).revision == new
    assert new in caplog.text


def test_offline_the_cached_branch_is_used(hub: FakeHub, monkeypatch):
    commit = hub.add(JOY, adapter_files())
    folder = download(inspect(JOY))
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download(inspect(JOY)) == folder
    assert inspect(JOY).revision == commit
    assert hub.requests == []


def test_a_hub_that_is_down_leaves_the_cached_branch_usable(hub: FakeHub, caplog):
    hub.add(JOY, adapter_files())
    folder = download(inspect(JOY))
    hub.faults.append(Fault("/", 503))
    assert inspect(JOY).folder == folder
    assert "cached copy of me/joy" in caplog.text


def test_the_token_is_sent(hub: FakeHub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.add(JOY, adapter_files())
    download(inspect(JOY))
    assert tokens_for_joy(hub) == {"Bearer hf_secret"}


def test_the_name_can_be_given(hub: FakeHub):
    hub.add(JOY, adapter_files())
    assert inspect(JOY, name="glad").name == "glad"


# --- bases ---------------------------------------------------------------------------------------

BASE = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
}
UNWANTED = {
    "pytorch_model.bin": b"pickle",
    "modeling_evil.py": b"import os",
    "tokenization_evil.py": b"import os",
    "consolidated.safetensors": b"again",
    "onnx/model.onnx": b"x",
    "sub/model.safetensors": b"x",
}


def test_a_base_comes_without_pickle_and_code(hub: FakeHub):
    commit = hub.add("me/base", {**BASE, **UNWANTED})
    assert base_snapshot("me/base", commit, cached_only=True) is None
    assert hub.requests == []
    folder = base_snapshot("me/base", commit, cached_only=False)
    assert {path.name for path in folder.rglob("*") if path.is_file()} == set(BASE)
    assert folder.name == commit


def test_a_cached_base_costs_no_request(hub: FakeHub):
    commit = hub.add("me/base", BASE)
    folder = base_snapshot("me/base", commit, cached_only=False)
    hub.requests.clear()
    assert base_snapshot("me/base", commit, cached_only=True) == folder
    assert base_snapshot("me/base", commit, cached_only=False) == folder
    assert hub.requests == []


def test_an_unpinned_base_is_found_offline(hub: FakeHub, monkeypatch):
    hub.add("me/base", BASE)
    folder = base_snapshot("me/base", None, cached_only=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert base_snapshot("me/base", None, cached_only=True) == folder
    assert base_snapshot("me/base", None, cached_only=False) == folder


INDEX = b'{"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}'
SHARDS = {"model-1-of-2.safetensors": b"1", "model-2-of-2.safetensors": b"2"}


def test_a_base_in_parts_is_whole_only_with_all_of_them(hub: FakeHub):
    whole = {**BASE, **SHARDS, "model.safetensors.index.json": INDEX}
    del whole["model.safetensors"]
    commit = hub.add("me/base", whole)
    folder = base_snapshot("me/base", commit, cached_only=False)
    (folder / "model-2-of-2.safetensors").unlink()
    assert base_snapshot("me/base", commit, cached_only=True) is None
    assert base_snapshot("me/base", commit, cached_only=False) == folder  # the missing part is fetched
    assert (folder / "model-2-of-2.safetensors").read_bytes() == b"2"


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_base_that_cannot_be_loaded_is_refused(gone, hub: FakeHub, tmp_path):
    commit = hub.add("me/base", {key: data for key, data in BASE.items() if key != gone})
    with pytest.raises(HubError) as error:
        base_snapshot("me/base", commit, cached_only=False)
    assert "no complete safetensors weights" in sentence(error, tmp_path)
    assert base_snapshot("me/base", commit, cached_only=True) is None


@pytest.mark.parametrize(
    "index", [b"{", b"[]", b"{}", b'{"weight_map": 3}', b'{"weight_map": {"a": "gone"}}']
)
def test_an_index_of_parts_that_is_broken(index, hub: FakeHub):
    commit = hub.add("me/base", {**BASE, "model.safetensors.index.json": index})
    with pytest.raises(HubError, match="no complete safetensors weights"):
        base_snapshot("me/base", commit, cached_only=False)


def test_faults_of_a_base(hub: FakeHub, tmp_path):
    with pytest.raises(HubError) as error:
        base_snapshot("me/base", None, cached_only=False)
    assert "has no repository me/base" in sentence(error, tmp_path)
    hub.add("me/base", BASE)
    hub.gated.add("me/base")
    with pytest.raises(HubError) as error:
        base_snapshot("me/base", None, cached_only=False)
    assert "gated" in sentence(error, tmp_path)
    with pytest.raises(HubError, match="owner/name"):
        base_snapshot("../base", None, cached_only=True)


# --- the environment, as a user sets it ----------------------------------------------------------

SCRIPT = """
import sys
from composer.adapters.hub import download, inspect
print(download(inspect(sys.argv[1])))
"""


def test_the_environment_variables_of_the_hub_are_respected(tmp_path):
    with fake_hub() as hub:
        hub.add(JOY, adapter_files())
        environment = {
            "PATH": os.environ["PATH"],
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": "hf_secret",
            "NO_PROXY": "127.0.0.1",
        }

        def run(**more: str) -> str:
            command = [sys.executable, "-c", SCRIPT, JOY]
            done = subprocess.run(command, env=environment | more, capture_output=True, text=True, check=True)
            return done.stdout.strip()

        folder = run()
        assert folder.startswith(str(tmp_path / "home" / "hub"))
        assert tokens_for_joy(hub) == {"Bearer hf_secret"}
        hub.requests.clear()
        assert run(HF_HUB_OFFLINE="1") == folder
        assert hub.requests == []
