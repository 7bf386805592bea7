"""Every way to compose, by name. A method carries its own help and source; the page is made from them."""

from types import MappingProxyType

from composer.methods.adaptive import COSINE, KL, KL_CONTRAST, LOGO, fuse
from composer.methods.outputs import AVERAGE, BALANCED, CONTRAST, STATIC, SUM
from composer.methods.registry import Method, Prompted, Question, gates
from composer.methods.routed import ARROW

METHODS = MappingProxyType(
    {
        method.name: method
        for method in (SUM, CONTRAST, KL, KL_CONTRAST, COSINE, LOGO, ARROW, BALANCED, AVERAGE, STATIC)
    }
)

__all__ = ["METHODS", "Method", "Prompted", "Question", "fuse", "gates"]
