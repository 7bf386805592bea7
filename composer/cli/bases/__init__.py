"""composer bases, in two modules: the command, and what it prints."""

from composer.cli.bases.listing import command

__all__ = ["command"]
