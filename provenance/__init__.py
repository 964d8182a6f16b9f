"""What is said and signed: digests, claims, logs, statements, predicates, keys, bundles, policy: the base."""
