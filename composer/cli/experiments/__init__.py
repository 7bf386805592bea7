"""Subcommands that measure: what holds of adapters, methods and bases."""
