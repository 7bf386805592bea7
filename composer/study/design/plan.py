"""What a plan is made of: cells of the study's table, texts that they share, and what a text depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.engine.engine import Engine
from composer.engine.resolve import requires_materialization
from composer.evaluation.fingerprints import origin, version
from composer.evaluation.generation import GenerationJob
from composer.evaluation.records import digest
from composer.methods import METHODS, Method
from composer.study.design.arms import COMBINED, Arm
from composer.study.design.targets import Target
from composer.training.control_tokens import control


@dataclass(frozen=True)
class Cell:
    """A place in the study's table, and the key of the text that stands there."""

    arm: str
    target: Target
    strength: float
    prompt: str
    seed: int
    key: str
    # Which training of the modules.
    module_seed: int = 0
    # What tells apart an arm's constants and strengths, by the name of a Setting.
    setting: str = ""


@dataclass(frozen=True)
class Missing:
    """Something the study cannot have."""

    # None for all of them.
    arm: str | None
    # Names, or kinds of which every target is missing; empty for all.
    targets: tuple[str, ...]
    # A clause.
    reason: str


@dataclass(frozen=True)
class StudyPlan:
    """Every cell of the study's table and every text that it needs."""

    # The whole table.
    cells: tuple[Cell, ...]
    # The texts, each once.
    jobs: tuple[GenerationJob, ...]
    # What is left out, and why.
    missing: tuple[Missing, ...]


@dataclass(frozen=True)
class StudyContext:
    """What a plan needs of the engine, and everything besides a composition that a text depends on."""

    # What tells one base from another.
    base: tuple[str, ...]
    # What tells one training of an adapter from the next, by the adapter's name.
    versions: Mapping[str, str]
    # An adapter's attribute group.
    peers: Mapping[str, tuple[str, ...]]
    methods: Mapping[str, Method]
    # (instruction, beginning of the answer) -> the base's input; None without a chat template.
    chat: Callable[[str, str], str] | None

    @classmethod
    def of(cls, engine: Engine) -> StudyContext:
        """Raises ComposerError for a base prompted through a chat template, which continues no plain text."""
        if engine.base.spec.prompting != "plain":
            raise ComposerError(
                "The study needs a base that continues plain text; choose one whose prompting is plain."
            )
        base, spec = engine.base, engine.base.spec
        return cls(
            (base.id, origin(base), spec.quantization, spec.dtype),
            {adapter.name: version(engine, adapter) for adapter in engine.snapshot.adapters},
            {name: group.members for group in engine.attributes for name in group.members},
            METHODS,
            _chat(base.tokenizer),
        )

    @property
    def training(self) -> str:
        """Differs between two trainings of the modules."""
        return digest(dict(self.versions))

    def key(
        self,
        model_input: str,
        asked: Mapping[str, object],
        sampling: Sampling,
        seed: int,
        best_of: int = 1,
    ) -> str:
        """A digest that changes with anything that could change the text.

        A field at its default counts only where the method reads it, so that a field that is added later
        leaves the keys of stored texts as they are.
        """
        whole, plain = Composition(**asked).as_dict(), Composition().as_dict()
        method = self.methods[whole["method"]]
        heard = {
            name: whole[name] for name in whole if name in method.parameters or whole[name] != plain[name]
        }
        names = set(whole["weights"])
        if "contrast" in method.parameters or best_of > 1:
            names |= {peer for name in names for peer in self.peers.get(name, ())}
        settings = {**asdict(sampling), "seed": seed, "time_limit": None}
        versions = {name: self.versions[name] for name in sorted(names)}
        chosen = (best_of,) if best_of > 1 else ()
        return digest(self.base, model_input, heard, versions, settings, *chosen)


def present_targets(context: StudyContext, targets: Sequence[Target]) -> tuple[list[Target], list[Missing]]:
    """The targets whose adapters are all loaded, and the others by what is missing."""
    absent: dict[str, list[Target]] = {}
    for target in targets:
        if reason := missing_adapter(context, target.modules):
            absent.setdefault(reason, []).append(target)
    gone = {target for lacking in absent.values() for target in lacking}
    missing = [Missing(None, short_names(lacking, targets), why) for why, lacking in absent.items()]
    return [target for target in targets if target not in gone], missing


def missing_adapter(context: StudyContext, adapters: Iterable[str]) -> str | None:
    missing = next((name for name in adapters if name not in context.versions), None)
    return f"there is no adapter called {missing}" if missing else None


def short_names(some: Iterable[Target], of: Sequence[Target]) -> tuple[str, ...]:
    """Their names; none where it is all of them."""
    names = tuple(target.name for target in of if target in set(some))
    return () if len(names) == len(of) else names


def in_order(jobs: Iterable[GenerationJob]) -> list[GenerationJob]:
    """Longest first: rows of like length are read together, and the last batch to drain is the cheapest.

    Within a length, by prompt and seed: all arms of a prompt are finished before the next is begun, so that
    a study cut short still compares. Units that adapters are made for come last and adapter by adapter:
    making one takes as long as several texts, and each place in the bank slows all texts down.
    """
    return sorted(
        jobs, key=lambda job: (_materialization_order(job), -len(job.model_input), job.model_input, job.seed)
    )


def _materialization_order(job: GenerationJob) -> tuple:
    """Identifies the merged adapter that a job needs; () if it needs none. The strength is a gate's."""
    if not job.asked or not requires_materialization(composition := Composition(**job.asked)):
        return ()
    return (
        composition.method,
        *sorted((name, str(value)) for name, value in job.asked.items() if name != "strength"),
    )


def model_input_of(
    context: StudyContext, arm: Arm, target: Target, asked: Mapping[str, object], prompt: str
) -> str:
    if arm.name == COMBINED:
        return control(label for _, label in target.wanted) + prompt
    if not (arm.instructed and context.chat):
        return prompt
    return context.chat(
        f'Write a short, fluent text that begins with "{prompt}" and has {target.words}.', prompt
    )


def _chat(tokenizer) -> Callable[[str, str], str] | None:
    """Renders an instruction with the tokenizer's chat template; None without a template."""
    if not getattr(tokenizer, "chat_template", None):
        return None

    def render(instruction: str, beginning: str) -> str:
        turn = [{"role": "user", "content": instruction}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        # It is tokenised like any prompt; a tokenizer that opens every text must not open this one twice.
        opens = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
        return (text.removeprefix(tokenizer.bos_token) if opens else text) + beginning

    return render
