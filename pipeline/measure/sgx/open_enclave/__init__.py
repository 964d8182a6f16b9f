"""Enclaves of Open Enclave, and of EGo, which is built on it."""
