"""How reference values come to be: spec, lock, hermetic rebuilds, measurements. The top floor."""
