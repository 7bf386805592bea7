"""What a GPU makes of a base of real size, one engine at a time, within a few minutes."""
