import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.other import get_pattern_key

from composer.adapters.files import AdapterFiles, TensorInfo
from composer.adapters.fit.report import check_fit, scaling, tensor_site
from composer.adapters.hub import inspect
from tests.tools.adapters import CONFIG, SITE, linear_sites, lora_tensors, peft_adapter, tiny_llama

Q0 = "model.layers.0.self_attn.q_proj"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def sites():
    return linear_sites(tiny_llama())


def made(config=CONFIG, header=None, **changes) -> AdapterFiles:
    """An adapter as values only; `changes` replace keys of the config."""
    header = header or {key: TensorInfo("F32", array.shape) for key, array in lora_tensors().items()}
    return AdapterFiles("joy", "me/joy", None, {**config, **changes}, header, 1000, Path())


def info(*shape: int, dtype: str = "F32") -> TensorInfo:
    return TensorInfo(dtype, shape)


def pair(site: str = SITE, rank: int = 4, out: int = 16, inner: int = 16) -> dict[str, TensorInfo]:
    return {f"{site}.lora_A.weight": info(rank, inner), f"{site}.lora_B.weight": info(out, rank)}


def refusal(files: AdapterFiles, sites) -> str:
    """The only reason for refusing; every reason is one sentence that names the adapter and a cure."""
    report = check_fit(files, sites)
    assert not report.ok
    assert report.ranks == {}
    for reason in report.reasons:
        assert reason.startswith(f"{files.name} ")
        assert reason.endswith(".")
        assert ": " in reason
        assert "\n" not in reason
        assert len(reason) < 500
    assert len(report.reasons) == 1, report.reasons
    return report.reasons[0]


ACCEPTED = {
    "one module": LoraConfig(r=4, target_modules=["q_proj"]),
    "all linear": LoraConfig(r=8, target_modules="all-linear"),
    "a regex": LoraConfig(r=2, target_modules=r".*\.(q|v)_proj"),
    "some layers": LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[1]),
    "rank 1": LoraConfig(r=1, target_modules=ALL),
    "rsLoRA": LoraConfig(r=4, target_modules=ALL, use_rslora=True),
    "dropout": LoraConfig(r=4, target_modules=ALL, lora_dropout=0.1),
    "rank pattern": LoraConfig(
        r=4, target_modules=ALL, rank_pattern={"q_proj": 2, "layers.1.mlp.up_proj": 6}
    ),
    "alpha pattern": LoraConfig(r=4, target_modules=ALL, alpha_pattern={r".*\.0\..*_proj": 2, "v_proj": 32}),
    "gaussian": LoraConfig(r=4, target_modules=ALL, init_lora_weights="gaussian"),
    "orthogonal": LoraConfig(r=4, target_modules=ALL, init_lora_weights="orthogonal"),
    "no init": LoraConfig(r=4, target_modules=ALL, init_lora_weights=False),
}


@pytest.mark.parametrize("config", ACCEPTED.values(), ids=ACCEPTED)
def test_adapters_saved_by_peft_fit_with_its_own_ranks_and_scalings(config, sites, tmp_path):
    model = tiny_llama()
    peft = get_peft_model(model, config)
    peft.save_pretrained(tmp_path)
    files = inspect(str(tmp_path), name="joy")
    report = check_fit(files, sites)
    assert report.ok, report.reasons
    # PEFT, asked after the fact, is the oracle for both.
    oracle = {
        path.removeprefix("base_model.model."): module
        for path, module in peft.named_modules()
        if isinstance(module, LoraLayer)
    }
    assert report.ranks == {path: module.r["default"] for path, module in oracle.items()}
    for path, module in oracle.items():
        assert scaling(files.config, path, report.ranks[path]) == pytest.approx(module.scaling["default"])
    assert "fits" in str(report)
    assert report.bytes == (tmp_path / "adapter_model.safetensors").stat().st_size


def test_half_precision_adapters_fit(sites, tmp_path):
    peft_adapter(tmp_path, LoraConfig(r=4, target_modules=ALL), tiny_llama().to(torch.bfloat16))
    files = inspect(str(tmp_path))
    assert {tensor.dtype for tensor in files.header.values()} <= {"BF16", "F32"}
    assert check_fit(files, sites).ok


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_any_floating_point_type_fits(dtype, sites):
    assert check_fit(made(header={key: info(*t.shape, dtype=dtype) for key, t in pair().items()}), sites).ok


REFUSED_PEFT = {
    "DoRA": (LoraConfig(target_modules=["q_proj"], use_dora=True), "DoRA"),
    "modules_to_save": (
        LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]),
        "modules_to_save",
    ),
    "trainable tokens": (
        LoraConfig(target_modules=["q_proj"], trainable_token_indices=[1, 2]),
        "trainable tokens",
    ),
    "bias": (LoraConfig(target_modules=["q_proj"], bias="all"), "bias='none'"),
    "bias lora_only": (LoraConfig(target_modules=["q_proj"], bias="lora_only"), "bias='none'"),
    "lora_bias": (LoraConfig(target_modules=["q_proj"], lora_bias=True), "lora_bias=False"),
    "embedding": (LoraConfig(target_modules=["q_proj", "embed_tokens"]), "embedding"),
    "lm_head": (LoraConfig(target_modules=["q_proj", "lm_head"]), "lm_head"),
    "target_parameters": (
        LoraConfig(target_modules=[], target_parameters=["q_proj.weight"]),
        "target_parameters",
    ),
    "aLoRA": (
        LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", alora_invocation_tokens=[1]),
        "alora_invocation_tokens",
    ),
    "PiSSA": (LoraConfig(target_modules=["q_proj"], init_lora_weights="pissa"), "init_lora_weights is pissa"),
    "fast PiSSA": (LoraConfig(target_modules=["q_proj"], init_lora_weights="pissa_niter_4"), "pissa_niter_4"),
    "OLoRA": (LoraConfig(target_modules=["q_proj"], init_lora_weights="olora"), "olora"),
}


@pytest.mark.parametrize(("config", "said"), REFUSED_PEFT.values(), ids=REFUSED_PEFT)
def test_what_peft_saves_but_no_sum_can_hold_is_refused(config, said, sites, tmp_path):
    config.r = 4
    peft_adapter(tmp_path, config)
    assert said in refusal(inspect(str(tmp_path), name="joy"), sites)


@pytest.mark.parametrize("tell", ["config", "tensors"])
@pytest.mark.parametrize("name", ["DoRA", "embedding", "lm_head", "lora_bias", "trainable tokens"])
def test_either_the_config_or_the_tensors_are_enough_to_refuse(name, tell, sites, tmp_path):
    """A config that hides an option, or tensors that lack it, changes nothing."""
    config, said = REFUSED_PEFT[name]
    files = inspect(str(peft_adapter(tmp_path, config)), name="joy")
    if tell == "tensors":
        assert said.split("=")[0].split("'")[0] in refusal(made(header=files.header), sites)
    elif name not in ("embedding", "lm_head"):  # whose config is a plain one
        assert said in refusal(made(config=files.config), sites)
    else:
        assert check_fit(made(config=files.config), sites).ok


def test_an_added_vocabulary_is_refused(sites, tmp_path):
    peft = get_peft_model(tiny_llama(), LoraConfig(r=4, target_modules=["q_proj"]))
    peft.save_pretrained(tmp_path, save_embedding_layers=True)
    assert "added vocabulary" in refusal(inspect(str(tmp_path), name="joy"), sites)


REFUSED_CONFIG = {
    "another PEFT type": ({"peft_type": "IA3"}, "not a LoRA adapter"),
    "no PEFT type": ({"peft_type": None}, "not a LoRA adapter"),
    "a PEFT type that is a list": ({"peft_type": ["LORA"]}, "not a LoRA adapter"),
    "CorDA": ({"init_lora_weights": "corda"}, "corda"),
    "LoRA-GA": ({"init_lora_weights": "lora_ga"}, "lora_ga"),
    "LoftQ": ({"init_lora_weights": "loftq"}, "loftq"),
    "an init that is a list": ({"init_lora_weights": [1]}, "init_lora_weights"),
    "Arrow": ({"arrow_config": {"top_k": 3}}, "arrow_config"),
    "BdLoRA": ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
    "VeLoRA": ({"velora_config": {"rank": 1}}, "velora_config"),
    "MonteCLoRA": ({"monteclora_config": {"n": 2}}, "monteclora_config"),
    "KaSA": ({"kasa_config": {"beta": 1}}, "kasa_config"),
    "QALoRA": ({"use_qalora": True}, "use_qalora"),
    "layer replication": ({"layer_replication": [[0, 2]]}, "layer_replication"),
    "Megatron": ({"megatron_config": {"a": 1}}, "megatron_config"),
    "an option of the future": ({"use_marvel": True}, "use_marvel"),
    "a key with markup": ({"<img src=x>": 1}, "?img src=x?"),
    "r as a text": ({"r": "8"}, "r in adapter_config.json"),
    "r as a truth": ({"r": True}, "r in adapter_config.json"),
    "alpha as a text": ({"lora_alpha": "16"}, "alpha of 16"),
    "alpha as a truth": ({"lora_alpha": True}, "alpha of True"),
    "alpha missing a value": ({"lora_alpha": None}, "alpha of None"),
    "alpha not a number": ({"lora_alpha": math.nan}, "alpha of nan"),
    "alpha infinite": ({"lora_alpha": math.inf}, "alpha of inf"),
    "alpha zero": ({"lora_alpha": 0}, "alpha of 0"),
    "alpha negative": ({"lora_alpha": -8}, "alpha of -8"),
    "alpha absurd": ({"lora_alpha": 10**40}, "alpha of 1000"),
    "alpha pattern as a list": ({"alpha_pattern": ["q_proj"]}, "alpha_pattern"),
    "alpha pattern with a text": ({"alpha_pattern": {"q_proj": "many"}}, "alpha of many"),
    "alpha pattern with garbage": ({"alpha_pattern": {"q_proj": {"a": [1]}}}, "alpha of"),
    "alpha pattern that is no regex": ({"alpha_pattern": {"(q_proj": 2}}, "alpha_pattern"),
    "rank pattern as a text": ({"rank_pattern": "q_proj"}, "rank_pattern"),
    "use_rslora as a text": ({"use_rslora": "yes"}, "use_rslora"),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED_CONFIG.values(), ids=REFUSED_CONFIG)
def test_configs_that_are_not_a_plain_lora_are_refused(changes, said, sites):
    assert said in refusal(made(**changes), sites)


HEADERS = {
    "no tensors": ({}, "holds no LoRA matrices"),
    "a leftover": ({**pair(), "base_model.model.model.norm.weight": info(16)}, "not part of a LoRA"),
    "a bias of the base": (
        {**pair(), "base_model.model.model.layers.0.mlp.up_proj.bias": info(24)},
        "bias='none'",
    ),
    "A alone": ({f"{SITE}.lora_A.weight": info(4, 16)}, "only one of the two matrices"),
    "B alone": ({f"{SITE}.lora_B.weight": info(16, 4)}, "only one of the two matrices"),
    "twice": ({**pair(), f"{SITE}.lora_A.default.weight": info(4, 16)}, "more than one matrix"),
    "rank 0": (pair(rank=0), "a rank of 0"),
    "another rank": (pair(rank=257), "(257, said to be 4)"),
    "unlike ranks": ({**pair(), f"{SITE}.lora_B.weight": info(16, 5)}, "wrong shape"),
    "another width": (pair(inner=32), "wrong shape"),
    "another output": (pair(out=32), "wrong shape"),
    "a vector": ({**pair(), f"{SITE}.lora_A.weight": info(4)}, "wrong shape"),
    "a convolution": ({**pair(), f"{SITE}.lora_A.weight": info(4, 16, 1, 1)}, "wrong shape"),
    "integers": ({**pair(), f"{SITE}.lora_A.weight": info(4, 16, dtype="I8")}, "not floating-point"),
    "an unknown site": ({**pair(), **pair(SITE.replace("q_proj", "qkv"))}, "which this base does not have"),
    "no site of the base": (
        pair("base_model.model.transformer.h.0.attn.c_attn"),
        "no layer that this base has",
    ),
    "experts": (pair(SITE.replace("self_attn.q_proj", "mlp.experts.0.w1")), "experts of a mixture"),
    "GPT-NeoX's output": ({**pair(), **pair("base_model.model.embed_out")}, "output layer"),
    "a saved module": (
        {**pair(), "base_model.model.score.modules_to_save.weight": info(2, 16)},
        "modules_to_save",
    ),
}


@pytest.mark.parametrize(("header", "said"), HEADERS.values(), ids=HEADERS)
def test_headers_that_do_not_match_the_base_are_refused(header, said, sites):
    files = made()
    assert said in refusal(AdapterFiles("joy", "me/joy", None, files.config, header, 0, None), sites)


@pytest.mark.parametrize("rank", [1, 16, 17, 256, 300, 5000])
def test_any_rank_fits(rank, sites):
    report = check_fit(made(header=pair(rank=rank), r=rank), sites)
    assert report.ok
    assert report.ranks == {Q0: rank}


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("other/Model-7B", "(it says it was trained for other/Model-7B)"),
        ("/home/ann/secret/Model-7B/", "(it says it was trained for Model-7B)"),
        (r"C:\Users\ann\Model-7B", "(it says it was trained for Model-7B)"),
        ("<script>alert(1)</script>", "(it says it was trained for script?)"),
        ("x" * 10_000, "xxx...)"),
    ],
)
def test_another_base_is_named_when_shapes_do_not_fit_and_only_then(base, said, sites):
    assert check_fit(made(base_model_name_or_path=base), sites).ok
    reason = refusal(made(header=pair(inner=32), base_model_name_or_path=base), sites)
    assert said in reason
    assert "ann" not in reason


@pytest.mark.parametrize("base", [None, 7, {"a": 1}, "", "  "])
def test_a_base_that_is_not_named_is_not_mentioned(base, sites):
    assert "it says" not in refusal(made(header=pair(inner=32), base_model_name_or_path=base), sites)


def test_every_fault_is_reported_at_once(sites):
    report = check_fit(made(use_dora=True, bias="all", init_lora_weights="pissa"), sites)
    assert len(report.reasons) == 3


def test_a_flood_of_faults_stays_readable(sites):
    header = {f"base_model.model.layers.{i}.q.lora_A.weight": info(4, 16) for i in range(5000)}
    reason = refusal(AdapterFiles("joy", "me/joy", None, CONFIG, {**pair(), **header}, 0, None), sites | {})
    assert "4997 more" in reason


def test_names_of_tensors():
    assert tensor_site(f"{SITE}.lora_A.weight") == (Q0, "A")
    assert tensor_site(f"{SITE}.lora_B.default.weight") == (Q0, "B")
    for other in (
        f"{SITE}.weight",
        f"{SITE}.lora_A.bias",
        f"{SITE}.lora_magnitude_vector",
        f"{SITE}.lora_embedding_A",
        "lora_A.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        f"{SITE}.lora_A.joy.weight",
        f"{SITE}.lora_A.a.b.weight",
        "",
    ):
        assert tensor_site(other) is None


def test_scaling_by_hand():
    assert scaling({"lora_alpha": 16}, Q0, 8) == 2
    assert scaling({"lora_alpha": 16, "use_rslora": True}, Q0, 4) == 8
    assert scaling({}, Q0, 4) == 2  # PEFT's default alpha is 8
    assert scaling({"lora_alpha": 16, "alpha_pattern": {"k_proj": 1, "q_proj": 4}}, Q0, 8) == 0.5
    assert scaling({"lora_alpha": 16, "alpha_pattern": {"proj": 4}}, Q0, 8) == 2  # only after a dot
    assert scaling({"lora_alpha": 16, "alpha_pattern": None}, Q0, 8) == 2


KEYS = ["q_proj", "proj", "self_attn.q_proj", Q0, f"^{Q0}", r".*\.0\..*", "layers.[0-3].self_attn.q_proj"]
KEYS += [r"layers\.\d\.self_attn.(q|v)_proj", "q_pro", "model", ".*", "layers.0", "(k|v)_proj", "Q_PROJ"]


@pytest.mark.parametrize("key", KEYS)
def test_alpha_patterns_match_as_in_peft(key):
    config = {"lora_alpha": 16, "alpha_pattern": {key: 4}}
    assert scaling(config, Q0, 1) == config["alpha_pattern"].get(get_pattern_key([key], Q0), 16)


def test_too_many_patterns_are_refused(sites):
    assert "too complex" in refusal(made(alpha_pattern={f".*{i}": 1 for i in range(4097)}), sites)
    assert check_fit(made(alpha_pattern={f"layers.{i}.q_proj": 1 for i in range(1000)}), sites).ok


def test_the_report_survives_json_and_carries_no_path(sites, tmp_path):
    peft_adapter(tmp_path / "mine", LoraConfig(r=4, target_modules=ALL, use_dora=True))
    report = check_fit(inspect(str(tmp_path / "mine")), sites)
    assert str(tmp_path) not in json.dumps(report.reasons)
    assert report.name == "mine"
    assert str(report).startswith("mine: does not fit. mine uses DoRA")
    assert np.isfinite(report.bytes)
