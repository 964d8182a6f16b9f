"""The transcript: which hosts a fetch reached, how often, how many bytes; no times, no content, no paths."""

from __future__ import annotations

import msgspec

from provenance.canonical import canonical_json


class Contact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, order=True):
    """One host and port: connections made, connections refused, bytes received from it and sent to it."""

    host: str
    port: int
    connections: int = 0
    refused: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


class Transcript(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All contacts of one fetch, sorted by host and port."""

    contacts: tuple[Contact, ...] = ()

    def to_json(self) -> bytes:
        """Write it in its canonical form."""
        return canonical_json(self)

    @property
    def refused(self) -> tuple[str, ...]:
        """The hosts that were asked for and are not allowed."""
        return tuple(f"{contact.host}:{contact.port}" for contact in self.contacts if contact.refused)
