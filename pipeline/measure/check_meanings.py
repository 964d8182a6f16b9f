"""What each check of a measurement says, in a sentence; `rvp explain CHECK` prints it, offline.

Example:
    >>> meaning_of("q1q2").exit_code
    10
"""

from __future__ import annotations

from typing import Final

import msgspec

_SIGNATURE: Final = ("RVP-5012", 10)
_VALUE: Final = ("RVP-5010", 12)
_WARNS: Final = ("", 0)


class Meaning(msgspec.Struct, frozen=True, kw_only=True):
    """A check: what it says, and how a command ends when it fails; no code: it only warns."""

    id: str
    says: str
    code: str
    exit_code: int


_TABLE: Final[dict[tuple[str, int], dict[str, str]]] = {
    _SIGNATURE: {
        "header": "A SIGSTRUCT has its two constant headers, a known vendor and the exponent 3.",
        "reserved": "All reserved bytes of a SIGSTRUCT are zero; EINIT refuses others.",
        "modulus": "The key that signed is odd and has 3072 bits.",
        "signature-in-range": "The signature is a number below the modulus.",
        "signature": "RSA over the 256 signed bytes of the SIGSTRUCT verifies. Skipped when nobody signed.",
        "q1q2": "Both quotients, which spare the CPU two divisions, are those of signature and modulus.",
    },
    _VALUE: {
        "mrenclave-equals-sigstruct": "The MRENCLAVE that was computed is the one that the owner signed.",
        "mrsigner": "The owner that --public-key or --mrsigner names has signed. Skipped when none is.",
        "config-gives-this-enclave": "Laid out anew by the configuration, the enclave is this one; the "
        "signed fields are the configuration's, date and vendor the owner's.",
        "metadata-records-agree": "An SDK file has one record of metadata for each generation of loaders; "
        "all give one MRENCLAVE and have one SIGSTRUCT.",
        "file-is-trusted": "The Gramine manifest trusts this very file, by its SHA-256.",
        "trusted-files": "The files in the image are those whose SHA-256 the Gramine manifest has.",
        "occlum-config": "The configuration of Occlum in the image has the MAC that is in the enclave.",
        "occlum-file-systems": "Occlum's file systems have the MACs that its configuration states.",
        "blob-digests": "Every blob of an image is what its digest names.",
        "diff-ids": "The layers of an image are those that its configuration states.",
    },
    _WARNS: {
        "binds-application": "MRENCLAVE covers all that runs. A warning names what is left open: whoever "
        "controls the host or the image can change that without another MRENCLAVE.",
        "enclaves": "Every enclave that was found in an image could be measured.",
        "sdk-generation-proven": "The layout rules of this SDK were compared with its signing tool or with "
        "published enclaves; says how often.",
        "sdk-version": "The rules that were used are those of the SDK that the file was linked with.",
        "global-data-size": "The size of g_global_data is the one of the SDK whose rules were used.",
        "init-section": "The file has no section .init; nothing in an enclave runs one.",
        "text-relocations": "No relocation changes code; else the loader needs code pages that are writable.",
        "open-enclave-release": "The file tells its release of Open Enclave; else the newest is taken.",
    },
}

MEANINGS: Final = tuple(
    Meaning(id=name, says=says, code=code, exit_code=exit_code)
    for (code, exit_code), of in _TABLE.items()
    for name, says in of.items()
)


def meaning_of(check: str) -> Meaning | None:
    """Find a check by its id."""
    return next((one for one in MEANINGS if one.id == check.lower()), None)
