"""The TypeURIs that rvp defines: one base, in one place.

`.example` is reserved (RFC 2606), so nobody can own these names and nothing can be fetched from them; they
are identifiers, compared as text. docs/decisions/0009-type-uris.md says why, and what a rename would take.
"""

from __future__ import annotations

from typing import Final

TYPE_BASE: Final = "https://reference-value-pipeline.example"

REFERENCE_VALUES: Final = f"{TYPE_BASE}/predicates/reference-values/v0.1"
RELEASE: Final = f"{TYPE_BASE}/predicates/release/v0.1"
REBUILD_BUILD_TYPE: Final = f"{TYPE_BASE}/build-types/rebuild/v1"

# The builder of an operator who gives no other URI: the fingerprint of the key follows.
KEY_BUILDER: Final = f"{TYPE_BASE}/builders/key/sha256:"

# Defined by SLSA, not by us.
SLSA_PROVENANCE: Final = "https://slsa.dev/provenance/v1"
