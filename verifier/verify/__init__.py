"""The judgement of a bundle under a policy: a pure function, its checks, and what it says."""
