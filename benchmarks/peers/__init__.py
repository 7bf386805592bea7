"""Another engine beside ours: llama.cpp with the same weights and the same adapters."""
