"""Every way to compose, by name. A method carries its own help and source; the page is made from them."""

from types import MappingProxyType

from composer.methods.kl import KL, fuse
from composer.methods.outputs import CONTRAST, SUM
from composer.methods.registry import Method, Question, gates

METHODS = MappingProxyType({method.name: method for method in (SUM, CONTRAST, KL)})

__all__ = ["METHODS", "Method", "Question", "fuse", "gates"]
