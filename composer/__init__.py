"""Compose LoRA adapters of a language model by summing their outputs at every layer."""

from typing import TYPE_CHECKING, Any

from composer.core.threads import spin_briefly

if TYPE_CHECKING:
    from composer.core.composition import Composition, Sampling
    from composer.engine.engine import Engine

__all__ = ["Composition", "Engine", "Sampling"]

spin_briefly()


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `composer --help` and the values alone must not wait for it.
    if name == "Engine":
        from composer.engine.engine import Engine

        return Engine
    # numpy a moment, in which `python -m composer` could not be interrupted without a traceback.
    if name in ("Composition", "Sampling"):
        from composer.core import composition

        return getattr(composition, name)
    raise AttributeError(f"module 'composer' has no attribute {name!r}")
