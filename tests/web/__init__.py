"""The page, in a real browser and by plain requests."""
