"""One recipe -> one adapter folder in PEFT format, through PEFT and transformers' Trainer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from composer.model.base import Base
from composer.training.card import write_card
from composer.training.data import Sample, first_sentence, pack
from composer.training.library import Library
from composer.training.recipes import Recipe
from composer.training.write import Author, other_openings, own_openings, written

log = logging.getLogger(__name__)

Pool = tuple[float, list[str]]  # chance of being drawn from, texts


def make(recipe: Recipe, load: Callable[[], Base], library: Library, out: Path, work: Path) -> Path:
    """The whole of a recipe: write, train, and where it says so both once more. Returns out/<name>.

    load: a fresh base each time it is called; writing and training both change theirs.
    """
    first = None
    if recipe.rewritten:
        folder = work / "first-round"
        first = folder / recipe.name
        if not (first / "adapter_model.safetensors").is_file():
            _round(
                recipe, load, library, folder, folder / "checkpoints", make_pools(recipe, load, library, work)
            )
    return _round(recipe, load, library, out, work, make_pools(recipe, load, library, work, first))


def _round(
    recipe: Recipe, load: Callable[[], Base], library: Library, out: Path, work: Path, pools: list[Pool]
) -> Path:
    base = load()
    return train(recipe, base, make_samples(recipe, pools, base.tokenizer, library), out, work)


def make_pools(
    recipe: Recipe, load: Callable[[], Base], library: Library, work: Path, first: Path | None = None
) -> list[Pool]:
    """Real rows of the recipe's label, and what the base wrote from their first words, each with its chance.

    first: the first round's adapter, which adds what it writes from other domains' first words.
    """
    labelled = library.labelled((*recipe.corpora, *recipe.contrast), recipe.confidence, recipe.seed)
    real = labelled.texts(recipe.corpora, recipe.label)
    pools: list[Pool] = [((1 - recipe.written_share) / len(real), texts) for texts in real]
    if recipe.written:
        file = work / f"{recipe.name}-{recipe.written}.jsonl"
        openings = own_openings(recipe, labelled)
        own = written(recipe, lambda: Author(load()), openings, labelled, recipe.written, file)
        if first is not None:
            file = work / f"{recipe.name}-rewritten-{recipe.rewritten}.jsonl"
            openings = other_openings(recipe, library)
            own += written(recipe, lambda: Author(load(), first), openings, labelled, recipe.rewritten, file)
        pools.append((recipe.written_share, own))
    log.info("%s: %s texts", recipe.name, " + ".join(str(len(texts)) for _, texts in pools))
    return pools


def make_samples(recipe: Recipe, pools: Sequence[Pool], tokenizer, library: Library) -> list[Sample]:
    """The recipe's sequences from its pools, some of them begun with an opener."""
    candidates = (first_sentence(row.text) for corpus in recipe.openers for row in library.rows(corpus))
    openers = sorted({sentence for sentence in candidates if sentence})
    return pack(
        pools,
        openers,
        tokenizer,
        count=recipe.steps * recipe.batch,
        length=recipe.length,
        opener_share=recipe.opener_share,
        seed=recipe.seed,
        joint=recipe.joint,
    )


def train(recipe: Recipe, base: Base, samples: list[Sample], out: Path, work: Path) -> Path:
    """Train `recipe` on `base` and write the adapter to out/<name>. Returns that folder.

    A base loaded in 4 bits is trained as QLoRA (Dettmers et al. 2023, arXiv 2305.14314), any other as
    plain LoRA. Checkpoints go to work/<name>; a run that was cut off goes on from the newest one.
    The base model passed in is changed by PEFT: load a fresh one per adapter.
    """
    model = base.model
    if base.spec.quantization != "none":
        model = prepare_model_for_kbit_training(model)
    torch.manual_seed(recipe.seed)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        revision=base.spec.revision,
    )
    model = get_peft_model(model, config)
    arguments = TrainingArguments(
        output_dir=str(work / recipe.name),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(recipe.warmup * recipe.steps),
        optim="adamw_torch_fused",
        seed=recipe.seed,
        data_seed=recipe.seed,
        save_steps=recipe.save_every,
        save_total_limit=1,
        logging_steps=min(10, recipe.steps),
        report_to=[],
        remove_unused_columns=False,
        use_cpu=base.device.type == "cpu",
        bf16=base.device.type == "cuda",
        # Pinning is for copies to a GPU; without one it only warns.
        dataloader_pin_memory=base.device.type == "cuda",
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=samples, data_collator=_collate)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(arguments.output_dir))
    folder = out / recipe.name
    _save(model, folder, base, recipe.gain)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    write_card(folder, recipe, base, loss=losses[-1])
    return folder


def _collate(samples: list[Sample]) -> dict[str, torch.Tensor]:
    columns = {"input_ids": [list(s.ids) for s in samples], "labels": [list(s.labels) for s in samples]}
    batch = {name: torch.tensor(values) for name, values in columns.items()}  # [B, T]
    return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}


def _save(model, folder: Path, base: Base, gain: float) -> None:
    """PEFT's own format, with weights in bfloat16: half the size, and far finer than training noise.

    The gain goes into alpha, so that every loader gives weight 1 the same meaning.
    """
    for config in model.peft_config.values():
        config.lora_alpha *= gain
        # PEFT puts the folder the base was loaded from here, which is nobody's business.
        config.base_model_name_or_path = base.id
    model.save_pretrained(folder)
    weights = folder / "adapter_model.safetensors"
    save_file(
        {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in load_file(weights).items()},
        weights,
        metadata={"format": "pt"},
    )
