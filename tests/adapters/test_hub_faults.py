"""Faults of the Hub, of the network and of what was asked for: each is one sentence, told at once."""

from pathlib import Path

import pytest
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from composer.adapters.hub import HubError, download, inspect, stay_on_the_hub, valid_repo_id
from composer.adapters.hub.hosts import allowed
from tests.tools.adapters import SITE, adapter_files, lora_tensors
from tests.tools.fake_hub import FakeHub, Fault, fake_hub
from tests.tools.hub_checks import CONFIG_FILE, JOY, WEIGHTS_FILE, WHOLE, refused, sentence

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


def test_bytes_that_are_not_those_the_hub_named_are_refused(hub: FakeHub, tmp_path):
    commit = hub.add(JOY, adapter_files())
    files = inspect(JOY)
    changed = WHOLE[:-1] + bytes([WHOLE[-1] ^ 1])
    hub.faults.append(Fault(f"GET /me/joy/resolve/{commit}/{WEIGHTS_FILE}", 200, {}, changed))
    with pytest.raises(HubError) as error:
        download(files)
    assert "were damaged and have been deleted: try again" in sentence(error, tmp_path)
    hub.faults.clear()
    assert (download(files) / WEIGHTS_FILE).read_bytes() == WHOLE


@pytest.mark.parametrize("pinned", [True, False])
def test_a_cached_file_that_was_changed_on_disk_is_fetched_again(hub: FakeHub, pinned, tmp_path):
    commit = hub.add(JOY, adapter_files())
    stored = (download(inspect(JOY)) / WEIGHTS_FILE).resolve()
    stored.chmod(0o644)
    stored.write_bytes(WHOLE[:-1] + bytes([WHOLE[-1] ^ 1]))
    revision = commit if pinned else None
    with pytest.raises(HubError) as error:
        download(inspect(JOY, revision))
    assert "damaged and have been deleted" in sentence(error, tmp_path)
    assert (download(inspect(JOY, revision)) / WEIGHTS_FILE).read_bytes() == WHOLE


def test_a_repository_that_is_deleted_stays_usable_by_its_commit(hub: FakeHub, tmp_path):
    commit = hub.add(JOY, adapter_files())
    folder = download(inspect(JOY))
    hub.repos.clear()
    hub.requests.clear()
    assert download(inspect(JOY, commit)) == folder and hub.requests == []
    assert "has no repository me/joy" in refused(tmp_path)


def test_a_repository_that_was_renamed_is_followed(hub: FakeHub):
    commit = hub.add("you/joy", adapter_files())
    for prefix, rest in (("/api/models", ""), ("", f"/resolve/{commit}"), ("", "/resolve/main")):
        moved = f"{prefix}/you/joy{rest}"
        if rest:
            for file in (CONFIG_FILE, WEIGHTS_FILE):
                hub.faults.append(Fault(f"/me/joy{rest}/{file}", 307, {"Location": f"{moved}/{file}"}))
        else:
            hub.faults.append(Fault("/api/models/me/joy", 307, {"Location": moved}))
    files = inspect(JOY)
    assert files.revision == commit and (download(files) / WEIGHTS_FILE).read_bytes() == WHOLE


@pytest.fixture
def stays():
    stay_on_the_hub()
    yield
    set_client_factory(default_client_factory)


@pytest.mark.parametrize(
    ("on", "says"),
    [
        ("/api/", "leads to another host"),
        ("/resolve/", "is not a Hub"),  # whose own answers name a commit
        (f"GET /me/joy/resolve/COMMIT/{WEIGHTS_FILE}", "leads to another host"),
    ],
)
def test_an_answer_that_leads_to_another_host_is_not_followed(on, says, hub: FakeHub, stays, tmp_path):
    commit = hub.add(JOY, adapter_files())
    with fake_hub() as elsewhere:
        elsewhere.add(JOY, adapter_files())
        hub.faults.append(Fault(on.replace("COMMIT", commit), 302, {"Location": f"{elsewhere.url}/login"}))
        assert says in refused(tmp_path) and elsewhere.requests == []
    hub.faults.clear()
    assert download(inspect(JOY)).is_dir(), "the Hub itself is asked as before"


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://huggingface.co/api/models/me/joy", True),
        ("https://cas-bridge.xethub.hf.co/xet-bridge/1", True),
        ("https://cdn-lfs.huggingface.co/x", True),
        ("http://cdn-lfs.huggingface.co/x", False),
        ("https://huggingface.co.example.com/x", False),
        ("https://evilhf.co/x", False),
        ("https://169.254.169.254/latest/meta-data", False),
        ("http://localhost:8000/x", False),
        ("file:///etc/passwd", False),
        ("https://hf.co@example.com/x", False),
    ],
)
def test_hosts_of_the_hub(url, may):
    assert allowed(url) is may


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
