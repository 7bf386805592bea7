"""Every way to compose, by name. A method carries its own help and source; the page is made from them."""

from types import MappingProxyType

from composer.methods import merged
from composer.methods.adaptive import COSINE, KL, KL_CONTRAST, LOGO, fuse
from composer.methods.base import GateInputs, Method, PromptStats, logit_mixture
from composer.methods.calibrated import CALIBRATED
from composer.methods.logits import LOGITS, LOGITS_CONTRAST
from composer.methods.output_sums import AVERAGE, BALANCED, CONTRAST, STATIC, SUM
from composer.methods.routed import ARROW

METHODS = MappingProxyType(
    {
        method.name: method
        for method in (
            SUM,
            CONTRAST,
            KL,
            KL_CONTRAST,
            COSINE,
            LOGO,
            ARROW,
            BALANCED,
            AVERAGE,
            STATIC,
            LOGITS,
            LOGITS_CONTRAST,
            *CALIBRATED,
            merged.FACTOR_AVERAGE,
            merged.DELTA_AVERAGE,
            merged.LINEAR,
            merged.CAT,
            merged.SVD,
            merged.TIES,
            merged.DARE_LINEAR,
            merged.DARE_TIES,
            merged.MAGNITUDE,
            merged.CORE,
        )
    }
)

__all__ = ["METHODS", "GateInputs", "Method", "PromptStats", "fuse", "logit_mixture"]
