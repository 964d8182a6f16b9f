"""Enclaves that are linked without an SDK; rvp lays them out itself."""
