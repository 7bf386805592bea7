"""A base proves itself when it is loaded: a few tokens, decoded as a batch decodes them, must come out as in
transformers' own pass.

Architectures differ in masks, positions and what they keep of the past, and one that is run wrongly may raise
nothing and write other words. So the way a base will be run is tried before anybody meets it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import torch

from composer.core.catalog_types import BaseSpec
from composer.core.errors import ComposerError, sanitize
from composer.model.gated_model import GatedModel
from composer.model.lens import Lens
from composer.model.rank_layout import Layout
from composer.model.runtime.batch import ATTENTION_BUCKET
from composer.model.runtime.kv_cache import LENGTH_MULTIPLE, KVCache
from composer.model.runtime.runner import Inputs, ModelRunner, TransformersRunner
from composer.model.runtime.select import select_runner

log = logging.getLogger(__name__)

# Two prompts of unlike length, and how many tokens are decoded after each.
LENGTHS = (4, 2)
DECODED = 2
# Sliding windows are made this short for the proof, so that a few tokens reach beyond them.
WINDOW = 3
# Windows that stay as they are, because modules keep what they made of them: the first prompt reaches beyond
# those of up to so many tokens.
FIXED = ("window_size", "attention_window_size", "attention_chunk_size", "local_attention")
LONGEST = 1536
# How far apart logits may be: root mean square, in standard deviations of a token's logits. Unrelated ones
# are 1.4 apart. Rounding in SmolLM2-135M comes to 2e-6 in float32, 0.01 in float16, 0.08 in bfloat16 and,
# with what int8 makes of outliers, 0.33.
CLOSE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.16}
QUANTISED = 0.6
FAMILIES = "Llama, Mistral, Qwen, Gemma, Phi, OLMo, Granite, SmolLM3, GPT-NeoX, OPT or Bloom"


def verified_runner(model: GatedModel, layout: Layout, spec: BaseSpec, weights: str = "same") -> ModelRunner:
    """The fastest pass that decodes this base as transformers does.

    layout: of an empty bank. weights: as decode_pass has it. Raises ComposerError, which names the base's
    family, where there is none.
    """
    family = sanitize(model.model.config.model_type, 40)
    if not model.sites:
        raise ComposerError(
            f"The base {spec.id} is of the family {family}, which has no linear layers that adapters could "
            f"be added to; choose a base of another family, such as {FAMILIES}."
        )
    faults = []
    for way in _ways(model, weights):
        decode = way()
        try:
            with _short_windows(model):
                prove(model, way().trial(), layout)
        except FloatingPointError as fault:
            raise ComposerError(
                f"The base {spec.id} (family {family}) computes numbers that are not finite in {spec.dtype}; "
                "set another dtype for it in the catalog, or choose another base."
            ) from fault
        except Exception as fault:  # whatever an architecture may come up with that this pass is not made for
            if isinstance(fault, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(fault):
                raise ComposerError(
                    f"There is not enough memory to run the base {spec.id}; choose a smaller one."
                ) from fault
            log.info(
                "a base of the family %s does not come out right as %s, which is not used for it: %s: %.200s",
                family,
                type(decode).__name__,
                type(fault).__name__,
                fault,
            )
            faults.append(fault)
        else:
            return decode
    raise ComposerError(
        f"The base {spec.id} is of the family {family}, which cannot be run here as transformers runs it; "
        f"choose a base of another family, such as {FAMILIES}."
    ) from faults[-1]


def _ways(model: GatedModel, weights: str) -> Iterator[Callable[[], ModelRunner]]:
    """Makers of passes, the fastest first. What windows a pass has is decided when it is made."""
    first = select_runner(model, weights)
    if not isinstance(first, TransformersRunner):
        yield lambda: first
        if weights != "same":
            return
    yield partial(TransformersRunner, model)
    # Masks that the modules make know no window that ends elsewhere in each row.
    if getattr(model.model.config.get_text_config(), "sliding_window", None) is None:
        yield partial(TransformersRunner, model, flat=True)


@contextmanager
def _short_windows(model: GatedModel) -> Iterator[None]:
    """Sliding windows as the modules and passes made inside see them. Both read them from the config."""
    config = model.model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if not isinstance(window, int) or window <= WINDOW:
        yield
        return
    try:
        with suppress(AttributeError):  # a config that works it out from another number
            config.sliding_window = WINDOW
        yield
    finally:
        with suppress(AttributeError):
            config.sliding_window = window


def prove(model: GatedModel, decode: ModelRunner, layout: Layout, rounded: bool = False) -> None:
    """Raise where `decode` raises, or gives other logits than transformers' own pass without a cache.

    layout: of an empty bank. rounded: whether `decode` reads the weights rounded to fewer bits.
    """
    texts, lengths = _texts(model)
    ids = torch.tensor(texts, device=model.device)  # [2, T]
    own = model(None, input_ids=ids, use_cache=False).logits.float()  # [2, T, V]
    if not own.isfinite().all():
        raise FloatingPointError
    places = [[length - 1 + step for length in lengths] for step in range(DECODED + 1)]
    expected = [own[[0, 1], place] for place in places]
    apart = []
    for logits, right in zip(_decoded(model, decode, layout, texts, lengths), expected, strict=True):
        spread = right.std(dim=-1).clamp_min(1e-6)
        apart += ((logits.float() - right).square().mean(dim=-1).sqrt() / spread).tolist()
    coarse = rounded or not model.exact
    close = QUANTISED if coarse else CLOSE.get(model.model.dtype, QUANTISED)
    # Rounding may send a token to another expert where experts are few bits apart; not token after token.
    allowed = 0 if close == CLOSE[torch.float32] else 1
    if sum(not each <= close for each in apart) > allowed:
        raise ValueError(f"logits are {max(apart):.2g} standard deviations apart")


def _texts(model: GatedModel) -> tuple[list[list[int]], list[int]]:
    """Two rows of token ids of one length, and how much of each is the prompt.

    What follows the decoded tokens is there for transformers' pass alone, where it must not matter.
    """
    config = model.model.config.get_text_config()
    windows = [getattr(config, name, None) for name in FIXED]
    reach = max((size for size in windows if isinstance(size, int) and size <= LONGEST), default=0)
    max_seq_len = int(getattr(config, "max_position_embeddings", None) or LONGEST) - DECODED
    lengths = [max(1, min(length, max_seq_len)) for length in (LENGTHS[0] + reach, LENGTHS[1])]
    vocabulary = model.model.get_input_embeddings().weight.shape[0]
    width, padding = lengths[0] + DECODED, getattr(config, "pad_token_id", None)
    # From all over the vocabulary, and neighbours differ. Some models take a padding token for no token.
    ids = [(place * 7919 + 89) % vocabulary for place in range(2 * width)]
    ids = [(token + 1) % vocabulary if token == padding else token for token in ids]
    return [ids[:width], ids[width:]], lengths


def _decoded(
    model: GatedModel,
    decode: ModelRunner,
    layout: Layout,
    texts: Sequence[Sequence[int]],
    lengths: Sequence[int],
) -> Iterator[torch.Tensor]:
    """The logits [2, V] after both prompts and after each further token, as a batch of two rows gets them."""
    gates = torch.zeros(2, model.layers, len(layout.bank.names), device=model.device)
    prompts = [text[:length] for text, length in zip(texts, lengths, strict=True)]
    read = decode.read(layout, gates, prompts)
    yield read.logits
    cache = KVCache(2, LENGTH_MULTIPLE)
    for row, length in enumerate(lengths):
        cache.write(row, length, read, row)
    plan = decode.prepare(layout, gates)
    for step in range(DECODED):
        positions = [length + step for length in lengths]
        tokens = [text[position] for text, position in zip(texts, positions, strict=True)]
        length = -(-(max(positions) + 1) // ATTENTION_BUCKET) * ATTENTION_BUCKET
        told, places = (torch.tensor(each, device=model.device) for each in (tokens, positions))
        yield decode(plan, Inputs(told, places, length), cache)[0]
    if isinstance(decode, TransformersRunner):
        # What the methods that read a prompt ask for: each layer's hidden state, and what it says as a token.
        hidden = decode.read(layout, gates[:1], prompts[:1], unembed=False).hidden
        if len(hidden) != model.layers:
            raise ValueError(f"{len(hidden)} hidden states of {model.layers} layers")
        Lens(model.model).log_probs(torch.cat(hidden), norm=True)
