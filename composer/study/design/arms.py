"""The arms of the study: every method of composing, one joint training, prompting, and what they must beat.

A method that is added to composer.methods.METHODS is an arm without a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType

from composer.core.composition import Composition
from composer.evaluation.best_of_n import check_count
from composer.methods import METHODS, Method
from composer.study.design.targets import Target

# The adapter trained on the union of both attributes' sets. It reads control words before its text that say
# which labels are wanted.
COMBINED = "combined"
# A constant of an arm that is no field of Composition: the weight of a target's last attribute, while the
# others have 1.
BALANCE = "balance"
# Another: so many texts are written, of which best-of-n keeps one.
BEST_OF = "best_of"
FIELDS = {each.name for each in fields(Composition)} | {BALANCE, BEST_OF}
# A method that is two arms, as its source and its relatives scale it.
SCALES: Mapping[str, tuple[str, ...]] = MappingProxyType({"kl": ("unit", "paper")})
# Where an arm starts from other constants than a Composition does.
STARTS: Mapping[str, Mapping[str, object]] = MappingProxyType({"contrast": {"contrast": 0.5}})

# Methods that are an arm with a weight for each attribute, too, and those that are one with best-of-n.
WEIGHTED = ("sum", "contrast")
CHOOSING = ("contrast",)
TEXTS = 8

Modules = tuple[str, ...]


def _all(target: Target) -> Modules:
    return target.modules


def _none(target: Target) -> Modules:
    return ()


def _combined(target: Target) -> Modules:
    return (COMBINED,)


@dataclass(frozen=True)
class Arm:
    """One way of getting texts for a target."""

    name: str
    family: str
    label: str
    help: str
    source: str
    # The adapters that it composes for a target.
    modules: Callable[[Target], Modules] = _all
    # A name of composer.methods.METHODS.
    method: str = "sum"
    # More fields of Composition, BALANCE or BEST_OF.
    parameters: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    # Constants to choose among, if others than those that are tried with the method; weaker ones first.
    tried: Mapping[str, Sequence[object]] = field(default_factory=lambda: MappingProxyType({}))
    # The plain base gets an instruction instead of adapters.
    instructed: bool = False

    @property
    def best_of(self) -> int:
        """How many texts are written for one."""
        return check_count(self.parameters.get(BEST_OF, 1))

    def unavailable_reason(self, chat: bool) -> str | None:
        """Why the arm cannot run here, as a clause; None if it can."""
        if self.instructed and not chat:
            return "the base has no chat template to be told through"
        strange = next((parameter for parameter in self.parameters if parameter not in FIELDS), None)
        return f"a composition has no dial called {strange}" if strange else None

    def composition_for(self, target: Target, strength: float) -> dict[str, object]:
        """The fields of the Composition for a target as plain values.

        Fields that make no difference are left out, so that equal texts have equal keys.
        """
        modules = self.modules(target)
        if not modules:
            return {}
        parameters = dict(self.parameters)
        parameters.pop(BEST_OF, None)  # of the texts' number, not of the composition
        weights = dict.fromkeys(modules, 1.0) | {modules[-1]: parameters.pop(BALANCE, 1.0)}
        return {"method": self.method, "weights": weights, "strength": strength, **parameters}


def single(attribute: str) -> Arm:
    """The module of one attribute alone, which is also how far it suffers when others join."""

    def own(target: Target) -> Modules:
        return (target.label(attribute),)

    return Arm(
        f"single-{attribute}",
        "One module",
        f"{attribute.capitalize()} module alone",
        f"The target's {attribute} module, nothing else.",
        "this project",
        own,
    )


def method_arms(method: Method) -> tuple[Arm, ...]:
    """The method as it is by default, once for each of its SCALES."""
    start = STARTS.get(method.name, {})
    words = method.family, method.label, method.help, method.source
    if method.name not in SCALES:
        return (Arm(method.name, *words, method=method.name, parameters=start),)
    family, label, *more = words
    return tuple(
        Arm(
            f"{method.name}-{scale}",
            family,
            f"{label}, {scale} scale",
            *more,
            method=method.name,
            parameters={**start, "scale": scale},
        )
        for scale in SCALES[method.name]
    )


def weighted(method: Method) -> Arm:
    """The method with a weight for each attribute, as somebody with a slider for each has it."""
    start = {**STARTS.get(method.name, {}), BALANCE: 1.25}
    return Arm(
        f"{method.name}-weighted",
        method.family,
        f"{method.label}, weighted",
        f"{method.label} with a weight for each attribute, chosen on development prompts.",
        "this project",
        method=method.name,
        parameters=start,
        tried=MappingProxyType({BALANCE: (1.0, 1.25, 1.5)}),
    )


def best_of_n(method: Method) -> Arm:
    """The weighted method, and of several of its texts the one that best-of-n keeps."""
    own = weighted(method)
    return replace(
        own,
        name=f"{method.name}-best-of-{TEXTS}",
        label=f"{own.label}, best of {TEXTS}",
        help=f"Of {TEXTS} texts of {own.label} the one that the modules themselves find likeliest to have "
        "both labels, by Bayes' rule, less what the base finds odd about it.",
        source="samples ranked (PPLM, arXiv 1912.02164) by class-conditional models (GeDi, 2009.06367)",
        parameters={**own.parameters, BEST_OF: TEXTS},
        tried=MappingProxyType({BALANCE: (1.25, 1.5)}),
    )


def label(name: str, arms: Mapping[str, Arm]) -> str:
    """How a report calls an arm; one that is no more has its name."""
    return arms[name].label if name in arms else name


def all_arms() -> dict[str, Arm]:
    """Every arm by name: references, joint training, the methods as in METHODS, and those that add to one."""
    methods = [arm for method in METHODS.values() for arm in method_arms(method)]
    more = [weighted(METHODS[name]) for name in WEIGHTED] + [best_of_n(METHODS[name]) for name in CHOOSING]
    return {arm.name: arm for arm in (*OTHERS, *methods, *more)}


OTHERS: tuple[Arm, ...] = (
    Arm("base", "Reference", "Base", "The plain base, told nothing.", "-", _none),
    Arm(
        "prompting",
        "Prompting",
        "Prompting",
        "The plain base, told in words what is wanted.",
        "the baseline that composing has to beat",
        _none,
        instructed=True,
    ),
    single("sentiment"),
    single("topic"),
    Arm(
        COMBINED,
        "Joint training",
        "Combined",
        "One module, trained on the union of all texts, told by control words.",
        "Lorandi & Belz 2026, arXiv 2605.12345 (known from its abstract)",
        _combined,
    ),
)
