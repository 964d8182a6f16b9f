"""Claims, measurements and sets: the names of design and field, one table for every TEE.

A *measurement* is what a measurer found in one file: claims, the log that folds to them, what cannot be
known. A *set* is what a verifier must see together: the same claims with constraints, a selector (the
shape of the machine) and the layer that it belongs to.

Digests are lowercase hex, counters integers, 64-bit fields "0x" and 16 hex digits.

Example:
    >>> check_claims("sgx", {"mrenclave": "00" * 32, "isvprodid": 1})
    >>> check_claims("sgx", {"mrtd": "00" * 48})
    Traceback (most recent call last):
    ...
    provenance.claims.ClaimError: sgx has no claim "mrtd"
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Final, Literal

import msgspec

from provenance.errors import UsageError

Tee = Literal["sgx", "tdx", "snp", "oci", "verity", "tpm", "nitro"]
ClaimValue = str | int | tuple[str, ...]


class ClaimError(UsageError):
    """A claim that its TEE does not have, or a value of the wrong shape.

    Cure: the names and shapes of all claims are in docs/reference/claims.md.
    """

    code = "RVP-1020"


class Shape(StrEnum):
    """What a claim's value looks like; each is one regular expression or an integer range."""

    HEX16 = "32 hex digits"
    HEX20 = "40 hex digits"
    HEX32 = "64 hex digits"
    HEX48 = "96 hex digits"
    HEX64 = "128 hex digits"
    HEX_PCR = "40, 64, 96 or 128 hex digits"
    HEX_ANY = "hex digits, possibly none"
    U64 = "0x and 16 hex digits"
    U32 = "0x and 8 hex digits"
    ATTRIBUTES = "0x and 32 hex digits: flags, then xfrm"
    COUNTER = "an integer from 0 to 65535"
    COUNTER32 = "an integer from 0 to 4294967295"
    LEVEL = "an integer from 0 to 255"
    OCI = "sha256: and 64 hex digits"
    OCI_LIST = "a list of sha256: and 64 hex digits"


_PATTERN: Final = {
    Shape.HEX16: r"[0-9a-f]{32}",
    Shape.HEX20: r"[0-9a-f]{40}",
    Shape.HEX32: r"[0-9a-f]{64}",
    Shape.HEX48: r"[0-9a-f]{96}",
    Shape.HEX64: r"[0-9a-f]{128}",
    Shape.HEX_PCR: r"[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128}",
    Shape.HEX_ANY: r"([0-9a-f]{2})*",
    Shape.U64: r"0x[0-9a-f]{16}",
    Shape.U32: r"0x[0-9a-f]{8}",
    Shape.ATTRIBUTES: r"0x[0-9a-f]{32}",
    Shape.OCI: r"sha256:[0-9a-f]{64}",
}
_RANGE: Final = {Shape.COUNTER: 0xFFFF, Shape.COUNTER32: 0xFFFF_FFFF, Shape.LEVEL: 0xFF}

# tee -> claim -> shape. The names are those of Intel SDM vol. 3D (SGX), the TDX module ABI, the SEV-SNP ABI,
# the OCI image specification, dm-verity, the TCG PC Client profile and the Nitro attestation document.
CLAIMS: Final[dict[str, dict[str, Shape]]] = {
    "sgx": {
        "mrenclave": Shape.HEX32,
        "mrsigner": Shape.HEX32,
        "isvprodid": Shape.COUNTER,
        "isvsvn": Shape.COUNTER,
        "attributes": Shape.ATTRIBUTES,
        "attributes_mask": Shape.ATTRIBUTES,
        "miscselect": Shape.U32,
        "miscselect_mask": Shape.U32,
        "isvextprodid": Shape.HEX16,
        "isvfamilyid": Shape.HEX16,
    },
    "tdx": {
        "mrtd": Shape.HEX48,
        "rtmr0": Shape.HEX48,
        "rtmr1": Shape.HEX48,
        "rtmr2": Shape.HEX48,
        "rtmr3": Shape.HEX48,
        "mrconfigid": Shape.HEX48,
        "mrowner": Shape.HEX48,
        "mrownerconfig": Shape.HEX48,
        "td_attributes": Shape.U64,
        "xfam": Shape.U64,
        "mrseam": Shape.HEX48,
    },
    "snp": {
        "measurement": Shape.HEX48,
        "policy": Shape.U64,
        "guest_svn": Shape.COUNTER32,
        "family_id": Shape.HEX16,
        "image_id": Shape.HEX16,
        "host_data": Shape.HEX32,
        "id_key_digest": Shape.HEX48,
        "author_key_digest": Shape.HEX48,
        "vmpl": Shape.LEVEL,
    },
    "oci": {"manifest": Shape.OCI, "config": Shape.OCI, "diff_ids": Shape.OCI_LIST},
    "verity": {"root_hash": Shape.HEX_ANY, "salt": Shape.HEX_ANY},
    "tpm": {f"pcr{index}": Shape.HEX_PCR for index in range(24)},
    "nitro": {f"pcr{index}": Shape.HEX48 for index in (0, 1, 2, 8)},
}

# What the host or the owner chooses at launch: inputs of a policy, never measurements.
POLICY_INPUTS: Final[dict[str, tuple[str, ...]]] = {
    "sgx": ("configid", "configsvn", "attributes", "miscselect"),  # the last two outside their masks
    "tdx": ("rtmr3", "mrconfigid", "mrowner", "mrownerconfig"),
    "snp": ("host_data",),
}

# These registers have no unpredicted event, ever (design: what is signed).
ALWAYS_PREDICTED: Final = frozenset({"mrenclave", "mrtd", "measurement", "rtmr1", "rtmr2"})

VARIANTS: Final = (
    "vcpus",
    "memory",
    "vmm",
    "vcpu_type",
    "guest_features",
    "page_order",
    "firmware_generation",
    "bank",
    "boot",
    "phase",
)


class Unpredicted(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An event in a register whose value cannot be known at build time, and why."""

    register: str
    event: str
    reason: str


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One check of a measurement or a verdict: what was looked at, what came out."""

    id: str
    status: Literal["passed", "failed", "skipped", "warning"]
    expected: str = ""
    got: str = ""
    source: str = ""  # where the expectation comes from
    hint: str = ""  # what to do
    code: str = ""  # RVP-nnnn when it failed


class Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An artifact: its name and its digests (lowercase hex)."""

    name: str
    digest: dict[str, str]


class Inside(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where an artifact lies that is not a file of its own: in a container image.

    Attributes:
        image: the image as an artifact (of a layout folder the digest is the manifest's).
        manifest: what names the image for those who run it: digest of its manifest, without one of its
            configuration. The measurement of the image that stands beside says the same.
        path: absolute, in the image's final file system.
    """

    image: Subject
    manifest: str
    path: str


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a measurer found in one file, in one variant.

    Attributes:
        layout: by whose rules the file was laid out, in words: `SDK metadata 3.3, SDK metadata 1.5`.
        inside: where the file lies that is not one of its own.
    """

    tee: Tee
    subject: Subject
    variant: dict[str, str | int] = {}
    claims: dict[str, ClaimValue]
    unpredicted: tuple[Unpredicted, ...] = ()
    policy_inputs: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    layout: str | msgspec.UnsetType = msgspec.UNSET
    inside: Inside | msgspec.UnsetType = msgspec.UNSET


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who measured."""

    name: str
    version: str


class Measurements(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The document that `rvp measure --format json` prints."""

    schema: Literal["rvp/measurements/v1"] = "rvp/measurements/v1"
    tool: Tool
    measurements: tuple[Measurement, ...]


def check_claims(tee: str, claims: dict[str, Any]) -> None:
    """Check names and shapes of claims.

    Raises:
        ClaimError: RVP-1020.
    """
    if tee not in CLAIMS:
        raise ClaimError(f'there is no TEE "{tee}"', hint=f"known: {', '.join(CLAIMS)}")
    for name, value in claims.items():
        shape = CLAIMS[tee].get(name)
        if shape is None:
            raise ClaimError(f'{tee} has no claim "{name}"', hint=f"known: {', '.join(CLAIMS[tee])}")
        if not has_shape(value, shape):
            raise ClaimError(f"{tee} {name} is {value!r}, expected {shape.value}")


def has_shape(value: Any, shape: Shape) -> bool:
    """Tell whether a value has the shape that its claim asks for."""
    if shape in _RANGE:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _RANGE[shape]
    if shape is Shape.OCI_LIST:
        return isinstance(value, (list, tuple)) and all(has_shape(item, Shape.OCI) for item in value)
    return isinstance(value, str) and re.fullmatch(_PATTERN[shape], value) is not None
