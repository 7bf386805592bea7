"""Measurements as a report. Every figure comes from the results passed in, or from a file of facts."""

from benchmarks.report.document import as_markdown
from benchmarks.report.words import DEVICES, NOT_YET

__all__ = ["DEVICES", "NOT_YET", "as_markdown"]
