"""The arms of the study: composing, merging, training and prompting for the same target."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from composer.core.composition import Composition
from composer.study.design.targets import MULTI, PAIR, Target

# One module trained on the union of an attribute's sets, or of both attributes' sets for a pair.
COMBINED = {"sentiment": "combined-sentiment", PAIR: "combined"}
# Those for several labels at once: each reads control words before its text that say which are wanted.
JOINT_ADAPTERS = (*COMBINED.values(), MULTI)
FIELDS = {each.name for each in fields(Composition)}

Modules = tuple[str, ...]


def _all(target: Target) -> Modules:
    return target.modules


def _none(target: Target) -> Modules:
    return ()


@dataclass(frozen=True)
class Arm:
    """One way of getting texts for a target."""

    name: str
    family: str
    label: str
    help: str
    source: str
    # The adapters that it composes for a target; None where it does not apply.
    modules: Callable[[Target], Modules | None] = _all
    # Weight of an attribute's adapter; 1 where it is missing.
    weights: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    # A name of composer.methods.METHODS.
    method: str = "sum"
    # More fields of Composition.
    parameters: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    # The plain base gets an instruction instead of adapters.
    instructed: bool = False
    # With a single adapter the arm is that adapter alone, whatever the method.
    passthrough_single: bool = True

    def unavailable_reason(self, methods: Collection[str], chat: bool) -> str | None:
        """Why the arm cannot run here, as a clause; None if it can."""
        if self.instructed and not chat:
            return "the base has no chat template to be told through"
        if self.method not in methods:
            return f"there is no method called {self.method}"
        strange = next((parameter for parameter in self.parameters if parameter not in FIELDS), None)
        return f"a composition has no dial called {strange}" if strange else None

    def composition_for(self, target: Target, strength: float) -> dict[str, object] | None:
        """The fields of the Composition for a target as plain values; None if the arm does not apply to it.

        Fields that make no difference are left out, so that equal texts have equal keys.
        """
        modules = self.modules(target)
        if modules is None:
            return None
        if not modules:
            return {}
        method, parameters = (
            (self.method, self.parameters) if len(modules) > 1 or not self.passthrough_single else ("sum", {})
        )
        stated = {label: self.weights.get(attribute, 1.0) for attribute, label in target.wanted}
        weights = {name: stated.get(name, 1.0) for name in modules}
        return {"method": method, "weights": weights, "strength": strength, **parameters}


def single(attribute: str) -> Arm:
    """The module of one attribute alone, which is also how far it suffers when others join."""

    def own(target: Target) -> Modules | None:
        label = target.label(attribute)
        return None if label is None else (label,)

    return Arm(
        f"single-{attribute}",
        "one module",
        f"{attribute.capitalize()} module alone",
        f"The target's {attribute} module, nothing else.",
        "this project",
        own,
    )


def _pair(target: Target) -> Modules | None:
    return target.modules if target.kind == PAIR else None


def _with_multi(target: Target) -> Modules | None:
    return (*target.modules, MULTI) if target.kind == PAIR else None


def _multi(target: Target) -> Modules | None:
    return (MULTI,) if target.kind == PAIR else None


def _combined(target: Target) -> Modules | None:
    return (COMBINED[target.kind],) if target.kind in COMBINED else None


LORANDI = "Lorandi & Belz 2026, arXiv 2605.12345 (known from its abstract)"
QA_FLORA = "Shukla et al., qa-FLoRA, AAAI 2026, arXiv 2512.11366 (formulas known second-hand)"

ARMS: tuple[Arm, ...] = (
    Arm("base", "reference", "Base", "The plain base, told nothing.", "-", _none),
    Arm(
        "prompting",
        "prompting",
        "Prompting",
        "The plain base, told in words what is wanted.",
        "the baseline that composing has to beat",
        _none,
        instructed=True,
    ),
    single("sentiment"),
    single("topic"),
    Arm("multi", "training", "Multi-attribute module", "M alone, told by control words.", LORANDI, _multi),
    Arm(
        "combined",
        "training",
        "Combined",
        "One module, trained on the union, told likewise.",
        LORANDI,
        _combined,
    ),
    Arm("sum", "outputs", "Sum", "Adds every module's output.", LORANDI),
    Arm(
        "sum-multi",
        "outputs",
        "Sum (S, T, M)",
        "Sum, with M as well; all three read M's control words.",
        LORANDI,
        _with_multi,
    ),
    Arm(
        "sum-topic-1.25",
        "outputs",
        "Sum (topic at 1.25)",
        "Sum, the topic a quarter louder, since it is what the other module drowns.",
        "this project",
        _pair,
        {"topic": 1.25},
    ),
    Arm("average", "outputs", "Average", "Sum over N.", LORANDI, method="average"),
    Arm("static", "outputs", "Static", "Weights that sum to 1.", "static fusion", method="static"),
    Arm(
        "balanced",
        "outputs",
        "Norm-balanced",
        "Every module's contribution made equally large.",
        "this project",
        method="balanced",
    ),
    *(
        Arm(
            f"contrast-{c:g}",
            "outputs",
            f"Contrast (c = {c:g})",
            "Sum, minus the opposites of what is wanted.",
            "this project",
            method="contrast",
            parameters={"contrast": c},
            passthrough_single=False,
        )
        for c in (0.25, 0.5, 1.0)
    ),
    *(
        Arm(
            f"contrast-0.5{suffix}",
            "outputs",
            f"Contrast (c = 0.5, {said})",
            "Contrast, louder where a module is drowned by the other.",
            "this project",
            _pair,
            weights,
            method="contrast",
            parameters={"contrast": 0.5},
            passthrough_single=False,
        )
        for suffix, said, weights in (
            ("-topic-1.25", "topic at 1.25", {"topic": 1.25}),
            ("-mood-1.1-topic-1.25", "mood at 1.1, topic at 1.25", {"sentiment": 1.1, "topic": 1.25}),
        )
    ),
    *(
        Arm(
            f"kl-{scale}",
            "adaptive",
            f"KL ({scale} scale)",
            "The prompt decides each layer's shares.",
            QA_FLORA,
            method="kl",
            parameters={"scale": scale},
        )
        for scale in ("unit", "paper")
    ),
    *(
        Arm(
            f"kl-contrast{suffix}",
            "adaptive",
            f"KL x contrast (c = {c:g})",
            "KL's shares, minus the opposites.",
            "this project",
            method="kl-contrast",
            parameters={"contrast": c},
            passthrough_single=False,
        )
        for suffix, c in (("-0.5", 0.5), ("", 1.0))
    ),
    Arm("cosine", "adaptive", "Cosine", "As KL, by hidden states.", QA_FLORA, method="cosine"),
    Arm(
        "logo", "adaptive", "LoGo", "Shares by each module's output norm.", "arXiv 2511.07129", method="logo"
    ),
    Arm(
        "arrow",
        "adaptive",
        "Arrow",
        "Shares per token, by each module's main direction.",
        "arXiv 2405.11157",
        method="arrow",
    ),
    Arm(
        "logits",
        "logits",
        "Logit sum",
        "Each module's change of the logits, added.",
        "Liu et al. 2021 (DExperts) and 2024 (proxy-tuning, arXiv 2401.08565)",
        method="logits",
        passthrough_single=False,
    ),
    Arm(
        "logits-contrast",
        "logits",
        "Logit contrast",
        "Logit sum, against the opposites of what is wanted.",
        "Liu et al. 2021 (DExperts, arXiv 2105.03023)",
        method="logits-contrast",
        parameters={"contrast": 1.0},
        passthrough_single=False,
    ),
    Arm(
        "factor-average",
        "weights",
        "Factor average (W-a)",
        "(mean B)(mean A).",
        LORANDI,
        method="factor-average",
    ),
    Arm("peft-linear", "weights", "PEFT linear", "A and B added apart.", "peft", method="linear"),
    Arm("svd", "weights", "SVD", "The sum, cut to one module's rank.", "peft", method="svd"),
    Arm(
        "ties",
        "weights",
        "TIES",
        "Trimmed, signs elected, agreeing entries averaged.",
        "Yadav et al. 2023, arXiv 2306.01708",
        method="ties",
    ),
    Arm(
        "dare-ties",
        "weights",
        "DARE-TIES",
        "Dropped at random and rescaled, then TIES.",
        "Yu et al. 2024, arXiv 2311.03099",
        method="dare-ties",
    ),
    Arm(
        "core",
        "weights",
        "Core isolation",
        "Each module's largest entries kept, the rest merged spherically.",
        "CPI-FT, arXiv 2508.21741 (formulas known second-hand), carried over to LoRA",
        method="core",
    ),
    Arm(
        "pico",
        "calibrated",
        "Pico + sum",
        "Directions that modules share damped, then the sum.",
        "arXiv 2604.16826",
        method="pico",
    ),
)
