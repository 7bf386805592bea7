"""Every way to make one adapter of several, by name. A merged adapter is one more entry of the bank."""

from types import MappingProxyType

from composer.methods.merging.base import Merge, Merged, Options, merge
from composer.methods.merging.cpi_ft import CORE
from composer.methods.merging.factor_merges import CAT, DELTA_AVERAGE, FACTOR_AVERAGE, LINEAR, SVD
from composer.methods.merging.pico import calibrate
from composer.methods.merging.sparsify import DARE_LINEAR, DARE_TIES, MAGNITUDE, TIES

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

__all__ = ["MERGES", "Merge", "Merged", "Options", "calibrate", "merge"]
