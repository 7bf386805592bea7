import logging
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from composer.adapters.hub import HubError, base_snapshot, download, inspect, valid_repo_id
from composer.spec import ComposerError
from tests.tools.adapters import CONFIG, SITE, adapter_files, lora_tensors, write_adapter
from tests.tools.fake_hub import FakeHub, Fault, fake_hub

JOY = "me/joy"
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A fake Hub, and the real client pointed at it as HF_ENDPOINT and HF_HUB_CACHE would on import."""
    with fake_hub() as server:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        # A list that the client fetches for its user-agent: not into the home of whoever runs the tests.
        monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "agents"), raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 5)
        close_session()
        yield server
        close_session()


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


def tokens_for_joy(hub: FakeHub) -> set[str | None]:
    """The tokens sent with requests for the repo; the client also has a request of its own without one."""
    return {token for line, token in zip(hub.requests, hub.tokens, strict=True) if JOY in line}


# --- what works ----------------------------------------------------------------------------------


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


# --- faults of the Hub ---------------------------------------------------------------------------

LIMITED = {"RateLimit": '"api";r=0;t=42', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
FAULTS = {
    "rate limit with a time": (Fault("/api/", 429, LIMITED), "try again in 42 seconds"),
    "rate limit with Retry-After": (Fault("/api/", 429, {"Retry-After": "1"}), "try again in 1 second,"),
    "rate limit without a time": (Fault("/api/", 429, {"Retry-After": "soon"}), "try again in five minutes"),
    "no connection": (Fault("/api/", 0), "check the network connection"),
    "bad gateway": (Fault("/api/", 502), "fault of its own (status 502)"),
    "unavailable": (Fault("/api/", 503), "fault of its own (status 503)"),
    "bad token": (
        Fault("/api/", 401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
        "check that HF_TOKEN is valid",
    ),
    "forbidden": (Fault("/api/", 403), "check that HF_TOKEN is valid"),
    "disabled": (
        Fault("/api/", 403, {"X-Error-Message": "Access to this resource is disabled."}),
        "disabled",
    ),
    "bad request": (Fault("/api/", 400), "status 400"),
    "a login page": (Fault("/api/", 200, {}, b"<html>Log in</html>"), "could not be understood"),
    "an empty record": (Fault("/api/", 200, {}, b"[]"), "could not be understood"),
    "not a Hub": (Fault("/resolve/", 200, {}, b"<html>"), "check HF_ENDPOINT"),
    "a header that fails": (Fault("GET /me/joy/resolve/", 500), "fault of its own"),
}


@pytest.mark.parametrize(("fault", "said"), FAULTS.values(), ids=FAULTS)
def test_faults_of_the_hub_are_sentences_told_at_once(fault, said, hub: FakeHub, tmp_path):
    hub.add(JOY, adapter_files())
    hub.faults.append(fault)
    assert said in refused(tmp_path)
    assert len(hub.requests) < 8  # the client's own retries, with their waits, were not entered


def test_a_hub_that_does_not_answer_is_a_timeout(hub: FakeHub, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    hub.faults.append(Fault("/api/", -1))
    assert "took too long" in refused(tmp_path)


def test_a_header_that_does_not_come_is_a_timeout(hub: FakeHub, monkeypatch, tmp_path):
    commit = hub.add(JOY, adapter_files())
    hub.faults.append(Fault(f"GET /me/joy/resolve/{commit}/{WEIGHTS_FILE}", -1))
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    assert "took too long" in refused(tmp_path)


def test_a_closed_port_is_no_connection(hub: FakeHub, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "check the network connection" in refused(tmp_path)


def test_offline_and_not_cached(hub: FakeHub, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(tmp_path)
    assert "HF_HUB_OFFLINE" in refused(tmp_path, revision="a" * 40)
    assert hub.requests == []


def test_no_such_repository(hub: FakeHub, tmp_path):
    assert "has no repository me/joy" in refused(tmp_path)


def test_a_gated_repository_is_not_called_missing(hub: FakeHub, tmp_path):
    hub.add(JOY, adapter_files())
    hub.gated.add(JOY)
    assert "gated: accept its terms" in refused(tmp_path)


@pytest.mark.parametrize("revision", ["b" * 40, "nowhere"])
def test_no_such_revision(revision, hub: FakeHub, tmp_path):
    hub.add(JOY, adapter_files())
    assert f"no revision '{revision}'" in refused(tmp_path, revision=revision)


@pytest.mark.parametrize("revision", ["../../../x", "", "a b", "<b>", "main\n", "/etc", "a" * 5000 + "!"])
def test_revisions_that_are_none_are_not_asked_for(revision, hub: FakeHub, tmp_path):
    assert "is not a revision" in refused(tmp_path, revision=revision)
    assert hub.requests == []


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


WHOLE = adapter_files()[WEIGHTS_FILE]
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
def test_damaged_weights_are_told_from_the_header(weights, hub: FakeHub, tmp_path):
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


def test_a_download_cut_short_is_told(hub: FakeHub, tmp_path):
    commit = hub.add(JOY, adapter_files())
    files = inspect(JOY)
    hub.faults.append(Fault(f"GET /me/joy/resolve/{commit}/{WEIGHTS_FILE}", 200, {}, WHOLE[:100]))
    with pytest.raises(HubError) as error:
        download(files)
    assert "cut short" in sentence(error, tmp_path)
    hub.faults.clear()
    assert download(files).is_dir()  # and the broken piece was not kept


def test_weights_that_changed_after_the_inspection_are_refused(hub: FakeHub, tmp_path):
    commit = hub.add(JOY, adapter_files())
    files = inspect(JOY)
    other = adapter_files(tensors=lora_tensors(site=SITE.replace("q_proj", "k_proj")))[WEIGHTS_FILE]
    assert len(other) == len(WHOLE)
    hub.faults.append(Fault(f"GET /me/joy/resolve/{commit}/{WEIGHTS_FILE}", 200, {}, other))
    with pytest.raises(HubError) as error:
        download(files)
    assert "not the ones that were announced" in sentence(error, tmp_path)


def test_a_rate_limit_at_the_download(hub: FakeHub, tmp_path):
    hub.add(JOY, adapter_files())
    files = inspect(JOY)
    hub.faults.append(Fault("/api/", 429, LIMITED))
    with pytest.raises(HubError) as error:
        download(files)
    assert "in 42 seconds" in sentence(error, tmp_path)


def test_a_cache_that_cannot_be_written_to(hub: FakeHub, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    hub.add(JOY, adapter_files())
    assert "HF_HOME" in refused(tmp_path)


INVALID = [
    "../../etc/passwd",
    "me/joy joy",
    "<script>/x",
    "joy",
    "",
    "me/..",
    "me/joy\n",
    "a/b/c",
    "me/" + "x" * 97,
]
INVALID += [
    "-me/joy",
    "me/joy.git",
    "me/a--b",
    "https://host/me/joy",
    "me\\joy",
    "m\u00e9/joy",
    "x\0y/z",
    "x" * 10_000,
]


@pytest.mark.parametrize("source", INVALID, ids=lambda text: repr(text)[:20])
def test_invalid_ids_are_not_asked_for(source, hub: FakeHub, tmp_path):
    assert not valid_repo_id(source)
    said = refused(tmp_path, source)
    assert "write it as owner/name" in said
    assert len(said) < 200
    assert "<" not in said
    assert hub.requests == []


@pytest.mark.parametrize("source", ["me/joy", "Qwen/Qwen2.5-0.5B", "a/b_c.d-e", "me/" + "x" * 93])
def test_valid_ids(source):
    assert valid_repo_id(source)


@pytest.mark.parametrize("other", [None, 7, ["me/joy"], b"me/joy", Path("me/joy")])
def test_only_texts_are_ids(other):
    assert not valid_repo_id(other)


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
