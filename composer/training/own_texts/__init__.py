"""Somebody's own texts of one attribute in, an adapter, its card and its lines of the catalog out."""
