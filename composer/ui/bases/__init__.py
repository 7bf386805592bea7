"""Several bases in one server: which there are, loading them, and serving a page for each."""
