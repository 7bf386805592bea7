"""One recipe's sequences -> one adapter folder in PEFT format, through PEFT and transformers' Trainer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback, Trainer, TrainingArguments

from composer.adapters.files import WEIGHTS
from composer.model.loading import Base
from composer.model.token_loss import mean_token_loss, plain_head
from composer.training.data import Sample
from composer.training.model_card import write_card
from composer.training.precision import faster_in_bfloat16
from composer.training.progress import TrainingProgress
from composer.training.recipes import Recipe, TrainingSettings


@dataclass(frozen=True)
class Fitted:
    """A trained model: the base with PEFT's modules, at the strength that they were trained at."""

    model: PeftModel
    # Of the last steps.
    loss: float
    # What products were computed in.
    dtype: str


def train(recipe: Recipe, base: Base, samples: list[Sample], out: Path, work: Path) -> Path:
    """Train `recipe` on `base` and write the adapter to out/<name>. Returns that folder.

    A base loaded in 4 bits is trained as QLoRA (Dettmers et al. 2023, arXiv 2305.14314), any other as
    plain LoRA. Checkpoints go to work/<name>; a run that was cut off goes on from the newest one.
    The base model passed in is changed by PEFT: load a fresh one per adapter.
    """
    fitted = fit(recipe, base, samples, work / recipe.name)
    folder = out / recipe.name
    save_adapter(fitted.model, folder, base, recipe.alpha_gain)
    write_card(folder, recipe, base, loss=fitted.loss, precision=fitted.dtype)
    return folder


def fit(settings: TrainingSettings, base: Base, samples: list[Sample], checkpoints: Path) -> Fitted:
    """Train an adapter on the samples, from the newest checkpoint if there is one. stderr shows progress."""
    model = add_lora(base, settings.rank, settings.alpha, settings.dropout, settings.seed)
    arguments = training_arguments(
        base,
        checkpoints,
        steps=settings.steps,
        batch=settings.batch,
        learning_rate=settings.learning_rate,
        warmup=settings.warmup,
        seed=settings.seed,
        save_every=settings.save_every,
        # The bar of transformers prints every log between its lines.
        disable_tqdm=True,
    )
    trainer = _LoraTrainer(model=model, args=arguments, train_dataset=samples, data_collator=collate)
    head = plain_head(base.model.config, model.get_output_embeddings())
    if head is not None and arguments.bf16:
        head = head.to(torch.bfloat16)  # once: autocast would do it in every step
    trainer.head = head
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(TrainingProgress(settings.name))
    trainer.train(resume_from_checkpoint=newest_checkpoint(checkpoints))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Fitted(model, losses[-1], "bfloat16" if arguments.bf16 else "float32")


class _LoraTrainer(Trainer):
    """Trainer with the loss of `mean_token_loss` where the base allows it, else with transformers' own."""

    # Of the output layer, [V, d]; None: transformers' loss.
    head: torch.Tensor | None = None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.head is None or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")  # [B, T]
        body = self.accelerator.unwrap_model(model).get_base_model().base_model
        with torch.autocast(labels.device.type, torch.bfloat16, enabled=self.args.bf16):
            hidden = body(**inputs, use_cache=False).last_hidden_state  # [B, T, d]
        return mean_token_loss(hidden, self.head, labels)


def newest_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end, or None.

    The Trainer writes its state last: a run that was killed before leaves a folder without it.
    """
    states = [path for path in folder.glob("checkpoint-*/trainer_state.json") if _whole(path)]
    steps = {int(path.parent.name.rpartition("-")[2]): path.parent for path in states}
    return str(steps[max(steps)]) if steps else None


def _whole(state: Path) -> bool:
    try:
        return "global_step" in json.loads(state.read_text("utf-8"))
    except (OSError, ValueError):
        return False


def training_arguments(
    base: Base,
    work: Path,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    warmup: float,
    seed: int,
    save_every: int,
    **others: Any,
) -> TrainingArguments:
    """What every training run of this project has in common; `warmup` is a share of the steps."""
    return TrainingArguments(
        output_dir=str(work),
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(warmup * steps),
        optim="adamw_torch_fused",
        seed=seed,
        data_seed=seed,
        save_steps=save_every,
        save_total_limit=1,
        logging_steps=min(10, steps),
        report_to=[],
        remove_unused_columns=False,
        use_cpu=base.device.type == "cpu",
        bf16=faster_in_bfloat16(base.device),
        # Pinning is for copies to a GPU; without one it only warns.
        dataloader_pin_memory=base.device.type == "cuda",
        **others,
    )


def add_lora(base: Base, rank: int, alpha: float, dropout: float, seed: int) -> PeftModel:
    """The base's model with a fresh adapter on all its linear layers, ready to be trained.

    In 4 bits it is prepared for QLoRA. The base model passed in is changed.
    """
    model = base.model
    if base.spec.quantization != "none":
        # Computing activations twice saves memory that only a GPU is short of, and costs a CPU 30%.
        spare_memory = base.device.type == "cuda"
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=spare_memory)
        if faster_in_bfloat16(base.device):
            for layer in model.modules():
                if isinstance(layer, Linear4bit):
                    layer.compute_dtype = torch.bfloat16
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        revision=base.spec.revision,
    )
    model = get_peft_model(model, config)
    if base.device.type == "cpu":
        # torch's fused attention has a slow backward pass on a CPU: an eighth of the whole step.
        model.set_attn_implementation("eager")
    return model


def collate(samples: list[Sample]) -> dict[str, torch.Tensor]:
    columns = {"input_ids": [list(s.ids) for s in samples], "labels": [list(s.labels) for s in samples]}
    batch = {name: torch.tensor(values) for name, values in columns.items()}  # [B, T]
    return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}


def save_adapter(model: PeftModel, folder: Path, base: Base, alpha_gain: float = 1.0) -> None:
    """PEFT's own format, with weights in bfloat16: half the size, and far finer than training noise.

    alpha_gain is stored in alpha, so that weight 1 means the same to every loader.
    """
    for config in model.peft_config.values():
        assert isinstance(config, LoraConfig)
        config.lora_alpha *= alpha_gain
        # PEFT puts the folder the base was loaded from here, which is nobody's business.
        config.base_model_name_or_path = base.id
    # "auto" would ask the Hub whether the embeddings were changed, which they never are.
    model.save_pretrained(folder, save_embedding_layers=False)
    weights = folder / WEIGHTS
    save_file(
        {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in load_file(weights).items()},
        weights,
        metadata={"format": "pt"},
    )
