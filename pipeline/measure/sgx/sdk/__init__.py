"""Enclaves of Intel's SDK: metadata, layout, and what its signing tool makes of an unsigned file."""
