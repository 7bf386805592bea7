"""docs/methods.md, made from METHODS and the declared parameters: python -m composer methods."""

from __future__ import annotations

from composer.core.composition import Composition
from composer.core.parameters import Parameter, parameters_of
from composer.methods import METHODS

HEAD = """# Methods

Adapter i adds `s_i B_i A_i x` at a linear layer `W0`. `w_i` is its weight (the slider), `g_i` its gate in
that layer, N the number of adapters with a weight, t the blend, c the contrast. Strength and the layer bands
multiply the gates of every method. A curve multiplies an adapter's weight in each layer, and a schedule sets
it to 0 outside a span of new tokens; on the logits and in merges there is no schedule.

Merges make one adapter of those with a weight, once for each set of weights, and add it like any other; its
contributions are shown as one lane. Those that look at single entries of the deltas take seconds to half a
minute on a CPU. With one adapter there is nothing to merge. The lens is the unembedding after the model's
final norm. Where all divergences of a layer sum to less than 1e-8, α is 1/N.

This file is made by `python -m composer methods`.
"""


def methods_markdown() -> str:
    """The reference of all methods and their parameters."""
    families: dict[str, list[str]] = {}
    for method in METHODS.values():
        reads = "".join(f" `{name}`" for name in method.parameters)
        families.setdefault(method.family, []).append(
            f"### {method.label} (`{method.name}`)\n\n{method.help}\n\n"
            f"- Formula: `{method.formula}`\n- Source: {method.source}\n"
            + (f"- Parameters:{reads}\n" if reads else "")
        )
    parts = [HEAD]
    for family, methods in families.items():
        parts += [f"## {family}\n", *methods]
    rows = "\n".join(_row(name, each) for name, each in parameters_of(Composition).items())
    parts.append(
        f"## Parameters\n\n| name | option | default | may be | meaning |\n|---|---|---|---|---|\n{rows}\n"
    )
    return "\n".join(parts)


def _row(name: str, each: Parameter) -> str:
    option = each.option or f"--{name}"
    default = "the method's" if each.default is None else f"`{each.default}`"
    if each.choices is not None:
        may_be = " or ".join(f"`{value}`" for value in each.choices)
    elif each.kind is bool:
        may_be = "`True` or `False`"
    else:
        may_be = f"{each.low:g} to {each.high:g}"
    readers = [method.name for method in METHODS.values() if name in method.parameters]
    read_by = f" ({', '.join(readers)})" if readers else " (all)"
    return f"| `{name}` | `{option}` | {default} | {may_be} | {each.help}{read_by} |"
