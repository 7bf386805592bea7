"""Faults of the Hub, of the network and of what was asked for: each is one sentence, told at once."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from composer.adapters.hub import HubError, download, inspect, valid_repo_id
from tests.tools.adapters import SITE, adapter_files, lora_tensors
from tests.tools.fake_hub import FakeHub, Fault
from tests.tools.hub_checks import JOY, WEIGHTS_FILE, WHOLE, refused, sentence

# --- of the Hub and the network ------------------------------------------------------------------

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
def test_hub_faults_are_sentences_without_retries(fault, said, hub: FakeHub, tmp_path):
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


# --- at the download -----------------------------------------------------------------------------


def test_a_truncated_download_is_reported(hub: FakeHub, tmp_path):
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


# --- of what was asked for -----------------------------------------------------------------------


@pytest.mark.parametrize("revision", ["b" * 40, "nowhere"])
def test_no_such_revision(revision, hub: FakeHub, tmp_path):
    hub.add(JOY, adapter_files())
    assert f"no revision '{revision}'" in refused(tmp_path, revision=revision)


@pytest.mark.parametrize("revision", ["../../../x", "", "a b", "<b>", "main\n", "/etc", "a" * 5000 + "!"])
def test_revisions_that_are_none_are_not_asked_for(revision, hub: FakeHub, tmp_path):
    assert "is not a revision" in refused(tmp_path, revision=revision)
    assert hub.requests == []


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
