"""What happens when a visitor acts: one file for each kind of action, over a PageContext."""
