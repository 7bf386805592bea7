"""Subcommands that make files of the project anew: docs/methods.md, recordings, benchmarks/RESULTS.md."""
