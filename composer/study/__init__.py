"""The experiments: judges, prompts, tables."""
