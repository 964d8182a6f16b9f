"""Page lists: enclaves of loaders that nobody else knows."""
