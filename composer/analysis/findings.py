"""An explanation in sentences: what each of its measurements says here, with its numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from composer.analysis.explanation import Explanation
from composer.analysis.layer_ablation import BANDS
from composer.methods import METHODS

# Smaller cosines are called no conflict, and smaller losses (nats a token) no loss.
SMALL_COSINE, SMALL_LOSS = 0.1, 0.01
# A run of layers belongs to a peak while it has at least this share of it.
SHARE_OF_PEAK, SHARE_OF_PEAK_RATIO = 0.5, 0.85
# Ratios up to EQUAL are called none, and those above HARDLY_THERE are not told as numbers.
EQUAL, HARDLY_THERE, TINY = 1.1, 100.0, 1e-12


def findings(found: Explanation, labels: Mapping[str, str]) -> dict[str, str]:
    """A sentence each about conflict, additivity, outputs and bands. labels: how adapters are called."""
    names = [labels.get(name, name) for name in found.adapters]
    return {
        "conflict": _conflict(found, names),
        "additivity": _additivity(found),
        "outputs": _outputs(found, names),
        "bands": _bands(found, names),
    }


def used_pairs(found: Explanation) -> list[tuple[int, int]]:
    """The pairs of adapters with a weight; all pairs where fewer than two have one."""
    used = {i for i, name in enumerate(found.adapters) if found.composition.weights.get(name)}
    both = [pair for pair in found.pairs if used.issuperset(pair)]
    return both or list(found.pairs)


def _conflict(found: Explanation, names: list[str]) -> str:
    if METHODS[found.composition.method].on_logits:
        return "The adapters meet in the logits alone, so there is no conflict inside the layers."
    pairs = used_pairs(found)
    if not pairs:
        return "One adapter works alone here, so nothing can pull against it."
    cosines = {pair: found.conflict_mean[:, pair[0], pair[1]] for pair in pairs}
    known = {pair: own for pair, own in cosines.items() if np.isfinite(own).any()}
    if not known:
        return "No layer has outputs of two adapters to compare."
    pair = min(known, key=lambda each: np.nanmin(known[each]))
    if np.nanmin(known[pair]) > -SMALL_COSINE:
        pair = max(known, key=lambda each: np.nanmax(np.abs(known[each])))
    return _pull(known[pair], f"{names[pair[0]]} and {names[pair[1]]}")


def _pull(cosine: np.ndarray, who: str) -> str:
    """What two adapters do to each other. cosine: [L]."""
    low, high = float(np.nanmin(cosine)), float(np.nanmax(cosine))
    if max(-low, high) < SMALL_COSINE:
        return f"{who} hardly meet: their cosine stays between {low:+.2f} and {high:+.2f} in every layer."
    apart = low <= -SMALL_COSINE
    first, last = _run(-cosine if apart else cosine)
    mean = float(np.nanmean(cosine[first : last + 1]))
    verb, where = ("pull apart" if apart else "pull together"), _layers(first, last)
    rest = "" if apart else "; nowhere do they fight"
    return f"{who} {verb} most in {where} (cosine {mean:+.2f}){rest}."


def _run(values: np.ndarray, share: float = SHARE_OF_PEAK) -> tuple[int, int]:
    """The first and the last of the layers around the largest value that have a good share of it."""
    peak = int(np.nanargmax(values))
    high = values >= share * values[peak]
    first = last = peak
    while first > 0 and high[first - 1]:
        first -= 1
    while last < len(values) - 1 and high[last + 1]:
        last += 1
    return first, last


def _layers(first: int, last: int) -> str:
    """Layers as people count them, from 1."""
    return f"layer {first + 1}" if first == last else f"layers {first + 1}-{last + 1}"


def _additivity(found: Explanation) -> str:
    known = np.isfinite(found.additivity_by_token)
    if not known.any():
        return "The mix changes no word here, so there is nothing to add up."
    if len(found.adapters) < 2:
        return "One adapter alone is the sum of its parts."
    values = found.additivity_by_token[known]
    pieces = [piece for piece, here in zip(found.pieces, known, strict=True) if here]
    ends = [int(values.argmin()), int(values.argmax())]
    low, high = (f"{_share(values[place])} at {_quoted(pieces[place])}" for place in ends)
    # Words that the mix hardly changes have values far below 0; the median is not moved by them.
    middle = float(np.median(values))
    if middle <= 0:
        return (
            "Together they are not the sum of their parts: what they do to most words has little to do "
            f"with what each does alone (kept: from {low} to {high})."
        )
    return f"On a typical word they keep {_share(middle)} of their separate effects, from {low} to {high}."


def _share(value: float) -> str:
    return f"{max(0.0, float(value)):.0%}"


def _quoted(piece: str) -> str:
    return f"“{piece.strip() or '⏎'}”"


def _outputs(found: Explanation, names: list[str]) -> str:
    used = sorted({i for pair in used_pairs(found) for i in pair})
    sizes = found.outputs[:, used]  # [L, u]
    if len(used) < 2 or not np.isfinite(sizes).any():
        return "One adapter works alone here, so there is nothing to compare it with."
    logs = np.nanmean(np.log(np.maximum(sizes, TINY)), axis=0)  # [u]
    loud, soft = int(logs.argmax()), int(logs.argmin())
    ratio = np.maximum(sizes[:, loud], TINY) / np.maximum(sizes[:, soft], TINY)  # [L]
    overall = float(np.exp(logs[loud] - logs[soft]))
    first, last = _run(ratio, SHARE_OF_PEAK_RATIO)
    peak = float(np.nanmean(ratio[first : last + 1]))
    if overall < EQUAL:
        return f"{_listed([names[i] for i in used])} are about as loud as each other."
    if overall > HARDLY_THERE:
        return f"{names[used[loud]]} drowns {names[used[soft]]} in every layer."
    return (
        f"{names[used[loud]]} is {overall:.1f} times as loud as {names[used[soft]]} in a typical layer, "
        f"most in {_layers(first, last)} ({peak:.1f} times)."
    )


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _bands(found: Explanation, names: list[str]) -> str:
    change = found.bands.change  # [3, n + 1]
    whole = change[:, -1]
    order = np.argsort(whole).tolist()
    first = order[0]
    if whole[first] > -SMALL_LOSS:
        return "No third of the layers matters by itself: without any of them the text stays as likely."
    others = " and ".join(f"{-whole[k]:.2f} without the {BANDS[k]} one" for k in order[1:])
    sentence = (
        f"The {BANDS[first]} third carries this text: without it a word loses {-whole[first]:.2f} nats, "
        f"{others}."
    )
    used = sorted({i for pair in used_pairs(found) for i in pair})
    own = [f"{names[i]} works most in the {BANDS[int(change[:, i].argmin())]} layers" for i in used[:3]]
    return f"{sentence} {', '.join(own)}." if len(own) > 1 else sentence
