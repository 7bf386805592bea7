"""What composing costs, measured beside what people use today."""
