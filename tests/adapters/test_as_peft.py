"""An adapter does what PEFT makes of its two files, or it is refused: never something else."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file

from composer.adapters.fit.patterns import Patterns
from composer.adapters.fit.targets import left_out
from composer.core.errors import ComposerError
from tests.tools.adapters import linear_sites, peft_adapter, tiny_llama
from tests.tools.oracle import (
    WEIGHTS,
    by_peft,
    by_us,
    change_config,
    reader,
    rename,
    same,
)

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
UNSLOTH = (
    r"(?:.*?(?:vision|image|visual|patch|language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)"
    r".*?(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\."
    r"(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\."
    r"(?:(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)))"
)


@pytest.fixture(scope="module")
def llama():
    return reader(tiny_llama())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An adapter with matrices at every site, r 4 and two sites at rank 2."""
    ranks = {"layers.1.mlp.up_proj": 2}
    config = LoraConfig(r=4, lora_alpha=8, target_modules=ALL, rank_pattern=ranks)
    return peft_adapter(tmp_path_factory.mktemp("whole"), config)


@pytest.fixture
def copied(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "joy")


def verdict(llama, folder: Path) -> str:
    """ "as PEFT" or the reason; fails where we do something else than PEFT."""
    return compared(llama, folder)[0]


def compared(llama, folder: Path) -> tuple[str, object]:
    """The verdict, and what PEFT makes of it."""
    report, ours = by_us(llama, folder)
    reference = by_peft(tiny_llama(), folder)
    if report.ok:
        assert reference is not None and not reference[1], "PEFT refuses it, or leaves out a part"
        assert same(ours, reference[0])
        return "as PEFT", reference
    for reason in report.reasons:
        assert reason.startswith("joy ") and reason.endswith(".") and ": " in reason and len(reason) < 700
    return " ".join(report.reasons), reference


def refused_as_by_peft(llama, folder: Path) -> str:
    """The reason; fails where PEFT would use all of it."""
    said, reference = compared(llama, folder)
    assert said != "as PEFT"
    assert reference is None or reference[1], "PEFT uses all of it"
    return said


# --- rank and alpha ------------------------------------------------------------------------------


def merged_by_peft(folder: Path) -> Path:
    """PEFT's `linear` merge of two adapters with a rank pattern, which loses it."""
    ranks = {"layers.0.self_attn.q_proj": 2}
    parts = [
        peft_adapter(folder / str(i), LoraConfig(r=8, target_modules=ALL, rank_pattern=ranks))
        for i in range(2)
    ]
    model = PeftModel.from_pretrained(tiny_llama(), parts[0], "a")
    model.load_adapter(parts[1], "b")
    model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "both", combination_type="linear")
    model.save_pretrained(folder, selected_adapters=["both"])
    return folder / "both"


def test_a_linear_merge_that_lost_its_rank_pattern_is_refused_and_its_cure_cures(llama, tmp_path):
    folder = merged_by_peft(tmp_path)
    said = refused_as_by_peft(llama, folder)
    assert "model.layers.0.self_attn.q_proj (2, said to be 8)" in said and "rank_pattern" in said
    site = "layers.0.self_attn.q_proj"
    change_config(folder, rank_pattern={site: 2}, alpha_pattern={site: 2})
    assert verdict(llama, folder) == "as PEFT"


@pytest.mark.parametrize(
    "changes",
    [
        {"r": 2},
        {"r": 5},
        {"rank_pattern": {}},
        {"rank_pattern": {"up_proj": 2}},
        {"rank_pattern": {".*": 4}},
        {"rank_pattern": {"up_proj": 3, "layers.1.mlp.up_proj": 2}},
        {"r": ...},
        {"r": 4.0},
        {"r": "4"},
        {"r": 0},
        {"r": -4},
        {"r": None},
        {"rank_pattern": {"layers.1.mlp.up_proj": 2.0}},
        {"rank_pattern": {"layers.1.mlp.up_proj": "2"}},
    ],
    ids=str,
)
def test_a_rank_that_the_config_does_not_give_is_refused_with_both_numbers(changes, llama, copied):
    said = refused_as_by_peft(llama, change_config(copied, **changes))
    assert "rank" in said or " r " in said


@pytest.mark.parametrize(
    "changes",
    [
        {"r": 9, "rank_pattern": {"layers.1.mlp.up_proj": 2, ".*": 4}},
        {"rank_pattern": {"layers.1.mlp.up_proj": 2, "q_proj": 4, "nobody": 7}},
        {"r": 0, "rank_pattern": {"layers.1.mlp.up_proj": 2, ".*": 4}},
        {"r": 2, "rank_pattern": {r"^(?!.*layers\.1\.mlp\.up_proj$).*": 4}},
        {"lora_alpha": 16.5},
        {"alpha_pattern": {"q_proj": 1, r".*\.1\..*": 32, ".*_proj": 3}},
        {"alpha_pattern": {r"(?:layers\.0\.).*": 5}, "use_rslora": True},
        {"fan_in_fan_out": True},
        {"task_type": None},
        {"task_type": "CAUSAL_LM"},
        {"task_type": ...},
    ],
    ids=str,
)
def test_ranks_and_alphas_are_peft_s(changes, llama, copied):
    assert verdict(llama, change_config(copied, **changes)) == "as PEFT"


TASKS = {
    "SEQ_CLS": "is a classifier of texts",
    "TOKEN_CLS": "is a classifier of tokens",
    "QUESTION_ANS": "marks answers",
    "FEATURE_EXTRACTION": "makes embeddings",
    "SEQ_2_SEQ_LM": "with an encoder",
    "CAUSAL": "unknown to PEFT",
    "causal_lm": "unknown to PEFT",
}


@pytest.mark.parametrize(("task", "said"), TASKS.items())
def test_an_adapter_for_another_task_is_called_that(task, said, llama, copied):
    report, _ = by_us(llama, change_config(copied, task_type=task, modules_to_save=["score"]))
    assert len(report.reasons) == 1 and said in report.reasons[0] and "CAUSAL_LM" in report.reasons[0]


# --- which layers are targeted -------------------------------------------------------------------

TARGETED = {
    "all-linear": {"target_modules": "all-linear"},
    "ALL-LINEAR": {"target_modules": "ALL-LINEAR"},
    "a regex": {"target_modules": r".*_proj"},
    "Unsloth's": {"target_modules": UNSLOTH},
    "a look-ahead": {"target_modules": r"^(?!.*visual).*(?:proj)$"},
    "upper case by a flag": {"target_modules": r"(?i).*_PROJ"},
    "longer ends": {"target_modules": [f"{part}.{name}" for part in ("self_attn", "mlp") for name in ALL]},
    "layers by number": {"layers_to_transform": [0, 1]},
    "layers after a name": {"layers_to_transform": [0, 1], "layers_pattern": "layers"},
    "layers after some names": {"layers_to_transform": [1, 0], "layers_pattern": ["h", "lay.*s"]},
    "no layers named": {"layers_to_transform": []},
    "excludes what it has not": {"exclude_modules": ["lm_head", "vision"]},
    "excludes by a regex": {"exclude_modules": r".*(?:vision|lm_head).*"},
}

LEFT_OUT = {
    "fewer targets": ({"target_modules": ["q_proj"]}, "target_modules"),
    "no target": ({"target_modules": []}, "target_modules"),
    "the end of a name": ({"target_modules": [f"{name[1:]}" for name in ALL]}, "target_modules"),
    "another case": ({"target_modules": [name.upper() for name in ALL]}, "target_modules"),
    "a regex for one layer": ({"target_modules": r".*layers\.0\..*_proj"}, "target_modules"),
    "a name that is no regex for the path": ({"target_modules": "q_proj"}, "target_modules"),
    "excluded": ({"exclude_modules": ["v_proj"]}, "exclude_modules"),
    "excluded whole": ({"exclude_modules": ["model.layers.0.mlp.up_proj"]}, "exclude_modules"),
    "excluded by a regex": ({"exclude_modules": r".*\.mlp\..*"}, "exclude_modules"),
    "one layer": ({"layers_to_transform": [0]}, "layers_to_transform"),
    "one layer, no list": ({"layers_to_transform": 1}, "layers_to_transform"),
    "a layer that is not there": ({"layers_to_transform": [7]}, "layers_to_transform"),
    "after another name": ({"layers_to_transform": [0, 1], "layers_pattern": "h"}, "layers_to_transform"),
    "PEFT's usual targets": ({"target_modules": None}, "target_modules"),
    "layers beside a regex": ({"target_modules": ".*", "layers_to_transform": [0]}, "layers_to_transform"),
    "layers' name alone": ({"layers_pattern": "layers"}, "layers_pattern"),
    "a target that is a number": ({"target_modules": 5}, "target_modules"),
    "targets of another kind": ({"target_modules": {"q_proj": 1}}, "target_modules"),
    "a regex that is none": ({"target_modules": "(q_proj"}, "target_modules"),
    "an exclusion that is none": ({"exclude_modules": "*"}, "exclude_modules"),
    "layers by name": ({"layers_to_transform": ["0"]}, "layers_to_transform"),
}


@pytest.mark.parametrize("changes", TARGETED.values(), ids=TARGETED)
def test_configs_that_target_all_its_layers_load_as_by_peft(changes, llama, copied):
    assert verdict(llama, change_config(copied, **changes)) == "as PEFT"


@pytest.mark.parametrize(("changes", "said"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_matrices_that_the_config_leaves_out_are_refused(changes, said, llama, copied):
    assert said in refused_as_by_peft(llama, change_config(copied, **changes))


def test_a_config_without_targets_has_those_that_peft_takes_for_the_family(llama, tmp_path):
    folder = peft_adapter(tmp_path, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    assert verdict(llama, change_config(folder, target_modules=None)) == "as PEFT"


def test_targets_without_matrices_add_nothing(llama, tmp_path):
    folder = peft_adapter(tmp_path, LoraConfig(r=4, target_modules=["q_proj"]))
    assert verdict(llama, change_config(folder, target_modules="all-linear")) == "as PEFT"


NAMES = st.sampled_from([*ALL, "proj", "self_attn", "layers", "0", "1", "mlp.up_proj", "model", "lm_head"])
PIECES = st.sampled_from(
    ["q_proj", ".*", r"\.", "layers", "0", "(?:q|v)_proj", "mlp", "^", "$", "[01]", "|", "?"]
)
REGEXES = st.lists(PIECES, min_size=1, max_size=6).map("".join)
TARGETS = st.one_of(st.lists(NAMES, max_size=4), REGEXES, st.just("all-linear"))
NUMBERS = st.one_of(st.none(), st.integers(0, 2), st.lists(st.integers(0, 2), max_size=2))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    targets=TARGETS,
    excluded=st.one_of(st.none(), st.lists(NAMES, max_size=2), REGEXES),
    layers=NUMBERS,
    before=st.one_of(st.none(), st.just("layers"), st.lists(REGEXES, max_size=2)),
)
def test_targets_are_those_of_peft_for_any_config(targets, excluded, layers, before):
    options = {
        "target_modules": targets,
        "exclude_modules": excluded,
        "layers_to_transform": layers,
        "layers_pattern": before,
    }
    paths = list(linear_sites(TINY))
    try:
        config = LoraConfig(**options)
        if config.target_modules == "all-linear":
            config.target_modules = set(paths)
        expected = {path for path in paths if not check_target_module_exists(config, path)}
    except Exception:  # PEFT refuses, in words of its own
        with pytest.raises(ComposerError):
            left_out(options, paths, tuple, Patterns())
        return
    try:
        found = left_out(options, paths, tuple, Patterns())
    except ComposerError as fault:  # e.g. a set in a set, which `re` takes with a warning
        assert "too complex" in str(fault)
        return
    assert {path for own in found.values() for path in own} == expected


TINY = tiny_llama()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(key=st.one_of(NAMES, REGEXES), path=st.sampled_from(list(linear_sites(TINY))))
def test_patterns_of_ranks_and_alphas_match_as_in_peft(key, path):
    try:
        expected = get_pattern_key([key], path) == key
    except Exception:
        with pytest.raises(ComposerError, match="no regular expression"):
            Patterns().tail("rank_pattern", key, path)
        return
    assert Patterns().tail("rank_pattern", key, path) == expected


# --- the names of tensors ------------------------------------------------------------------------

HEAD = r"^base_model\.model\."
WRAPPED = {
    "torch.compile outside": (HEAD, "_orig_mod.base_model.model.", "_orig_mod"),
    "torch.compile inside": (HEAD, "base_model.model._orig_mod.", "_orig_mod"),
    "torch.compile of each layer": (r"(layers\.\d)", r"\1._orig_mod", "_orig_mod"),
    "DDP outside": (HEAD, "module.base_model.model.", "DDP"),
    "DDP inside": (HEAD, "base_model.model.module.", "DDP"),
    "FSDP outside": (HEAD, "_fsdp_wrapped_module.base_model.model.", "FSDP"),
    "FSDP of each layer": (r"(layers\.\d)", r"\1._fsdp_wrapped_module", "FSDP"),
    "checkpointed layers": (r"(layers\.\d)", r"\1._checkpoint_wrapped_module", "checkpointing"),
    "no prefix": (HEAD, "", "rename"),
    "half a prefix": (HEAD, "base_model.", "rename"),
    "a prefix twice": (HEAD, "base_model.model.base_model.model.", "rename"),
    "the body alone": (HEAD + "model.", "base_model.model.", "rename"),
    "a multimodal base's": (HEAD + "model.", "base_model.model.model.language_model.", "rename"),
    "an adapter's name": (r"\.weight$", ".joy.weight", "rename"),
}


@pytest.mark.parametrize(("pattern", "other", "said"), WRAPPED.values(), ids=WRAPPED)
def test_names_that_peft_does_not_find_are_reported_with_those_it_does(pattern, other, said, llama, copied):
    told = refused_as_by_peft(llama, rename(copied, pattern, other))
    assert said in told
    # The cure: as it says, in all names alike.
    wrong, right = re.search(r"rename (\S+) to (\S+) and the others alike", told).groups()
    assert wrong in load_file(copied / WEIGHTS)
    before, after = (re.sub(r"layers\.\d.*", "", name) for name in (wrong, right))
    inner = re.search(r"layers\.\d\.(\w+\.)?(?:self_attn|mlp)", wrong)[1]
    rename(copied, f"^{re.escape(before)}", after)
    rename(copied, rf"(layers\.\d\.){inner}" if inner else "^", r"\1" if inner else "")
    rename(copied, r"(lora_[AB])\.joy\.", r"\1.")
    assert right in load_file(copied / WEIGHTS)
    assert verdict(llama, copied) == "as PEFT"


def test_the_name_default_in_the_tensors_is_read_as_by_peft(llama, copied):
    assert by_us(llama, rename(copied, r"\.weight$", ".default.weight"))[0].ok
    assert same(by_us(llama, copied)[1], by_peft(tiny_llama(), copied)[0])


@pytest.mark.parametrize(
    ("pattern", "other", "said"),
    [
        (r"lora_([AB])\.weight", lambda found: f"lora_{'down' if found[1] == 'A' else 'up'}.weight", "kohya"),
        (
            r"lora_([AB])\.weight",
            lambda found: f"lora.{'down' if found[1] == 'A' else 'up'}.weight",
            "diffusers",
        ),
        (r"lora_([AB])\.weight", lambda found: f"lora_{found[1].lower()}", "MLX"),
    ],
    ids=["kohya", "diffusers", "MLX"],
)
def test_another_tool_s_format_is_called_by_its_name(pattern, other, said, llama, copied):
    assert said in refused_as_by_peft(llama, rename(copied, pattern, other))


def test_part_of_the_tensors_under_wrong_names_is_refused_too(llama, copied):
    said = refused_as_by_peft(llama, rename(copied, r"^base_model\.model\.(model\.layers\.1)", r"\1"))
    assert "rename model.layers.1" in said


# --- patterns that could run for years -----------------------------------------------------------

BOMBS = [
    "(a+)+$",
    r"(?:[a-z_.0-9]+)*!",
    r"(.*a){25}!",
    ".*" * 30 + "!",
    r"(?:.|.)*!",
    r"(?:\w|\d|_|[a-z])*" * 8 + "!",
    r"(.*)\1\1\1!",
    r"((.*)*)*((.*)*)*!",
    "(" * 3000,
    "(?:" * 900 + "a" + ")*" * 900,
    "x" * 200_000 + "[",
]


SLOW = r"(?:.+?){9}\d\d"  # takes hours
OPTIONS = ["target_modules", "exclude_modules", "rank_pattern", "alpha_pattern", "layers_pattern"]


PAIRS = [(bomb, option) for bomb in BOMBS for option in OPTIONS]
PAIRS += [(SLOW, "target_modules"), (SLOW, "rank_pattern")]


@pytest.mark.parametrize(("bomb", "option"), PAIRS, ids=lambda text: text[:14])
def test_no_pattern_holds_anybody_up(bomb, option, llama, copied):
    value = {bomb: 4} if "pattern" in option and option != "layers_pattern" else bomb
    more = {"layers_to_transform": [0, 1]} if option == "layers_pattern" else {}
    began = time.monotonic()
    report, _ = by_us(llama, change_config(copied, **{option: value}, **more))
    assert time.monotonic() - began < 12
    assert report.ok or option.split("_")[0] in " ".join(report.reasons)
