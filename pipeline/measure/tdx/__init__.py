"""Intel TDX: what a trust domain measures to, from its firmware, its shape and what it boots."""
