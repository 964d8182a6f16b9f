"""Enclaves inside container images, and what of the image they bind."""
