"""Why two measurements differ: the first divergence, what it belongs to, and the likely cause in words.

Entry point: `explain.explain`. `walk` compares runs of events of any TEE; `sgx*` knows enclaves.
"""
