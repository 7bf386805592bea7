"""`composer bases` over a catalog of configs without weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from composer.cli.main import main
from composer.model.checkpoints import memory_estimate
from tests.tools.real_shapes import SHAPES

CATALOG = """
default: small
bases:
  small: {{id: Qwen/Qwen3-0.6B, folder: small, dtype: float32, verified: true}}
  large: {{id: mistralai/Mistral-7B-v0.1, folder: large, quantization: nf4, dtype: bfloat16}}
  eyed: {{id: google/gemma-3-4b-pt, folder: eyed, dtype: bfloat16}}
  absent: {{id: some/base, revision: {commit}}}
  broken: {{id: some/other, folder: broken}}
"""


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch) -> str:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for folder, name in (("small", "qwen3-0.6b"), ("large", "mistral-7b"), ("eyed", "gemma-3-4b")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(SHAPES[name].config))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    path = tmp_path / "adapters.yaml"
    path.write_text(CATALOG.format(commit=f"'{'a' * 40}'"))
    return str(path)


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(["bases", "--offline", *argv])
    return code, *capsys.readouterr()


def test_every_base_has_its_line_and_what_could_not_be_read_is_told_below(catalog, capsys):
    code, out, _ = run(capsys, "--catalog", catalog, "--slots", "8", "--tokens", "1024")
    assert code == 0
    lines = {line.split()[0]: " ".join(line.split()) for line in out.splitlines() if line}
    assert lines["small"] == "small * yes folder 596 M 2.38 GB float32 1.88 GB 20 to 161 MB"
    assert lines["large"] == "large no folder 7,242 M 4.13 GB nf4 1.07 GB 42 to 336 MB"
    assert lines["absent"] == "absent no - - - - -"
    assert "\nabsent: The config of the base some/base is not on this machine: leave out --offline" in out
    assert "\nbroken: The config of the base some/other cannot be read: repair its config.json" in out
    assert "KV of 8 x 1,024" in out


def test_one_base_is_told_in_full(catalog, capsys, monkeypatch):
    monkeypatch.setattr(memory_estimate, "free_memory", lambda device: 4_000_000_000)
    code, out, _ = run(capsys, "--catalog", catalog, "--base", "large", "--slots", "4", "--tokens", "2048")
    assert code == 0
    assert "mistralai/Mistral-7B-v0.1 at its newest commit" in out
    assert "not yet by this project" in out and "mistral; it has a fast pass" in out
    assert "7,241,732,096" in out and "4.13 GB in nf4, embeddings and output layer in bfloat16" in out
    assert "131,072 bytes a token; 1.07 GB for 4 texts of 2,048 tokens" in out
    assert "41.9 MB at rank 8, 83.9 MB at rank 16, 167.8 MB at rank 32, 335.5 MB at rank 64" in out
    assert "4.0 GB of" in out and "needs about 4.1 GB of memory and 4.0 GB are free" in out
    monkeypatch.setattr(memory_estimate, "free_memory", lambda device: 64_000_000_000)
    _, out, _ = run(capsys, "--catalog", catalog, "--base", "small")
    assert "up to 4.77 GB on a CPU, for speed" in out and "The base fits into what is free." in out
    _, out, _ = run(capsys, "--catalog", catalog, "--base", "eyed")
    assert "gemma3; through transformers' modules: there is no pass of its own for the family gemma3" in out


def test_json_has_the_numbers(catalog, capsys):
    code, out, _ = run(capsys, "--catalog", catalog, "--json", "--slots", "2", "--tokens", "10")
    answer = json.loads(out)
    found = {each["name"]: each for each in answer["bases"]}
    assert code == 0 and answer["default"] == "small"
    assert list(found) == ["small", "large", "eyed", "absent", "broken"]
    large = found["large"]
    assert large["kv"] == 20 * large["kv_token"] == 20 * 131072
    assert large["adapters"]["16"] == 16 * large["adapter_rank"]
    assert large["parameters"] == 7241732096 and large["family"] == "mistral" and large["fault"] is None
    assert found["absent"]["place"] is None and "weights" not in found["absent"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--base", "absent"], "some/base is not on this machine"),
        (["--base", "none"], "the catalog has small"),
        (["--slots", "0"], "--slots must be a number between 1 and"),
        (["--tokens", "-3"], "--tokens must be a number between 1 and"),
        (["--tokens", "x"], "--tokens"),
    ],
)
def test_what_cannot_be_answered_is_one_line_on_stderr(argv, said, catalog, capsys):
    code, out, err = run(capsys, "--catalog", catalog, *argv)
    assert code == 2 and said in err and not out


def test_the_bundled_catalog_is_answered_without_the_hub(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    code, out, _ = run(capsys, "--base", "smollm2-135m")
    assert code == 0 and "134,515,008" in out and "0.54 GB in float32" in out
