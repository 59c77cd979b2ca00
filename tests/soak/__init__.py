"""Long runs of everything at once."""
