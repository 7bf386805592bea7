"""One recipe's sequences -> one adapter folder in PEFT format, through PEFT and transformers' Trainer."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from composer.model.loading import Base
from composer.training.data import Sample
from composer.training.model_card import write_card
from composer.training.precision import multiplies_bfloat16
from composer.training.recipes import Recipe


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
    if base.device.type == "cpu":
        # torch's fused attention has a slow backward pass on a CPU: an eighth of the whole step.
        model.set_attn_implementation("eager")
    half = multiplies_bfloat16(base.device)
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
        bf16=half,
        # Pinning is for copies to a GPU; without one it only warns.
        dataloader_pin_memory=base.device.type == "cuda",
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=samples, data_collator=_collate)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(arguments.output_dir))
    folder = out / recipe.name
    _save(model, folder, base, recipe.alpha_gain)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    write_card(folder, recipe, base, loss=losses[-1], precision="bfloat16" if half else "float32")
    return folder


def _collate(samples: list[Sample]) -> dict[str, torch.Tensor]:
    columns = {"input_ids": [list(s.ids) for s in samples], "labels": [list(s.labels) for s in samples]}
    batch = {name: torch.tensor(values) for name, values in columns.items()}  # [B, T]
    return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}


def _save(model, folder: Path, base: Base, alpha_gain: float) -> None:
    """PEFT's own format, with weights in bfloat16: half the size, and far finer than training noise.

    alpha_gain is stored in alpha, so that weight 1 means the same to every loader.
    """
    for config in model.peft_config.values():
        config.lora_alpha *= alpha_gain
        # PEFT puts the folder the base was loaded from here, which is nobody's business.
        config.base_model_name_or_path = base.id
    model.save_pretrained(folder)
    weights = folder / "adapter_model.safetensors"
    save_file(
        {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in load_file(weights).items()},
        weights,
        metadata={"format": "pt"},
    )
