"""Intel SGX: what an enclave file measures to, how one is laid out and signed."""
