"""Every way to make one adapter of several, by name. A merged adapter is one more entry of the bank."""

from types import MappingProxyType

from composer.methods.merges.core import CORE
from composer.methods.merges.pico import calibrate, collisions
from composer.methods.merges.rule import Merge, Merged, Options, merge
from composer.methods.merges.sparse import DARE_LINEAR, DARE_TIES, MAGNITUDE, TIES
from composer.methods.merges.sums import CAT, DELTA_AVERAGE, FACTOR_AVERAGE, LINEAR, SVD

MERGES = MappingProxyType(
    {
        method.name: method
        for method in (
            CAT,
            SVD,
            DELTA_AVERAGE,
            FACTOR_AVERAGE,
            LINEAR,
            TIES,
            DARE_LINEAR,
            DARE_TIES,
            MAGNITUDE,
            CORE,
        )
    }
)

__all__ = ["MERGES", "Merge", "Merged", "Options", "calibrate", "collisions", "merge"]
