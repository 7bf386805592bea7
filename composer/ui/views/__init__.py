"""What a visitor is shown of a run, as plain values: no widgets here."""
