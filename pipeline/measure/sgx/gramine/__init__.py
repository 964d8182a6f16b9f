"""Gramine enclaves: manifest and libpal."""
