"""Explaining SGX enclaves: sides, causes, hypotheses."""
