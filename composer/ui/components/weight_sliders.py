"""The pool of weight sliders, and how slider values become weights and back. Plain values, no gradio.

The pool is fixed when the page is built (gradio loses the values of sliders made later); slots are
shown or hidden. A pair of opposite adapters owns three slots: one slider that runs both ways, and
one for each adapter that is shown instead when the visitor asks for every adapter's own. Spare
slots wait for adapters that are added by id while the page runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from composer.core.catalog_types import AdapterSpec, Attribute, Slider
from composer.core.composition import WEIGHT_RANGE
from composer.core.errors import ComposerError
from composer.core.names import unknown_name_message

# For adapters that no catalog gave a colour: spread in hue, readable on light and on dark.
SPARE_COLORS = ("#e0719b", "#3fb8af", "#b58c3c", "#8f7ae5", "#6c9a3b", "#d9774f", "#5a9bd8", "#b46bc4")
_HEX = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class WeightSlider:
    """One slider of the pool."""

    key: str
    label: str
    colors: tuple[str, ...]
    slider: Slider
    # The two poles (left, right) of a pair; one name; or none for a spare slot, which serves the `spare`-th
    # adapter added after start-up.
    adapters: tuple[str, ...] = ()
    description: str = ""
    # It belongs to a pair and is shown only with one slider per adapter.
    member: bool = False
    spare: int | None = None

    @property
    def pair(self) -> bool:
        return len(self.adapters) == 2


def safe_color(color: str, fallback: str = "#888888") -> str:
    """`color` if it is #rrggbb, else the fallback: colours end up inside a style sheet."""
    return color if _HEX.fullmatch(color or "") else fallback


def make_pool(
    adapters: Sequence[AdapterSpec], attributes: Sequence[Attribute], max_added: int
) -> tuple[WeightSlider, ...]:
    """The slots in the order shown: a pair where its first pole stands, its members right after it."""
    by_name = {adapter.name: adapter for adapter in adapters}
    pair_of = {name: group for group in attributes if group.poles for name in group.poles}
    slots: list[WeightSlider] = []
    done: set[str] = set()
    for adapter in adapters:
        if adapter.name in done:
            continue
        group = pair_of.get(adapter.name)
        members = [by_name[name] for name in group.poles] if group else [adapter]
        if group:
            slots.append(_pair(group, *members))
        for member in members:
            done.add(member.name)
            slots.append(_single(member, member=group is not None))
    for index in range(max_added):
        color = SPARE_COLORS[index % len(SPARE_COLORS)]
        slots.append(WeightSlider(f"spare-{index}", f"Added {index + 1}", (color,), Slider(), spare=index))
    return tuple(slots)


def _single(adapter: AdapterSpec, member: bool) -> WeightSlider:
    return WeightSlider(
        key=f"one-{_slug(adapter.name)}",
        label=adapter.label or adapter.name,
        colors=(safe_color(adapter.color),),
        slider=adapter.slider,
        adapters=(adapter.name,),
        description=adapter.description,
        member=member,
    )


def _pair(group: Attribute, left: AdapterSpec, right: AdapterSpec) -> WeightSlider:
    both = Slider(
        minimum=-left.slider.maximum,
        maximum=right.slider.maximum,
        step=min(left.slider.step, right.slider.step),
        default=right.slider.default - left.slider.default,
    )
    return WeightSlider(
        key=f"pair-{_slug(group.name)}",
        label=f"{left.label or left.name} ↔ {right.label or right.name}",
        colors=(safe_color(left.color), safe_color(right.color)),
        slider=both,
        adapters=(left.name, right.name),
        description=f"{group.label or group.name}: pull it to either side.",
    )


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def is_shown(slot: WeightSlider, per_adapter: bool, added: Sequence[str | None] = ()) -> bool:
    """Whether a slot is on the page now. added: the adapter of each spare slot, None for a free one."""
    if slot.spare is not None:
        return _spare_name(slot, added) is not None
    if slot.pair:
        return not per_adapter
    return per_adapter or not slot.member


def _spare_name(slot: WeightSlider, added: Sequence[str | None]) -> str | None:
    return added[slot.spare] if slot.spare < len(added) else None


def to_weights(
    slots: Sequence[WeightSlider],
    values: Sequence[float | None],
    per_adapter: bool,
    added: Sequence[str | None],
) -> dict[str, float]:
    """Weight per adapter from the sliders that are shown; an empty field counts as 0."""
    weights: dict[str, float] = {}
    for slot, value in zip(slots, values, strict=True):
        if not is_shown(slot, per_adapter, added):
            continue
        weight = 0.0 if value is None else value
        if slot.pair:
            left, right = slot.adapters
            # A NaN is neither above nor below 0: it goes to both, and the composition refuses it.
            weights[left] = 0.0 if weight >= 0 else -weight
            weights[right] = 0.0 if weight <= 0 else weight
        else:
            weights[slot.adapters[0] if slot.adapters else added[slot.spare]] = weight
    return weights


def to_values(
    slots: Sequence[WeightSlider], weights: Mapping[str, float], added: Sequence[str | None]
) -> list[float]:
    """The value of every slot, shown or not, that stands for `weights` (a pair: right minus left)."""
    values = []
    for slot in slots:
        if slot.pair:
            left, right = slot.adapters
            value = weights.get(right, 0.0) - weights.get(left, 0.0)
        elif slot.adapters:
            value = weights.get(slot.adapters[0], 0.0)
        else:
            value = weights.get(_spare_name(slot, added) or "", 0.0)
        low, high = slot.slider.minimum, slot.slider.maximum
        values.append(round(min(max(value, low), high), 6))
    return values


def needs_per_adapter(slots: Sequence[WeightSlider], weights: Mapping[str, float]) -> bool:
    """True if a two-way slider cannot say these weights (both poles pulled, or one below 0)."""
    pairs = [slot.adapters for slot in slots if slot.pair]
    return any(
        min(weights.get(left, 0.0), weights.get(right, 0.0)) < 0
        or (weights.get(left, 0.0) > 0 and weights.get(right, 0.0) > 0)
        for left, right in pairs
    )


def read_weights(raw: object, names: Sequence[str]) -> dict[str, float]:
    """Weights from outside (a dict of adapter -> number). Raises ComposerError naming what is wrong."""
    if not isinstance(raw, Mapping):
        raise ComposerError('Give the weights as an object such as {"positive": 1, "sports": 0.5}.')
    low, high = WEIGHT_RANGE
    for name, weight in raw.items():
        if name not in names:
            raise ComposerError(unknown_name_message("adapter", name, names))
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not low <= weight <= high:
            raise ComposerError(f"The weight of {name} must be a number between {low:g} and {high:g}.")
    return dict(raw)
