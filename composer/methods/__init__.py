"""Every way to compose, by name. The page, the command line and docs/methods.md are made from METHODS."""

from composer.methods import merged
from composer.methods.adaptive import COSINE, KL, KL_CONTRAST, LOGO, fuse
from composer.methods.base import GateInputs, Method, PromptStats, gate_method, logit_mixture
from composer.methods.calibrated import CALIBRATED
from composer.methods.dynamic import DYNAMIC
from composer.methods.fallback import KL_OR_SUM
from composer.methods.logits import LOGITS, LOGITS_CONTRAST
from composer.methods.output_sums import AVERAGE, BALANCED, CONTRAST, STATIC, SUM
from composer.methods.perplexity import PERPLEXITY
from composer.methods.registry import MethodRegistry
from composer.methods.routed import ARROW
from composer.methods.spectr import SPECTR

# In the order of the page's list.
METHODS = MethodRegistry(
    (
        SUM,
        CONTRAST,
        KL,
        KL_CONTRAST,
        KL_OR_SUM,
        COSINE,
        LOGO,
        PERPLEXITY,
        ARROW,
        SPECTR,
        DYNAMIC,
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
        merged.SVC,
        merged.TIES,
        merged.DARE_LINEAR,
        merged.DARE_TIES,
        merged.MAGNITUDE,
        merged.CORE,
    )
)

__all__ = ["METHODS", "GateInputs", "Method", "PromptStats", "fuse", "gate_method", "logit_mixture"]
