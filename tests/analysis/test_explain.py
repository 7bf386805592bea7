"""What an explanation says, against the same thing measured the long way: dense outputs, single passes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from composer.analysis.explain import explain
from composer.analysis.text_report import as_text
from composer.cli.main import main
from composer.core.catalog_types import Attribute
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.engine.engine import Engine
from composer.model.gated_model import GateCall, gates_tensor
from tests.tools import tiny

PROMPT, TEXT = "The movie", " was long"
THREE = Composition({"plain": 1.0, "rslora": -0.5, "patterned": 0.75})
PASSES = Sampling(max_new_tokens=5, temperature=0)


@pytest.fixture(scope="module", params=list(tiny.FAMILIES))
def engine(request, tmp_path_factory) -> Engine:
    return tiny.engine(request.param, tiny.three_unlike(tmp_path_factory.mktemp("explain"), request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Engine:
    return tiny.engine("llama", tiny.three_unlike(tmp_path_factory.mktemp("explain"), "llama"))


def outputs(engine: Engine, gates: np.ndarray) -> list[torch.Tensor]:
    """Each layer's y_i = s_i B_i A_i x for every prompt token, its sites side by side: L of [n, T, O]."""
    snapshot, model = engine.snapshot, engine.model
    found: list[list[torch.Tensor]] = [[] for _ in range(model.layers)]

    def read(path: str, x: torch.Tensor) -> None:
        site = snapshot.bank.sites[path]
        each = []
        for column in range(len(snapshot.names)):
            own = site.adapter_index == column
            delta = (site.B[:, own] * site.scaling[own]) @ site.A[own]  # [d_out, d_in]
            each.append(x[0].double() @ delta.double().T)
        found[model.layer_of[path]].append(torch.stack(each))

    hooks = [
        model.model.get_submodule(path).register_forward_pre_hook(
            lambda _, args, path=path: read(path, args[0])
        )
        for path in snapshot.bank.sites
    ]
    call = GateCall(snapshot.layout, gates_tensor([gates], engine.base.device))
    model(call, input_ids=torch.tensor([engine.base.tokenizer(PROMPT)["input_ids"]]))
    for hook in hooks:
        hook.remove()
    return [torch.cat(each, dim=-1) for each in found]


def gates_of(engine: Engine, composition: Composition) -> np.ndarray:
    return engine.row(0, PROMPT, composition, Sampling()).mixture.overall


def test_conflict_is_the_cosine_of_the_dense_outputs(engine):
    found, gates = explain(engine, PROMPT, THREE, text=TEXT), gates_of(engine, THREE)
    for layer, y in enumerate(outputs(engine, gates)):
        for i, j in ((0, 1), (0, 2), (1, 2)):
            sign = np.sign(gates[layer, i] * gates[layer, j])
            cosine = sign * torch.cosine_similarity(y[i], y[j], dim=-1).numpy()  # [T]
            assert found.conflict_last[layer, i, j] == pytest.approx(cosine[-1], abs=1e-4)
            assert found.conflict_mean[layer, i, j] == pytest.approx(cosine.mean(), abs=1e-4)


def test_leakage_is_read_where_an_adapter_is_alone(engine):
    found, gates = explain(engine, PROMPT, THREE, text=TEXT), gates_of(engine, THREE)
    for i in range(3):
        alone = np.zeros_like(gates)
        alone[:, i] = gates[:, i]
        for layer, y in enumerate(outputs(engine, alone)):
            size = y.norm(dim=-1).mean(dim=-1).numpy()  # [n]
            np.testing.assert_allclose(found.leakage[layer, i], size / size[i], rtol=1e-4)


def test_the_texts_probabilities_are_those_of_single_passes(engine):
    found = explain(engine, PROMPT, THREE, text=TEXT)

    def single(composition: Composition) -> np.ndarray:
        return engine.log_probs([PROMPT + TEXT], composition)[0][-len(TEXT) :]

    read = found.attribution
    np.testing.assert_allclose(read.base, single(Composition()), atol=1e-4)
    np.testing.assert_allclose(read.composed, single(THREE), atol=1e-4)
    for i, name in enumerate(found.adapters):
        alone = Composition({name: THREE.weights[name]})
        np.testing.assert_allclose(read.alone[i], single(alone), atol=1e-4)
    assert found.pieces == tuple(TEXT) and found.text == TEXT
    best = np.argmax(read.alone, axis=0)
    for place, winner in enumerate(found.winners):
        rose = read.alone[best[place], place] - read.base[place]
        assert winner == (found.adapters[best[place]] if rose > 1e-4 else None)


def test_additivity_is_made_of_next_token_logits(engine):
    base, composed = (engine.next_token_logits(PROMPT, c) for c in (Composition(), THREE))
    parts = [
        engine.next_token_logits(PROMPT, Composition({name: weight})) - base
        for name, weight in THREE.weights.items()
    ]
    expected = 1 - np.linalg.norm(composed - base - sum(parts)) / np.linalg.norm(composed - base)
    assert explain(engine, PROMPT, THREE, text=TEXT).additivity == pytest.approx(expected, abs=1e-3)


def test_bands_left_out_are_the_compositions_own_bands(engine):
    found = explain(engine, PROMPT, THREE, text=TEXT)
    composed = torch.tensor(engine.next_token_logits(PROMPT, THREE)).double().log_softmax(0)
    for place, bands in enumerate(((0, 1, 1), (1, 0, 1), (1, 1, 0))):
        without = Composition(THREE.weights, bands=bands)
        scores = engine.log_probs([PROMPT + TEXT], without)[0][-len(TEXT) :]
        assert found.bands.change[place, -1] == pytest.approx(
            (scores - found.attribution.composed).mean(), abs=1e-4
        )
        other = torch.tensor(engine.next_token_logits(PROMPT, without)).double().log_softmax(0)
        kl = float((composed.exp() * (composed - other)).sum())
        assert found.bands.kl[place, -1] == pytest.approx(kl, rel=1e-2, abs=1e-5)
    assert found.bands.change.shape == found.bands.kl.shape == (3, 4)
    assert len({*found.bands.kl[0].tolist()}) == 4  # each adapter's band matters in its own way


def test_one_adapter_is_additive_and_has_no_pairs(llama):
    found = explain(llama, PROMPT, Composition({"plain": 1.5, "rslora": 0}), text=TEXT)
    assert found.adapters == ("plain",) and found.pairs == ()
    assert found.additivity == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(found.bands.change[:, 0], found.bands.change[:, 1], atol=1e-5)
    assert np.isnan(found.subspaces.collision).all()
    np.testing.assert_allclose(found.conflict_last[:, 0, 0], 1, atol=1e-5)
    assert "Conflict" not in as_text(found)


def test_no_adapter_leaves_the_base(llama):
    found = explain(llama, PROMPT, text=TEXT)
    assert found.adapters == () and set(found.winners) == {None}
    assert found.to_json()["additivity"] is None
    np.testing.assert_allclose(found.bands.kl, 0, atol=1e-9)
    assert "no adapter" in as_text(found)


def test_a_band_that_is_off_has_no_conflict(llama):
    found = explain(llama, PROMPT, Composition({"plain": 1, "rslora": 1}, bands=(0, 1, 1)), text=TEXT)
    assert np.isnan(found.conflict_last[0]).all() and np.isfinite(found.conflict_last[1:]).all()
    assert found.to_json()["conflict"]["last"][0] == [[None, None], [None, None]]
    assert np.isfinite(found.leakage).all()  # its adapters could still be heard there


def test_contrast_explains_the_opposite_it_subtracts(tmp_path):
    pair = (Attribute("mood", "Mood", ("plain", "rslora")),)
    engine = tiny.engine("llama", tiny.three_unlike(tmp_path, "llama"), pair)
    found = explain(engine, PROMPT, Composition({"plain": 1}, method="contrast", contrast=0.5), text=TEXT)
    assert found.adapters == ("plain", "rslora")
    np.testing.assert_allclose(found.gates, [[1, -0.5]] * 3)


@pytest.mark.parametrize("method", ["logits", "logits-contrast"])
def test_on_logits_adapters_are_explained_by_what_they_add_there(tmp_path, method):
    pair = (Attribute("mood", "Mood", ("plain", "rslora")),)
    engine = tiny.engine("llama", tiny.three_unlike(tmp_path, "llama"), pair)
    weights = {"plain": 1.0, "patterned": 0.5}
    asked = Composition(weights, method, strength=1.5)
    found = explain(engine, PROMPT, asked, text=TEXT)
    shares = {**weights, **({"rslora": -1.0} if method == "logits-contrast" else {})}
    assert found.adapters == tuple(name for name in engine.names if name in shares)
    np.testing.assert_allclose(found.gates, [[1.5 * shares[name] for name in found.adapters]] * 3)

    def single(composition: Composition) -> np.ndarray:
        return engine.log_probs([PROMPT + TEXT], composition)[0][-len(TEXT) :]

    assert found.additivity == pytest.approx(1, abs=1e-4)  # it is a sum by its very formula
    np.testing.assert_allclose(found.attribution.base, single(Composition()), atol=1e-4)
    np.testing.assert_allclose(found.attribution.composed, single(asked), atol=1e-3)
    for i, name in enumerate(found.adapters):
        alone = Composition({name: shares[name]}, "logits", strength=1.5)
        np.testing.assert_allclose(found.attribution.alone[i], single(alone), atol=1e-3)
    for place, bands in enumerate(((0, 1, 1), (1, 0, 1), (1, 1, 0))):
        without = Composition(weights, method, strength=1.5, bands=bands)
        expected = (single(without) - found.attribution.composed).mean()
        assert found.bands.change[place, -1] == pytest.approx(expected, abs=1e-3)
    summed = explain(engine, PROMPT, Composition(dict.fromkeys(found.adapters, 1.0)), text=TEXT)
    np.testing.assert_allclose(found.leakage, summed.leakage, rtol=1e-4)
    assert np.isnan(found.conflict_last).all() and np.isnan(found.conflict_mean).all()  # they never meet


def test_a_text_is_generated_where_none_is_given(llama):
    steps = list(llama.generate(PROMPT, THREE, PASSES))
    found = explain(llama, PROMPT, THREE, PASSES)
    assert found.tokens == tuple(step.token for step in steps)
    assert found.text == steps[-1].text and len(found.winners) == len(steps)


def test_a_long_text_is_read_in_parts_and_says_the_same(llama, monkeypatch):
    whole = explain(llama, PROMPT, THREE, text=TEXT)
    monkeypatch.setattr("composer.model.runtime.teacher_forcing.CHUNK_TOKENS", 40)  # two rows a pass
    parts = explain(llama, PROMPT, THREE, text=TEXT)
    np.testing.assert_allclose(parts.leakage, whole.leakage, rtol=1e-4)
    np.testing.assert_allclose(parts.attribution.alone, whole.attribution.alone, atol=1e-4)
    np.testing.assert_allclose(parts.conflict_mean, whole.conflict_mean, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "cure"),
    [(" \n", "is empty"), ("a\udcffb", "plain text"), ("x" * 250, "too long"), ("x" * 99_999, "too long")],
)
def test_a_text_that_cannot_be_used_says_why(llama, text, cure):
    with pytest.raises(ComposerError, match=cure):
        explain(llama, PROMPT, THREE, text=text)


def test_an_explanation_changes_nothing(llama):
    before = llama.next_token_logits(PROMPT, THREE)
    explain(llama, PROMPT, THREE, text=TEXT)
    np.testing.assert_array_equal(llama.next_token_logits(PROMPT, THREE), before)
    assert llama.names == ("plain", "rslora", "patterned")


# --- from the shell ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> str:
    folder: Path = tmp_path_factory.mktemp("cli")
    tiny.model("llama").save_pretrained(folder / "base")
    tiny.tokenizer().save_pretrained(folder / "base")
    tiny.three_unlike(folder, "llama")
    adapters = ", ".join(f"{name}: {{source: {name}}}" for name in ("plain", "rslora", "patterned"))
    (folder / "adapters.yaml").write_text(
        f"default: tiny\nbases:\n  tiny: {{id: tiny/llama, folder: base, adapters: {{{adapters}}}}}\n"
    )
    return str(folder / "adapters.yaml")


ARGV = ["explain", "--prompt", PROMPT, "--weights", "plain=1,rslora=-0.5,patterned=0"]


def test_explain_answers_one_object(catalog, capsys):
    assert main([*ARGV, "--max-new-tokens", "4", "--catalog", catalog, "--json"]) == 0
    out, _ = capsys.readouterr()
    answer = json.loads(out, parse_constant=lambda name: pytest.fail(f"JSON with {name}"))
    assert answer["adapters"] == ["plain", "rslora"] and answer["layers"] == 3
    for table in (answer["leakage"], *answer["conflict"].values(), answer["deltas"]["cosine"]):
        assert np.shape(table) == (3, 2, 2)
    assert np.shape(answer["subspaces"]["reads"]) == (3, 2, 2)
    assert np.shape(answer["log_probs"]["alone"]) == (2, len(answer["tokens"]))
    assert len(answer["winners"]) == len(answer["pieces"]) == len(answer["tokens"])
    assert set(answer["winners"]) <= {"plain", "rslora", None}
    assert answer["bands"]["names"] == ["early", "middle", "late"]
    assert answer["bands"]["left_out"] == ["plain", "rslora", "all"]
    assert np.shape(answer["bands"]["change"]) == (3, 3)
    assert answer["composition"]["weights"] == {"plain": 1.0, "rslora": -0.5, "patterned": 0.0}
    assert answer["additivity"] <= 1


def test_a_method_that_routes_every_token_says_so(catalog, capsys):
    assert main([*ARGV, "--method", "arrow", "--text", TEXT, "--catalog", catalog]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "before each token shares them out: plain (+1.00), rslora (-0.50)" in out


def test_without_json_the_output_is_tables(catalog, capsys):
    assert main([*ARGV, "--text", TEXT, "--catalog", catalog]) == 0
    out = capsys.readouterr().out
    assert out.startswith(PROMPT + TEXT + "\n")
    for word in ("plain + rslora", "plain <- rslora", "Additivity", "all adapters", "c_1", "late 2-2"):
        assert word in out
    assert max(map(len, out.splitlines())) <= 110


@pytest.mark.parametrize(
    ("argv", "cure"),
    [
        (["--prompt", " "], "prompt is empty"),
        (["--prompt", "x", "--weights", "plane=1"], "Did you mean plain"),
        (["--prompt", "x", "--weights", "plain=nan"], "between -8 and 8"),
        (["--prompt", "x", "--method", "summ"], "Did you mean sum"),
        (["--prompt", "x", "--text", ""], "text to explain is empty"),
        ([], "--prompt"),
    ],
)
def test_bad_input_exits_2_with_one_line(catalog, capsys, argv, cure):
    assert main(["explain", *argv, "--catalog", catalog, "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and cure in err
