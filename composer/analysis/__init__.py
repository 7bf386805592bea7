"""Measurements: numbers in, numbers out."""
