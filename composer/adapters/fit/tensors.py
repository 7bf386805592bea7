"""What the names of an adapter's tensors say: which matrix of which layer, or why PEFT would not find it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from composer.core.errors import sanitize

_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")
# The same, whatever is in front and whatever the adapter is called.
_LOOSE = re.compile(r"(.+?)\.lora_([AB])(?:\.[^.]+)?\.weight")

# Segments that training tools put around a model, and whose they are.
_WRAPPERS = {
    "_orig_mod": "torch.compile's _orig_mod",
    "_fsdp_wrapped_module": "FSDP's _fsdp_wrapped_module",
    "_checkpoint_wrapped_module": "activation checkpointing's _checkpoint_wrapped_module",
    "module": "DDP's module",
}
# What may stand before a decoder's list of layers without being another tower's.
_OUTER = {"base_model", "model", "language_model", "text_model", "transformer", "decoder", "gpt_neox"}

_FORMATS = (
    (r"\.(?:hada|lokr|oft|glora)_\w+", "LyCORIS"),
    (r"\.lora_[ab]", "MLX"),
    (r"lora_(?:unet|te\d?)_.*|.*\.lora_(?:down|up)\.weight|.*\.alpha", "kohya"),
    (r"\.lora(?:_linear_layer)?\.(?:down|up)\.weight", "diffusers"),
)


@dataclass(frozen=True)
class BaseNames:
    """What a base knows beside its linear layers."""

    # From the names of an adapter's tensors in its file to those that PEFT looks for, where both differ;
    # transformers renamed some models' modules.
    renamed: Callable[[Collection[str]], Mapping[str, str]] = lambda names: {}
    # The targets that PEFT takes on this base for a config that names none.
    default_targets: Callable[[], Collection[str]] = tuple
    # Its linear layers that no text passes through, such as those of an image encoder.
    aside: frozenset[str] = field(default_factory=frozenset)


PLAIN = BaseNames()


def tensor_site(tensor: str) -> tuple[str, str] | None:
    """The site and matrix ("A" or "B") of a LoRA tensor's name, as PEFT's loader reads it.

    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" is
    ("model.layers.0.self_attn.q_proj", "A"); None for any other tensor.
    """
    match = _TENSOR.fullmatch(tensor)
    return (match[1], match[2]) if match else None


def matrices(header: Collection[str], base: BaseNames) -> dict[str, tuple[str, str] | None]:
    """`tensor_site` of every tensor of a file, under the name that PEFT gives it on this base."""
    renamed = base.renamed(header)
    return {tensor: tensor_site(renamed.get(tensor, tensor)) for tensor in header}


def misnamed(tensors: Iterable[str], sites: Collection[str]) -> Iterator[str]:
    """Phrases about tensors that are no LoRA of this base under their names, and would be under others."""
    tensors, reported = list(tensors), set()
    tails = _tails(sites)
    for tensor in tensors:
        proper, wrapper = _proper(tensor, tails)
        if proper and wrapper not in reported:
            reported.add(wrapper)
            whose = f"has {wrapper} in" if wrapper else "has other names for"
            yield (
                f"{whose} its tensors, where PEFT does not find them: rename {sanitize(tensor, 120)} to "
                f"{sanitize(proper, 120)} and the others alike."
            )
    for pattern, tool in _FORMATS:
        if any(re.search(rf"(?:{pattern})$", tensor) for tensor in tensors):
            yield (
                f"is in the format of {tool}, which is not PEFT's: convert it, with the two matrices of a "
                "layer named base_model.model.LAYER.lora_A.weight and lora_B.weight."
            )
            return


def _proper(tensor: str, tails: Mapping[str, str]) -> tuple[str, str] | tuple[None, None]:
    """The name that PEFT would look up, and the wrapper that the file has in front of it."""
    match = _LOOSE.fullmatch(tensor)
    if not match:
        return None, None
    parts = match[1].split(".")
    own = [part for part in parts if part not in _WRAPPERS]
    start = _start(own)
    site = tails.get(".".join(own[start:]))
    if site is None or not set(own[:start]) <= _OUTER:
        return None, None
    wrapper = next((_WRAPPERS[part] for part in parts if part in _WRAPPERS), "")
    return f"base_model.model.{site}.lora_{match[2]}.weight", wrapper


def _tails(sites: Collection[str]) -> dict[str, str]:
    """Sites by their path from the list of layers on, where that names one alone."""
    found: dict[str, list[str]] = {}
    for site in sites:
        parts = site.split(".")
        found.setdefault(".".join(parts[_start(parts) :]), []).append(site)
    return {tail: same[0] for tail, same in found.items() if len(same) == 1}


def _start(parts: list[str]) -> int:
    """Where the list of layers is: before the first number."""
    number = next((place for place, part in enumerate(parts) if part.isdigit()), 1)
    return max(number - 1, 0)
