"""The families that LlamaRunner computes, and what their configs and modules say about its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from composer.core.errors import sanitize
from composer.model.gated_model import GatedModel
from composer.model.runtime.llama.layer import Shape

SLIDING, FULL = "sliding_attention", "full_attention"

# What a config calls an activation -> what Shape calls it.
ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
# Rotations whose angles depend on nothing but the position.
ROTATIONS = ("default", "linear", "llama3", "yarn")
# Config entries that change the logits in a way that the runner does not compute.
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")


@dataclass(frozen=True)
class Family:
    """How a family differs from Llama."""

    # Layers that attend to a sliding window, if the config has one: "none", "all", or those that its
    # `layer_types` name ("typed").
    windows: str = "none"
    # Norms of each query and key head.
    head_norms: bool = False
    # Gemma's form: norms multiply by 1 + w in float32, there is one before and one after each sublayer, and
    # each type of layer has its own rotation.
    gemma: bool = False


FAMILIES = {
    "llama": Family(),
    "mistral": Family(windows="all"),
    "qwen2": Family(windows="typed"),
    "qwen3": Family(windows="typed", head_norms=True),
    "gemma3_text": Family(windows="typed", head_norms=True, gemma=True),
}


class Norms(NamedTuple):
    """The factors of a layer's norms as they are multiplied, by the names of Layer's fields. [d], or [D] for
    those of heads."""

    attention_norm: torch.Tensor
    mlp_norm: torch.Tensor
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    post_attention_norm: torch.Tensor | None
    post_mlp_norm: torch.Tensor | None


class Block(NamedTuple):
    """A decoder layer of a base, with what does not depend on the adapters."""

    module: nn.Module
    norms: Norms
    # As Layer has them.
    window: int | None
    rope: int


def why_not(model: GatedModel) -> str | None:
    """Why LlamaRunner does not compute a base, as the end of a sentence; None where it does."""
    config = model.model.config
    if config.model_type not in FAMILIES:
        return (
            f"there is no pass of its own for the family {sanitize(config.model_type, 40)}, as there is for "
            f"{', '.join(FAMILIES)}"
        )
    if _activation(config) not in ACTIVATIONS:
        return f"its activation is {sanitize(str(_activation(config)), 40)}, not {' or '.join(ACTIVATIONS)}"
    for cap in CAPS:
        if getattr(config, cap, None) is not None:
            return f"its config sets {cap}"
    if getattr(config, "use_bidirectional_attention", None):
        return "its tokens attend to later ones"
    kinds = set(_layer_types(config)) - {SLIDING, FULL}
    if kinds:
        return f"it has layers of the type {sanitize(str(min(kinds)), 40)}"
    for rotation in _rotations(config).values():
        kind = "none" if rotation is None else str(rotation.get("rope_type", "default"))
        if kind not in ROTATIONS:
            return f"its rotation is of the type {sanitize(kind, 40)}, not {' or '.join(ROTATIONS)}"
    return None


def shape_of(model: GatedModel) -> Shape:
    """What all the layers of a base have in common."""
    body, config = model.model.model, model.model.config
    attention, embedding = body.layers[0].self_attn, body.embed_tokens
    scale = getattr(embedding, "embed_scale", None)
    return Shape(
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        width=attention.head_dim,
        eps=config.rms_norm_eps,
        scaling=attention.scaling,
        activation=ACTIVATIONS[_activation(config)],
        # Rounded to the base's dtype, as the module multiplies by it.
        embedding_scale=1.0 if scale is None else float(scale.to(embedding.weight.dtype)),
        norm_in_float32=FAMILIES[config.model_type].gemma,
        windows=tuple(dict.fromkeys(_windows(config, len(body.layers)))),
    )


def blocks_of(model: GatedModel) -> tuple[Block, ...]:
    """The decoder layers of a base. Windows are those of the config at this moment."""
    config, layers = model.model.config, model.model.model.layers
    family, ropes = FAMILIES[config.model_type], list(_rotations(config))
    kinds = _layer_types(config) if family.gemma else ropes * len(layers)
    windows = _windows(config, len(layers))
    return tuple(
        Block(module, _norms(module, family), window, ropes.index(kind))
        for module, window, kind in zip(layers, windows, kinds, strict=True)
    )


def norm_factor(norm: nn.Module, in_float32: bool) -> torch.Tensor:
    """What a norm multiplies by: its weight, or Gemma's 1 + w in float32."""
    return 1.0 + norm.weight.detach().float() if in_float32 else norm.weight


def rotary_tables(model: GatedModel, positions: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """cos and sin of each rotation of a base at [1, T] positions, [T, D] each, in the order of Layer.rope."""
    body = model.model.model
    like = body.embed_tokens.weight[:1]
    calls = [(like, positions, *([] if kind is None else [kind])) for kind in _rotations(model.model.config)]
    return [(cos[0], sin[0]) for cos, sin in (body.rotary_emb(*call) for call in calls)]


def _norms(block: nn.Module, family: Family) -> Norms:
    def factor(path: str) -> torch.Tensor:
        return norm_factor(block.get_submodule(path), family.gemma)

    q, k = (factor("self_attn.q_norm"), factor("self_attn.k_norm")) if family.head_norms else (None, None)
    if not family.gemma:
        return Norms(factor("input_layernorm"), factor("post_attention_layernorm"), q, k, None, None)
    return Norms(
        factor("input_layernorm"),
        factor("pre_feedforward_layernorm"),
        q,
        k,
        factor("post_attention_layernorm"),
        factor("post_feedforward_layernorm"),
    )


def _activation(config: Any) -> str | None:
    name = "hidden_activation" if FAMILIES[config.model_type].gemma else "hidden_act"
    return getattr(config, name, None)


def _layer_types(config: Any) -> Sequence[str]:
    """The type of each layer; none where the family does not distinguish them."""
    return config.layer_types if FAMILIES[config.model_type].windows == "typed" else ()


def _windows(config: Any, layers: int) -> list[int | None]:
    family, window = FAMILIES[config.model_type], getattr(config, "sliding_window", None)
    if family.windows == "typed":
        return [window if kind == SLIDING else None for kind in config.layer_types]
    return [window if family.windows == "all" else None] * layers


def _rotations(config: Any) -> dict[str | None, dict | None]:
    """The parameters of each rotation, by the type of layer that has it; None: of all layers."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if not FAMILIES[config.model_type].gemma:
        return {None: parameters}
    return {kind: parameters.get(kind) for kind in dict.fromkeys(config.layer_types)}
