"""Why a composition does what it does: every measurement of insight on one prompt and one text."""

from composer.explain.explanation import Explanation
from composer.explain.measure import explain
from composer.explain.report import as_text

__all__ = ["Explanation", "as_text", "explain"]
