"""What is measured: one base, random adapters on it, and engines over them, each made once."""

from __future__ import annotations

import copy
import gc
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from composer.core.catalog_types import BaseSpec, Catalog
from composer.core.errors import ComposerError
from composer.engine.engine import Engine
from composer.model.loading import Base, load_base, with_same_parameters
from composer.model.tokens import encode_prompt

ADAPTERS = 8
# The number of adapters that most figures are about.
USUAL = 3
# Compiling may take minutes on a slow machine; a bench can wait, an answer never does.
COMPILE_TIMEOUT = 900.0


class BenchFixture:
    """A base of the catalog with ADAPTERS random adapters of one rank on all its linear layers.

    folder: where the adapters are put. Our engines share one copy of the base's weights, PEFT has a copy of
    its own, because an engine lays the weights out anew.
    """

    def __init__(self, spec: BaseSpec, folder: Path, *, rank: int = 8, device: str | None = None):
        self.spec = replace(spec, adapters=(), attributes=())
        self.folder, self._device = folder, device
        self.base = without_eos(load_base(self.spec, device))
        self.adapters = make_adapters(self.base.model.config, folder, rank)
        # Whether each engine's decoding step was compiled; empty until one was asked for.
        self.compiled: dict[str, bool] = {}
        self._engines: dict[tuple, Engine] = {}

    @cached_property
    def reference_base(self) -> Base:
        """The base as transformers and PEFT have it: no engine ever touches these weights."""
        return without_eos(load_base(self.spec, self._device))

    @property
    def device(self) -> torch.device:
        return self.base.device

    def ours(self, count: int, *, compiled: bool = True, weights: str = "same") -> Engine:
        """The engine with the first `count` adapters. weights: "same" as the base's, or "int8".

        compiled: wait until the decoding step is compiled, where it can be; False never compiles.
        """
        key = (count, compiled, weights)
        if key not in self._engines:
            engine = self.fresh(weights)
            add(engine, self.adapters[:count])
            if compiled:
                self.compiled[f"{count} adapters, {weights} weights"] = warm(engine)
            self._engines[key] = engine
        return self._engines[key]

    def release(self) -> None:
        """Let go of every engine but the compiled one of USUAL adapters, which most sections measure."""
        self._engines = {key: made for key, made in self._engines.items() if key == (USUAL, True, "same")}
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def fresh(self, weights: str = "same") -> Engine:
        """A new engine over the base, without adapters."""
        catalog = Catalog(".", self.spec.name, {self.spec.name: self.spec})
        options = {"decode_weights": weights} if weights != "same" else {}
        return Engine(catalog, clone_modules(self.base), **options)

    def count_tokens(self, text: str) -> int:
        return len(self.encode(text))

    def encode(self, text: str) -> list[int]:
        return encode_prompt(self.base.tokenizer, text, self.spec.prompting)


def write_catalog(fixture: BenchFixture) -> Path:
    """A catalog of the base as it lies on this disk, with the random adapters. JSON is YAML, too."""
    keys = ("id", "quantization", "dtype", "prompting")
    base = {key: getattr(fixture.spec, key) for key in keys}
    base["folder"] = str(Path(fixture.base.path).resolve())
    base["adapters"] = {path.name: {"source": str(path.resolve())} for path in fixture.adapters[:USUAL]}
    path = fixture.folder / "adapters.yaml"
    path.write_text(json.dumps({"default": "base", "bases": {"base": base}}), "utf-8")
    return path


def warm(engine: Engine) -> bool:
    """Compile the decoding step, if it can be, and wait for it; whether it was."""
    return bool(engine.warm_up().wait(COMPILE_TIMEOUT))


def add_many(engine: Engine, folders: Sequence[Path], count: int) -> None:
    """Load `count` adapters; where the folders are fewer, again under another name."""
    for place in range(count):
        folder = folders[place % len(folders)]
        add(engine, [folder], name=f"random-{place + 1}")


def add(engine: Engine, folders: Sequence[Path], name: str | None = None) -> None:
    """Load adapters from folders, which must fit. name: of a single one, if not its folder's."""
    for folder in folders:
        report = engine.add_adapter(str(folder), name=name or folder.name)
        if not report.ok:
            raise ComposerError(f"The bench's random adapter cannot be used on this base: {report}")


def clone_modules(base: Base) -> Base:
    """The same base in modules of its own, which may be wrapped; the weights are shared, not copied."""
    return replace(base, model=with_same_parameters(base.model))


def without_eos(base: Base) -> Base:
    """Without end tokens: by luck of its weights one arm would stop early where another goes on."""
    base.model.generation_config.eos_token_id = None
    base.tokenizer.eos_token = None
    return base


def make_adapters(config, folder: Path, rank: int) -> tuple[Path, ...]:
    """ADAPTERS random LoRA adapters on all linear layers, named and shaped by PEFT itself.

    The base they are drawn up on has no weights (meta device), so any size costs nothing.
    """
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    # all-linear leaves out the output layer, as PEFT means it to.
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    shapes = get_peft_model_state_dict(get_peft_model(skeleton, lora))
    folders = []
    for seed in range(ADAPTERS):
        target = folder / f"random-{seed + 1}"
        folders.append(target)
        if (target / "adapter_config.json").is_file():  # written last
            continue
        random = torch.Generator().manual_seed(seed)
        tensors = {
            name: torch.randn(tensor.shape, generator=random)
            # As after a short training: A as it was drawn, B small.
            * (tensor.shape[1] ** -0.5 if "lora_A" in name else 0.01)
            for name, tensor in shapes.items()
        }
        target.mkdir(parents=True, exist_ok=True)
        save_file(tensors, target / "adapter_model.safetensors")
        lora.save_pretrained(target)
    return tuple(folders)
