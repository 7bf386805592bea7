"""Where a base's parts are: on one device, or spread over several cards, the CPU's memory and the disk.

A spread base is accelerate's: its hooks take activations from card to card, and bring weights that are kept
elsewhere to a card for the length of a call. Such weights are on torch's meta device between calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from accelerate.utils import align_module_device
from torch import nn

# Keys of a device map are dotted paths of modules; values are devices, a card's number, "cpu" or "disk".
DeviceMap = Mapping[str, str | int]
KEPT_ELSEWHERE = {"cpu": "in the CPU's memory", "disk": "on the disk", "meta": "kept elsewhere"}


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: where its weights are, or where accelerate brings them."""
    weight = next(module.parameters(), None)
    if weight is not None and weight.device.type != "meta":
        return weight.device
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        # accelerate puts several hooks of one module behind one.
        for each in getattr(hook, "hooks", (hook,)):
            if (place := getattr(each, "execution_device", None)) is not None:
                return torch.device("cuda", place) if isinstance(place, int) else torch.device(place)
    return torch.device("cpu") if weight is None else weight.device


def is_spread(model: nn.Module) -> bool:
    """Whether a model's weights are on more than one device, or kept where nothing is computed."""
    devices = {parameter.device for parameter in model.parameters()}
    return len(devices) > 1 or any(device.type == "meta" for device in devices)


@contextmanager
def brought(module: nn.Module) -> Iterator[None]:
    """Inside the block a module's own weights are where it computes."""
    with align_module_device(module):
        yield


def in_words(model: nn.Module) -> str:
    """Where a spread model's parts are: "18 on cuda:0, 10 on cuda:1, 4 in the CPU's memory"."""
    places = getattr(model, "hf_device_map", None) or {
        name: str(parameter.device) for name, parameter in model.named_parameters()
    }
    on_cards = any(isinstance(place, int) or str(place).startswith("cuda") for place in places.values())
    counts = Counter(_named(place, on_cards) for place in places.values())
    return ", ".join(f"{count} {place}" for place, count in counts.items())


def _named(place: str | int | torch.device, on_cards: bool) -> str:
    name = f"cuda:{place}" if isinstance(place, int) else str(place)
    if name == "cpu" and not on_cards:
        return "on cpu"
    return KEPT_ELSEWHERE.get(name, f"on {name}")


def device_map(wanted: str, device: str) -> str | DeviceMap:
    """What transformers' `device_map` is for a base: all of it on one device, or "auto".

    wanted: the catalog's `device_map`. Only cards are spread over: a device with a number is that card alone.
    """
    return "auto" if wanted == "auto" and device == "cuda" else {"": device}
