"""The fit report: whether an adapter can be composed on a base, from its config and header alone.

PEFT builds an adapter from its config and then fills in the tensors that have a place in it. So both must
say the same: a tensor that the config gives no place, or another rank, is refused and not guessed at. Options
that make an adapter something other than an additive LoRA, or are not known, are refused when switched on: to
guess their effect would be to compute something else than was trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from composer.adapters.fit.patterns import Patterns
from composer.adapters.fit.targets import left_out
from composer.adapters.fit.tensors import PLAIN, BaseNames, matrices, misnamed, tensor_site
from composer.adapters.scaling import rank_at, scaling
from composer.core.catalog_types import FitReport
from composer.core.errors import ComposerError, sanitize

if TYPE_CHECKING:  # hub.py is the network room; this one must not need it
    from composer.adapters.files import AdapterFiles, TensorInfo

__all__ = ["BaseNames", "check_fit", "scaling", "tensor_site"]

# The floating-point types that safetensors hands to torch as they are.
FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}

# Why each kind of adapter is refused, and the cure. They complete "<adapter> ...".
_REFUSALS = {
    "task": "{value}, and not one that writes text: choose an adapter trained with task_type CAUSAL_LM.",
    "type": "is not a LoRA adapter (peft_type is not LORA): choose one that is.",
    "dora": "uses DoRA, whose effect is no sum and cannot be composed: train it again with use_dora=False.",
    "modules": "replaces whole modules of the base (modules_to_save), which two adapters cannot do at once: "
    "train it again without modules_to_save.",
    "tokens": "trains token embeddings of its own (trainable tokens), which would overwrite the base's: "
    "train it again without trainable_token_indices.",
    "bias": "changes biases of the base: train it again with bias='none'.",
    "lora_bias": "adds a bias beside its matrices, which is left out of the sum: "
    "train it again with lora_bias=False.",
    "parameters": "targets parameters instead of linear layers (target_parameters), as for "
    "mixture-of-experts: train it again with target_modules alone.",
    "embedding": "adapts the embedding, which is a lookup and no linear layer: "
    "train it again without the embedding among target_modules.",
    "head": "adapts the output layer (lm_head), through which the fusion weights are read: "
    "train it again without lm_head among target_modules.",
    "vocabulary": "carries embedding rows of its own (an added vocabulary), which the base does not have: "
    "train it again with the base's tokenizer.",
    "init": "was started from a changed base (init_lora_weights is {value}), so it does not fit the "
    "original one: convert it to plain LoRA with PEFT's path_initial_model_for_weight_conversion.",
    "variant": "uses {value}, a LoRA variant or option that is not known to be a plain sum: "
    "train it again without it, or remove it from adapter_config.json if it has no effect.",
}

_TASKS = {
    "SEQ_CLS": "is a classifier of texts (task_type SEQ_CLS)",
    "TOKEN_CLS": "is a classifier of tokens (task_type TOKEN_CLS)",
    "QUESTION_ANS": "marks answers in a text (task_type QUESTION_ANS)",
    "FEATURE_EXTRACTION": "makes embeddings (task_type FEATURE_EXTRACTION)",
    "SEQ_2_SEQ_LM": "is for a base with an encoder (task_type SEQ_2_SEQ_LM)",
}

_SWITCHES = {
    "use_dora": "dora",
    "modules_to_save": "modules",
    "trainable_token_indices": "tokens",
    "lora_bias": "lora_bias",
    "target_parameters": "parameters",
}

# Starting values that leave the base as it is. pissa*, olora, corda, lora_ga and loftq do not.
_PLAIN_INITS = (None, True, False, "gaussian", "eva", "orthogonal")

# Options that decide nothing here: where the tensors are shows which layers were targeted, and the
# rest matters only to training, saving or merging.
_NEUTRAL = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "enable_lora",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "merge_weights",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
}
_KNOWN = _NEUTRAL | _SWITCHES.keys()


def check_fit(
    files: AdapterFiles, sites: Mapping[str, tuple[int, int]], base: BaseNames = PLAIN
) -> FitReport:
    """Whether the adapter can be composed on the base whose linear layers are `sites`.

    sites: module path of every dense linear layer inside the decoder layers -> (out_features, in_features).
    base: other facts about the base. Makes no request and loads no weights. Whether the weights are finite is
    checked when they are loaded.
    """
    config, found = files.config, matrices(files.header, base)
    kinds = {**_tensor_kinds(found), **_config_kinds(config)}
    if "task" in kinds:
        kinds = {"task": kinds["task"]}  # what else it has belongs to its task
    if "modules" in kinds:
        kinds.pop("vocabulary", None)  # a saved lm_head is one of the modules
    phrases = [_REFUSALS[kind].format(value=sanitize(value)) for kind, value in kinds.items()]
    aside = base.aside - sites.keys()
    found = {tensor: place for tensor, place in found.items() if place is None or place[0] not in aside}
    pairs, duplicates = _pairs(files.header, found)
    # What the header lacks or has besides is told only when no refusal explains it already.
    if not phrases:
        strange = [tensor for tensor, place in found.items() if place is None or place[0] not in sites]
        phrases += misnamed(strange, sites)
    if not phrases:
        phrases += _shape_faults(pairs, duplicates, sites, config, len(found) < len(files.header))
        phrases += _leftovers(found)
    phrases += [] if phrases else _config_faults(config, pairs, base)
    reasons = tuple(f"{files.name} {phrase}" for phrase in phrases)
    ranks = {} if reasons else {site: pairs[site]["A"].shape[0] for site in sites if site in pairs}
    return FitReport(files.name, files.source, not reasons, reasons, ranks, files.revision, files.bytes)


def _config_kinds(config: Mapping[str, Any]) -> dict[str, object]:
    """The refusals (keys of _REFUSALS) that the config calls for, each with the value to quote."""
    if config.get("peft_type") != "LORA":
        return {"type": None}  # the rest of the config means something else then
    kinds: dict[str, object] = {}
    if (task := config.get("task_type")) not in (None, "CAUSAL_LM"):
        known = isinstance(task, str) and task in _TASKS
        kinds["task"] = _TASKS[task] if known else f"has the task_type {sanitize(task, 40)}, unknown to PEFT"
    kinds |= {kind: None for key, kind in _SWITCHES.items() if config.get(key)}
    if config.get("bias") not in (None, "none"):
        kinds["bias"] = None
    init = config.get("init_lora_weights")
    if not isinstance(init, (str, bool, type(None))) or init not in _PLAIN_INITS:
        kinds["init"] = init
    unknown = [key for key, value in config.items() if value and key not in _KNOWN]
    if unknown:
        kinds["variant"] = _some(unknown)
    return kinds


def _tensor_kinds(found: Mapping[str, tuple[str, str] | None]) -> dict[str, object]:
    """The refusals that the names of the tensors call for, whatever the config says."""
    return {kind: None for tensor, site in found.items() for kind in [_tensor_kind(tensor, site)] if kind}


def _tensor_kind(tensor: str, site: tuple[str, str] | None) -> str | None:
    outer = (site[0] if site else tensor.removesuffix(".weight")).rsplit(".", 1)[-1]
    if site:
        return {"lm_head": "head", "embed_out": "head"}.get(outer)
    for mark, kind in (
        ("lora_magnitude_vector", "dora"),
        ("lora_embedding_", "embedding"),
        ("trainable_tokens", "tokens"),
        ("modules_to_save", "modules"),
    ):
        if mark in tensor:
            return kind
    if re.search(r"\.lora_[AB]\.([^.]+\.)?bias$", tensor):
        return "lora_bias"
    if tensor.endswith(".bias"):
        return "bias"
    if outer in ("embed_tokens", "embed_in", "wte", "lm_head", "embed_out") and tensor.endswith(".weight"):
        return "vocabulary"
    return None


def _pairs(
    header: Mapping[str, TensorInfo], found: Mapping[str, tuple[str, str] | None]
) -> tuple[dict[str, dict[str, TensorInfo]], list[str]]:
    """The A and B of every site, and the sites that have one of them twice."""
    pairs: dict[str, dict[str, TensorInfo]] = {}
    duplicates = []
    for tensor, site in found.items():
        if site:
            path, matrix = site
            if matrix in pairs.setdefault(path, {}):
                duplicates.append(path)
            pairs[path][matrix] = header[tensor]
    return pairs, duplicates


def _shape_faults(
    pairs: Mapping[str, Mapping[str, TensorInfo]],
    duplicates: list[str],
    sites: Mapping[str, tuple[int, int]],
    config: Mapping[str, Any],
    aside: bool,
) -> Iterator[str]:
    """aside: whether there are matrices of layers that no text passes through."""
    trained = _trained_for(config)
    if not pairs:
        yield (
            "adapts only layers that no text passes through, such as an image encoder's: choose another one."
            if aside
            else "holds no LoRA matrices: save it again with PEFT."
        )
        return
    if duplicates:
        yield f"has more than one matrix for {_some(duplicates)}: save one adapter alone with PEFT."
    absent = [path for path in pairs if path not in sites]
    if any(re.search(r"\.experts(\.|$)", path) for path in absent):
        yield (
            f"adapts the experts of a mixture ({_some(absent)}), which are no linear layers of this base: "
            "train it again on the attention layers alone."
        )
        return
    if len(absent) == len(pairs):
        yield f"targets no layer that this base has{trained}: choose an adapter trained for this base."
        return
    if absent:
        yield f"targets {_some(absent)}, which this base does not have{trained}: choose one trained for it."
    yield from _matrix_faults({path: pair for path, pair in pairs.items() if path in sites}, sites, trained)


def _matrix_faults(
    pairs: Mapping[str, Mapping[str, TensorInfo]], sites: Mapping[str, tuple[int, int]], trained: str
) -> Iterator[str]:
    """What is wrong with the matrices of sites that the base has. trained: for which base, if it says so."""
    half, typed, empty, shaped = [], [], [], []
    for path, pair in pairs.items():
        if len(pair) < 2:
            half.append(path)
        elif not {info.dtype for info in pair.values()} <= FLOATS:
            typed.append(path)
        elif not all(info.shape and all(info.shape) for info in pair.values()):
            empty.append(path)
        elif (pair["B"].shape, pair["A"].shape) != _expected(sites[path], pair["A"].shape[0]):
            shaped.append(path)
    if half:
        yield f"has only one of the two matrices for {_some(half)}: save it again with PEFT."
    if typed:
        dtypes = (info.dtype for path in typed for info in pairs[path].values())
        kinds = _some(dtype for dtype in dtypes if dtype not in FLOATS)
        yield (
            f"has weights of type {kinds} for {_some(typed)}, which are not floating-point numbers that can "
            "be computed with: save it in bf16 or fp32."
        )
    if empty:
        yield (
            f"has empty matrices for {_some(empty)}, a rank of 0: save it again with its weights gathered, "
            "as DeepSpeed ZeRO-3 and FSDP need it."
        )
    if shaped:
        yield (
            f"has matrices of the wrong shape for {_some(_sized(shaped, pairs, sites))}{trained}: "
            "choose an adapter trained for this base."
        )


def _expected(site: tuple[int, int], rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
    out_features, in_features = site
    return (out_features, rank), (rank, in_features)


def _sized(
    paths: Iterable[str], pairs: Mapping[str, Any], sites: Mapping[str, tuple[int, int]]
) -> Iterator[str]:
    """Each path with the shapes that it has and the layer's own."""
    for path in paths:
        shapes = " and ".join("x".join(map(str, pairs[path][matrix].shape)) for matrix in "BA")
        yield f"{path} ({shapes} on {sites[path][0]}x{sites[path][1]})"


def _leftovers(found: Mapping[str, tuple[str, str] | None]) -> Iterator[str]:
    rest = [tensor for tensor, place in found.items() if place is None]
    if rest:
        yield f"holds tensors that are not part of a LoRA ({_some(rest)}): save it again with PEFT."


def _config_faults(config: Mapping[str, Any], pairs: Mapping[str, Any], base: BaseNames) -> Iterator[str]:
    """Where the config would have PEFT build something else than the tensors need."""
    patterns, unlike = Patterns(), []
    try:
        for option, paths in left_out(config, pairs, base.default_targets, patterns).items():
            yield (
                f"has matrices for {_some(paths)}, which {option} in adapter_config.json leaves out, so "
                f"that PEFT would not use them: correct {option}, or save it again with PEFT."
            )
        for path, pair in pairs.items():
            scaling(config, path, 1, patterns)
            rank, said = pair["A"].shape[0], rank_at(config, path, patterns)
            if rank != said:
                unlike.append(f"{path} ({rank}, said to be {said})")
    except ComposerError as fault:
        yield str(fault).removeprefix("The adapter ")
    if unlike:
        yield (
            f"has matrices of another rank than adapter_config.json says for {_some(unlike)}: correct r or "
            "rank_pattern there, and the alpha that belongs to it."
        )


def _trained_for(config: Mapping[str, Any]) -> str:
    """ " (it says it was trained for X)", without local paths."""
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base.strip():
        return ""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base, re.ASCII):
        base = re.split(r"[/\\]", base.rstrip("/\\"))[-1]
    return f" (it says it was trained for {sanitize(base, 80)})"


def _some(names: Iterable[str]) -> str:
    """Up to three names and how many more there are."""
    names = list(dict.fromkeys(names))
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sanitize(name, 100) for name in names[:3]) + rest
