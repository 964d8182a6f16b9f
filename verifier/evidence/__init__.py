"""Evidence as it comes out of a TEE: what it says, taken apart. No verdicts here."""
