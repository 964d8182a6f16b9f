"""The signed Release of an archive: the one signature on which a base of packages rests.

A Release lists the SHA-256 of every index of its suite; the indexes list the SHA-256 of every package.
So one signature, checked against a keyring that the spec names, pins everything below it.

Invariants: only bytes that were signed are parsed (text around a clear-signed document is dropped);
the suite that was asked for is the suite or the codename that was signed; a keyring is a file, never a
key that came along with the data.

Source: Debian repository format, "Release" files; RFC 9580, section 7 (cleartext signatures).
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from provenance.digest import sha256
from provenance.errors import EnvironmentFailure, SignatureFailure, SpecError
from provenance.strict import NotReadable, read_file

ARCHIVE_KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"  # package debian-archive-keyring
_ARCHIVE_KEYRINGS: Final = (ARCHIVE_KEYRING, "/usr/share/keyrings/debian-archive-keyring.pgp")
_MAX_RELEASE_BYTES: Final = 16 << 20
_FIELD: Final = re.compile(r"([A-Za-z0-9-]+):[ \t]*(.*)\Z")


class KeyringMissing(EnvironmentFailure):
    """The keyring that signatures are checked against is not there, or holds no key.

    Cure: install the package `debian-archive-keyring`, or name a keyring file beside the spec
    (`keyring = "vendor.asc"`).
    """

    code = "RVP-1401"


class ReleaseNotSigned(SignatureFailure):
    """No key of the keyring has signed this Release, or its bytes are not the ones that were signed.

    Cure: check the keyring and the mirror; a transparent proxy that changes files looks the same.
    """

    code = "RVP-1402"


class WrongRelease(SignatureFailure):
    """A genuine Release of something else: another suite, or another origin.

    Cure: correct the suite or the origin in the spec, or the mirror's address.
    """

    code = "RVP-1403"


class ReleaseExpired(SignatureFailure):
    """The Release says that it is no longer valid, so that a mirror cannot hold back updates unseen.

    Cure: use a current mirror; a frozen archive has no such date.
    """

    code = "RVP-1404"


class ReleaseRolledBack(SignatureFailure):
    """The mirror offers an older Release than the one in the lock.

    Cure: use a current mirror, or delete the lock if going back is what you want.
    """

    code = "RVP-1405"


class NotInRelease(SpecError):
    """The archive has no such component or architecture.

    Cure: the message lists what it has; correct the spec.
    """

    code = "RVP-1406"


class IndexEntry(msgspec.Struct, frozen=True):
    """One file that a Release lists: SHA-256 (32 bytes) and size in bytes."""

    sha256: bytes
    size_bytes: int


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """A Release whose signature was checked.

    Attributes:
        text: what was signed, as the file `Release` has it (one newline at the end).
        digest: SHA-256 of the text.
        date: when it was made, Unix seconds.
        valid_until: Unix seconds; None in an archive that says nothing, a frozen one for example.
        signed_by: fingerprints of the certificates whose signatures were checked, sorted.
        pin: how apt would rank the suite: 500, less for one whose packages are not taken by themselves.
        files: path below the suite's folder to what is listed.
    """

    text: bytes
    digest: bytes
    origin: str
    suite: str
    codename: str
    date: int
    valid_until: int | None
    components: tuple[str, ...]
    architectures: tuple[str, ...]
    by_hash: bool
    pin: int
    signed_by: tuple[str, ...]
    files: dict[str, IndexEntry]


class Keyring(msgspec.Struct, frozen=True):
    """The certificates of a keyring file, binary or armoured; `place` names the file."""

    place: str
    certificates: tuple[Any, ...]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The fingerprints of the primary keys, sorted."""
        return tuple(sorted(str(certificate.fingerprint) for certificate in self.certificates))


def read_keyring(named: str, folder: Path) -> Keyring:
    """Read the keyring that a spec names.

    Args:
        named: a path beside the spec or an absolute one; empty for the Debian archive keyring.
        folder: the folder of the spec.

    Raises:
        KeyringMissing: RVP-1401.
    """
    choices = [folder / named] if named else [Path(path) for path in _ARCHIVE_KEYRINGS]
    path = next((choice for choice in choices if choice.is_file()), None)
    if path is None:
        hint = "check the path" if named else "install the package debian-archive-keyring"
        raise KeyringMissing(f"there is no keyring {choices[0]}", hint=hint)
    try:
        data = read_file(path, limit_bytes=_MAX_RELEASE_BYTES)
    except NotReadable as error:
        raise KeyringMissing(error.message, place=str(path)) from error
    return parse_keyring(data, place=named or path.name)


def parse_keyring(data: bytes, *, place: str) -> Keyring:
    """Parse certificates, binary or ASCII-armoured.

    Raises:
        KeyringMissing: RVP-1401 when there is none in it.
    """
    import pysequoia

    blocks = re.findall(rb"-----BEGIN PGP PUBLIC KEY.*?-----END PGP PUBLIC KEY[^\n]*\n?", data, re.DOTALL)
    certificates: list[Any] = []
    try:
        for block in blocks or [data]:
            certificates += pysequoia.Cert.split_bytes(block)
    except Exception as error:
        raise KeyringMissing(f"not an OpenPGP keyring: {_first_line(error)}", place=place) from error
    if not certificates:
        raise KeyringMissing("the keyring holds no certificate", place=place)
    return Keyring(place, tuple(certificates))


def verify_release(
    data: bytes, keyring: Keyring, *, signature: bytes | None = None, place: str = ""
) -> Release:
    """Check the signature of a Release and parse what was signed.

    Args:
        data: an InRelease, or a Release when `signature` is given.
        keyring: whose signatures count; one valid signature is enough.
        signature: the detached signatures of Release.gpg.
        place: what to call the file in an error.

    Raises:
        ReleaseNotSigned: RVP-1402.
    """
    text, signers = _checked(data, keyring, signature, place)
    return _parse(text, signers, place)


def check_release(
    release: Release,
    *,
    suite: str,
    origin: str = "",
    now: int | None = None,
    known_date: int | None = None,
    place: str = "",
) -> None:
    """Check that a genuine Release is the one that was asked for.

    Args:
        release: whose signature was checked.
        suite: what the spec says; the suite, the codename, or a path of an archive without a pool.
        origin: what the Origin field must say; empty: anything.
        now: the time to judge `Valid-Until` at, Unix seconds; None: it is not judged.
        known_date: the date of the Release in the lock, if there is one.
        place: what to call the file in an error.

    Raises:
        WrongRelease: RVP-1403. ReleaseExpired: RVP-1404. ReleaseRolledBack: RVP-1405.
    """
    if suite.rstrip("/") not in {release.suite, release.codename} and not suite.endswith("/"):
        raise WrongRelease(
            f'asked for the suite "{suite}", the signed Release is of suite "{release.suite}", '
            f'codename "{release.codename}"',
            place=place,
        )
    if origin and release.origin != origin:
        raise WrongRelease(
            f'the origin must be "{origin}", the signed Release says "{release.origin}"', place=place
        )
    if now is not None and release.valid_until is not None and now > release.valid_until:
        raise ReleaseExpired(
            f"the Release of {suite} was valid until {email.utils.formatdate(release.valid_until)}",
            hint="use a current mirror",
            place=place,
        )
    if known_date is not None and release.date < known_date:
        raise ReleaseRolledBack(
            f"the Release of {suite} is of {email.utils.formatdate(release.date)}, "
            f"the lock knows one of {email.utils.formatdate(known_date)}",
            hint="use a current mirror",
            place=place,
        )


def _checked(
    data: bytes, keyring: Keyring, signature: bytes | None, place: str
) -> tuple[bytes, tuple[str, ...]]:
    import pysequoia

    certificates = list(keyring.certificates)
    problem = "no signature is readable"
    if len(data) > _MAX_RELEASE_BYTES:
        raise ReleaseNotSigned(f"{len(data)} bytes are no Release", place=place)
    try:
        if signature is None:
            checked = pysequoia.verify(data, lambda _: certificates)
            if checked.bytes and checked.valid_sigs:
                return bytes(checked.bytes), _signers(checked)
        for packet in _detached(signature or b""):
            try:
                checked = pysequoia.verify(data, lambda _: certificates, signature=packet)
            except Exception as error:  # noqa: BLE001  pysequoia raises what its library raises; try the next
                problem = _first_line(error)
                continue
            if checked.valid_sigs:
                return data, _signers(checked)
    except Exception as error:
        problem = _first_line(error)
        raise ReleaseNotSigned(
            f"no key of {keyring.place} has signed this Release: {problem}",
            hint="check the keyring that the spec names, and the mirror",
            place=place,
        ) from error
    raise ReleaseNotSigned(
        f"no key of {keyring.place} has signed this Release: {problem}",
        hint="check the keyring that the spec names, and the mirror",
        place=place,
    )


def _detached(signature: bytes) -> Sequence[Any]:
    """Split Release.gpg into its signatures: a file may carry several."""
    import pysequoia
    from pysequoia import packet

    blocks = re.findall(rb"-----BEGIN PGP SIGNATURE.*?-----END PGP SIGNATURE-----", signature, re.DOTALL)
    found: list[Any] = []
    for block in blocks or [signature]:
        pile = packet.PacketPile.from_bytes(block)
        found += [pysequoia.Sig.from_bytes(bytes(one)) for one in pile]
    return found


def _signers(checked: Any) -> tuple[str, ...]:
    return tuple(sorted({str(one.certificate) for one in checked.valid_sigs}))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def _parse(text: bytes, signers: tuple[str, ...], place: str) -> Release:
    fields: dict[str, str] = {}
    files: dict[str, IndexEntry] = {}
    key = ""
    for line in text.decode("utf-8", "replace").splitlines():
        if line[:1] in {" ", "\t"}:
            parts = line.split()
            if key == "SHA256" and len(parts) == 3 and re.fullmatch(r"[0-9a-f]{64}", parts[0]):
                files[parts[2]] = IndexEntry(bytes.fromhex(parts[0]), int(parts[1]))
            continue
        if found := _FIELD.match(line):
            key = found[1]
            if key in fields:
                raise ReleaseNotSigned(f'the field "{key}" stands twice', place=place)
            fields[key] = found[2].strip()
    date = _seconds(fields.get("Date", ""))
    if date is None or not files:
        raise ReleaseNotSigned("the signed text is no Release: Date or SHA256 is missing", place=place)
    text = text.rstrip(b"\n") + b"\n"
    return Release(
        text=text,
        digest=sha256(text),
        origin=fields.get("Origin", ""),
        suite=fields.get("Suite", ""),
        codename=fields.get("Codename", ""),
        date=date,
        valid_until=_seconds(fields.get("Valid-Until", "")),
        components=tuple(fields.get("Components", "").split()),
        architectures=tuple(fields.get("Architectures", "").split()),
        by_hash=fields.get("Acquire-By-Hash", "") == "yes",
        pin=_pin(fields),
        signed_by=signers,
        files=files,
    )


def _pin(fields: dict[str, str]) -> int:
    """Rank a suite as apt_preferences(5) does."""
    if fields.get("NotAutomatic") != "yes":
        return 500
    return 100 if fields.get("ButAutomaticUpgrades") == "yes" else 1


def _seconds(text: str) -> int | None:
    try:
        return int(email.utils.parsedate_to_datetime(text.replace(" UTC", " +0000")).timestamp())
    except (ValueError, TypeError):
        return None
