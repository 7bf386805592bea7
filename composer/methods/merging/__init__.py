"""Every way to make one adapter of several, and to calibrate several against each other, by name.

What is made is one more entry of the bank.
"""

from types import MappingProxyType

from composer.methods.merging.base import Calibration, Merge, Merged, Options, merge
from composer.methods.merging.cpi_ft import CORE
from composer.methods.merging.factor_merges import CAT, DELTA_AVERAGE, FACTOR_AVERAGE, LINEAR, SVD
from composer.methods.merging.np_lora import NP_LORA
from composer.methods.merging.pico import PICO, calibrate
from composer.methods.merging.sparsify import DARE_LINEAR, DARE_TIES, MAGNITUDE, TIES
from composer.methods.merging.svc import SVC

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
            SVC,
        )
    }
)
CALIBRATIONS = MappingProxyType({each.name: each for each in (PICO, NP_LORA)})

__all__ = [
    "CALIBRATIONS",
    "MERGES",
    "Calibration",
    "Merge",
    "Merged",
    "Options",
    "calibrate",
    "merge",
]
