"""Labelled text in, a (Q)LoRA adapter out."""
