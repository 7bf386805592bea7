"""Where adapters come from, whether they fit, and their stacked factors."""
