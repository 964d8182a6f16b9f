"""How reference values are used: evidence, endorsement, appraisal. Light: the base installation is enough."""
