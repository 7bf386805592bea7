"""Compose LoRA adapters of a language model by summing their outputs at every layer."""

from composer.spec import Composition, Sampling
from composer.threads import spin_briefly

__all__ = ["Composition", "Engine", "Sampling"]

spin_briefly()


def __getattr__(name: str):
    # torch takes seconds to import; `composer --help` and the values alone must not wait for it.
    if name == "Engine":
        from composer.engine import Engine

        return Engine
    raise AttributeError(f"module 'composer' has no attribute {name!r}")
