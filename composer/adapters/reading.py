"""From an adapter's source to its factors on one base, or to the report that says why not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from composer.adapters.bank import Adapter
from composer.adapters.files import AdapterFiles, local_folder
from composer.adapters.fit.report import check_fit
from composer.adapters.fit.tensors import BaseNames
from composer.adapters.hub import Fetch, download, inspect
from composer.adapters.weights import load_adapter
from composer.core.catalog_types import AdapterSpec, FitReport
from composer.core.errors import ComposerError


@dataclass(frozen=True)
class Reader:
    """Reads adapters for one base."""

    # sites, names: see `fit`.
    sites: Mapping[str, tuple[int, int]]
    names: BaseNames
    # device, dtype: where the factors go.
    device: torch.device
    dtype: torch.dtype
    # Of the weights, in bytes.
    limit: float = math.inf
    # Of sites that compute elsewhere than on `device`.
    devices: Mapping[str, torch.device] = field(default_factory=dict)

    def check(self, spec: AdapterSpec, fetch: Fetch = Fetch()) -> FitReport:
        """Whether the adapter fits. Downloads no weights and never raises for what the source holds."""
        return self._inspect(spec, self.limit, fetch)[0]

    def download(self, spec: AdapterSpec, fetch: Fetch = Fetch()) -> FitReport:
        """Whether the adapter fits; one that does is in the cache afterwards, and nothing is loaded."""
        report, files = self._inspect(spec, self.limit, fetch)
        if not report.ok or files is None:
            return report
        try:
            download(files, self.limit, fetch)
        except ComposerError as fault:
            return refused(report, fault)
        return report

    def read(self, spec: AdapterSpec, own: bool = False, fetch: Fetch = Fetch()) -> tuple[FitReport, Adapter]:
        """The fit report and, if it is good, the factors.

        own: whether the person who runs the process chose the adapter; then a local one may have any size.
        """
        limit = math.inf if own and local_folder(spec.source) else self.limit
        report, files = self._inspect(spec, limit, fetch)
        if not report.ok or files is None:
            return report, {}
        try:
            folder = download(files, limit, fetch)
            factors = load_adapter(
                folder,
                files,
                report,
                base=self.names,
                device=self.device,
                dtype=self.dtype,
                devices=self.devices,
            )
            return report, factors
        except ComposerError as fault:
            return refused(report, fault), {}

    def _inspect(
        self, spec: AdapterSpec, limit: float, fetch: Fetch
    ) -> tuple[FitReport, AdapterFiles | None]:
        try:
            files = inspect(spec.source, spec.revision, spec.name, limit, fetch)
        except ComposerError as fault:
            return refused(FitReport(spec.name, spec.source, ok=False), fault), None
        return check_fit(files, self.sites, self.names), files


def refused(report: FitReport, fault: ComposerError) -> FitReport:
    """The report of an adapter that is refused after all."""
    return replace(report, ok=False, reasons=(str(fault),))
