"""Values, names and errors that every other room uses. Imports neither torch nor another room.

Dimensions used throughout: N adapters, L layers, S sites, R summed rank, B rows, T tokens,
V vocabulary, d width.
"""
