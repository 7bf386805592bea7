"""The menu of bases as one page shows it."""

from __future__ import annotations

from dataclasses import dataclass

from composer.core.catalog_types import BaseSpec, Catalog


@dataclass(frozen=True)
class BaseMenu:
    """The bases that a visitor of a page may choose from."""

    catalog: Catalog
    # The base that the server started with; its page is at the root.
    home: str
    # The base of the page.
    here: str

    @property
    def root(self) -> str:
        """The way from the page to the server's root, as the end of an address."""
        return "" if self.here == self.home else "../../"

    def path(self, name: str) -> str:
        """The way from the server's root to a base's page."""
        return "" if name == self.home else f"base/{name}/"

    def of_id(self, hub_id: str | None) -> BaseSpec | None:
        """The catalog's base with this Hub id; the page's own where it fits. None: there is none."""
        own = self.catalog.bases[self.here]
        found = (each for each in (own, *self.catalog.bases.values()) if each.id == hub_id)
        return next(found, None)
