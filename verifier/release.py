"""Find the reference values that are to be released, among the statements that lie in a place.

A place is a Sigstore bundle, a folder of them, or a bundle of rvp (folder or archive). A release names one
core: where statements have different ones, the person who releases must choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from provenance import bundle as rvp_bundle
from provenance.dsse import NotVerified
from provenance.errors import PolicyFailure, SignatureFailure, UsageError
from provenance.predicates import reference_values
from provenance.predicates.core import Core, core_digest
from provenance.predicates.reference_values import ReferenceValues, read_reference_values
from provenance.public_key import PublicKey
from provenance.sigstore_bundle import MAX_BUNDLE_BYTES, SUFFIX, read_bundle, verify_envelope
from provenance.statement import read_statement
from provenance.strict import NotReadable, read_file

MAX_STATEMENTS: Final = 1000


class NothingToRelease(UsageError):
    """The place has no reference values, or none that a given key signed.

    Cure: `rvp sign` makes them; give the folder where it wrote, or the published bundle.
    """

    code = "RVP-6501"


class CoresDiffer(PolicyFailure):
    """The statements do not agree on the values, and a release is of one core.

    Cure: find out why they differ (`rvp show`); then name the right one with `--core`.
    """

    code = "RVP-6502"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Reference values that were found: from which file, by which key (None: not verified)."""

    name: str
    values: ReferenceValues
    key: PublicKey | None


def find_values(path: Path, keys: Sequence[PublicKey]) -> tuple[Found, ...]:
    """Read the reference values that lie in a place.

    Args:
        path: a Sigstore bundle, a folder of them, or a bundle of rvp.
        keys: only what these signed is taken; empty: everything is taken, and nothing is verified.

    Raises:
        NothingToRelease: RVP-6501. NotReadable: RVP-1010, and what the readers raise.
    """
    found = []
    for name, data in _statements(path):
        bundle = read_bundle(data, name=name)
        if keys:
            try:
                verified = verify_envelope(bundle, keys, name=name)
            except NotVerified:
                continue
            statement, key = verified.statement, verified.key
        else:
            statement, key = read_statement(bundle.envelope.payload, name=name), None
        if statement.predicate_type == reference_values.TYPE:
            found.append(Found(name=name, values=read_reference_values(statement, name=name), key=key))
    if not found:
        raise NothingToRelease(
            "no reference values here" + (" that a given key signed" if keys else ""), place=str(path)
        )
    return tuple(found)


def choose_core(found: Sequence[Found], wanted: str = "") -> tuple[Core, tuple[Found, ...]]:
    """Choose the core that is released.

    Args:
        found: reference values; not empty.
        wanted: the SHA-256 of the core, hex, or its beginning; empty when they all agree.

    Returns:
        The core, and those who say it.

    Raises:
        CoresDiffer: RVP-6502. NothingToRelease: RVP-6501.
    """
    groups: dict[str, list[Found]] = {}
    for one in found:
        groups.setdefault(core_digest(one.values.core).hex(), []).append(one)
    fitting = [digest for digest in groups if digest.startswith(wanted.removeprefix("sha256:").lower())]
    if len(fitting) == 1:
        chosen = groups[fitting[0]]
        return chosen[0].values.core, tuple(chosen)
    listed = "\n".join(
        f"  {digest}  {', '.join(one.name for one in group)}" for digest, group in sorted(groups.items())
    )
    if not fitting:
        raise NothingToRelease(f"nobody says the core {wanted}; there are\n{listed}")
    raise CoresDiffer(f"the statements have {len(fitting)} cores:\n{listed}", hint="choose one with --core")


def _statements(path: Path) -> list[tuple[str, bytes]]:
    if path.is_dir() and not (path / "oci-layout").exists():
        names = sorted(path.glob(f"*{SUFFIX}"))
        if len(names) > MAX_STATEMENTS:
            raise NotReadable(f"more than {MAX_STATEMENTS} statements", place=str(path))
        return [(str(one), read_file(one, limit_bytes=MAX_BUNDLE_BYTES)) for one in names]
    if path.is_file():
        with path.open("rb") as stream:
            start = stream.read(1)
        if start == b"{":
            return [(str(path), read_file(path, limit_bytes=MAX_BUNDLE_BYTES))]
    try:
        statements = rvp_bundle.read_bundle(path).statements
    except SignatureFailure as error:
        if path.is_file():
            raise NothingToRelease(f"neither a statement nor a bundle: {error}", place=str(path)) from error
        raise
    return [(f"{path}#{number}", data) for number, data in enumerate(statements)]
