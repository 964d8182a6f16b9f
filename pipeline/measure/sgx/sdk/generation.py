"""What each generation of Intel's SDK does differently when it signs an enclave: one table.

A generation is a release of the SDK. The table lists changes only: a row holds from its release on, until a
later row says otherwise. Everything else in `sdk_plan` and `sdk_record` is the same for all.

Units: sizes are bytes.
Source: Intel SGX SDK, `sign_tool`, `metadata.h`, `global_data.h`, `thread_data.h` of each release; compared
with the signing tools of these releases (docs/reference/sgx-sdk.md states how often).

Example:
    >>> generation("2.26.100").metadata
    (3, 3)
    >>> generation("2.13.103").name, NEWEST.name
    ('2.13', '2.28')
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec

from provenance.errors import UsageError

# which bits of XFRM an enclave needs for a save area of how many bytes; the last row that fits counts
_XSAVE: Final = ((0x3, 576), (0x6, 832), (0x18, 1088), (0xE6, 2688))
_PKRU_ROW: Final = (0x200, 2752)
_AMX_ROW: Final = (0x60000, 11008)


class UnknownSdk(UsageError):
    """There are no rules for this generation of Intel's SDK.

    Cure: `--generation` takes a release from 1.6 to 2.28. For a release that is newer than this program, try
    the newest one that it knows: whether that fits is seen when the result is compared with a signed enclave.
    """

    code = "RVP-5025"


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """A generation's rules.

    Attributes:
        version: major, minor, and for two releases the third number.
        metadata: version of the main record.
        copy_minor: also write the main record a second time, as version 2.N, for older loaders.
        legacy_minor: also write a record 1.N for loaders of SGX1; the main record is one when it is None.
        block_bytes: room that the signer writes in the note.
        directories: of a record.
        odd_page: a segment's size is rounded before its address is added, which may add a page.
        guard_pages: around stacks.
        stack_least: bytes of a stack.
        size_most: most bytes that a size in the configuration may have.
        enclave_most: most bytes of an enclave.
        threads: how threads are laid out: one group, a group after the first, or copies.
        legacy: how the layout of the record 1.N is derived.
        pads_reserved: what is left up to the enclave's size belongs to reserved memory, if there is some.
        layout_room: entries of the layout table in g_global_data.
        stores_version: g_global_data begins with the SDK's version.
        thread_data_bytes: of the template in g_global_data.
        elrange_size: what g_global_data says of the range when none was configured.
        xsave: save areas.
        xfrm_known: features that the loader may choose.
        ssa_grows: the SSA frame is as large as the save area needs.
        unchecked_flags: ATTRIBUTES.FLAGS that the signature leaves to the platform.
        keeps_misc: the MISCSELECT that is wished for goes to the metadata, the masked one to the signature.
        edmm: how the room for the bookkeeping of dynamic memory is computed.
    """

    version: tuple[int, ...]
    metadata: tuple[int, int] = (1, 3)
    copy_minor: int | None = None
    legacy_minor: int | None = None
    block_bytes: int = 0x1000
    directories: int = 2
    odd_page: bool = True
    guard_pages: int = 1
    stack_least: int = 0x1000
    size_most: int = 0xFFFFFFFF
    enclave_most: int = 0x1FFFFFFFFF
    heap_default: int = 0x100000
    threads: Literal["one group", "group", "copies"] = "one group"
    legacy: Literal["none", "static groups", "dynamic only", "always"] = "none"
    pads_reserved: bool = False
    layout_room: int = 0
    stores_version: bool = False
    has_reserved: bool = False
    has_tcs_max: bool = False
    has_tcs_count: bool = False
    has_elrange: bool = False
    elrange_size: Literal["enclave", "zero"] = "enclave"
    has_edmm: bool = False
    has_fips: bool = False
    thread_data_bytes: int = 160
    xsave: tuple[tuple[int, int], ...] = _XSAVE
    xfrm_known: int = 0x7
    ssa_grows: bool = False
    unchecked_flags: int = 0
    keeps_misc: bool = False
    edmm: Literal["none", "bytes", "doubling", "reserve"] = "none"

    @property
    def name(self) -> str:
        """The release as people write it."""
        return ".".join(str(number) for number in self.version)

    @property
    def is_sgx1(self) -> bool:
        """Tell whether this is an SDK of before SGX2."""
        return self.version < (2, 0)

    @property
    def global_data_bytes(self) -> int:
        """The size of g_global_data."""
        if self.is_sgx1:
            return 32 + 152
        words = 4 + self.stores_version + 2 * self.has_reserved + 2 * self.has_tcs_max + self.has_tcs_count
        words += 3 * self.has_elrange + self.has_edmm + self.has_fips
        return 8 * words + self.thread_data_bytes + 72 + 8 + 32 * self.layout_room


_CHANGES: Final[tuple[tuple[tuple[int, ...], dict[str, Any]], ...]] = (
    ((1, 6), {}),
    ((1, 7), {"size_most": 0x1FFFFFFFFF}),
    ((1, 8), {}),
    ((1, 9), {"metadata": (1, 4), "odd_page": False}),
    (
        (2, 0),
        {
            "metadata": (2, 1),
            "legacy_minor": 4,
            "block_bytes": 0x3000,
            "guard_pages": 16,
            "heap_default": 0x1000000,
            "threads": "group",
            "legacy": "static groups",
            "layout_room": 38,
        },
    ),
    ((2, 1), {"metadata": (2, 2), "copy_minor": 1, "block_bytes": 0x5000}),
    ((2, 1, 3), {"metadata": (2, 3), "threads": "copies", "legacy": "dynamic only"}),
    ((2, 2), {}),
    ((2, 3), {"legacy": "always"}),
    ((2, 4), {"metadata": (2, 4), "stack_least": 0x2000}),
    ((2, 5), {"xfrm_known": 0xE7}),
    ((2, 6), {"layout_room": 42, "has_reserved": True, "pads_reserved": True}),
    ((2, 7), {}),
    ((2, 8), {"has_tcs_max": True}),
    ((2, 9), {}),
    ((2, 9, 1), {"stores_version": True}),
    ((2, 10), {"pads_reserved": False}),
    ((2, 11), {}),
    ((2, 12), {}),
    ((2, 13), {"size_most": (1 << 63) - 1, "enclave_most": (1 << 64) - 1}),
    ((2, 14), {"has_elrange": True}),
    ((2, 15), {}),
    ((2, 16), {"xsave": (*_XSAVE, _PKRU_ROW), "xfrm_known": 0x2E7}),
    ((2, 17), {"has_tcs_count": True}),
    (
        (2, 18),
        {
            "metadata": (3, 0),
            "copy_minor": None,
            "xsave": (*_XSAVE, _PKRU_ROW, _AMX_ROW),
            "xfrm_known": 0x602E7,
            "ssa_grows": True,
            "unchecked_flags": 0x00FF000000000000,
            "edmm": "bytes",
        },
    ),
    ((2, 19), {"layout_room": 43, "edmm": "doubling"}),
    ((2, 20), {"thread_data_bytes": 192, "has_edmm": True, "edmm": "reserve"}),
    ((2, 21), {}),
    ((2, 22), {"metadata": (3, 1), "keeps_misc": True}),
    ((2, 23), {}),
    ((2, 24), {"metadata": (3, 2), "legacy_minor": 5, "block_bytes": 0x6000, "directories": 4}),
    ((2, 25), {"elrange_size": "zero", "has_fips": True}),
    ((2, 26), {"metadata": (3, 3)}),
    ((2, 27), {}),
    ((2, 28), {}),
)
# builds of these releases whose g_global_data is larger than the source under their tag says
_LARGER: Final[dict[str, dict[str, Any]]] = {"2.16": {"has_tcs_count": True}, "2.18": {"layout_room": 43}}


def _generations() -> tuple[Generation, ...]:
    found: list[Generation] = []
    for version, changes in _CHANGES:
        row = {"version": version, **changes}
        found.append(msgspec.structs.replace(found[-1], **row) if found else Generation(**row))
    return tuple(found)


GENERATIONS: Final = _generations()
NEWEST: Final = GENERATIONS[-1]
# signed files that were equal in every byte: made by the signing tool of the release, and published ones
PUBLISHED: Final[dict[str, int]] = {
    "1.6": 5,
    "1.7": 2,
    "1.8": 2,
    "1.9": 4,
    "2.0": 4,
    "2.1": 17,
    "2.1.3": 4,
    "2.3": 1,
    "2.4": 9,
    "2.5": 9,
    "2.6": 29,
    "2.7": 2,
    "2.8": 3,
    "2.9.1": 6,
    "2.10": 4,
    "2.11": 5,
    "2.12": 7,
    "2.13": 20,
    "2.14": 7,
    "2.15": 1,
    "2.16": 12,
    "2.17": 10,
    "2.18": 11,
    "2.19": 3,
    "2.24": 1,
    "2.25": 9,
    "2.26": 7,
    "2.27": 2,
    "2.28": 1,
}
COMPARED: Final[dict[str, int]] = {
    "1.6": 28,
    "1.7": 88,
    "1.8": 88,
    "1.9": 101,
    "2.0": 62,
    "2.1": 198,
    "2.1.3": 59,
    "2.2": 62,
    "2.3": 132,
    "2.4": 62,
    "2.5": 62,
    "2.6": 61,
    "2.7": 129,
    "2.8": 62,
    "2.9": 61,
    "2.9.1": 64,
    "2.10": 68,
    "2.11": 63,
    "2.12": 65,
    "2.13": 121,
    "2.14": 54,
    "2.15": 102,
    "2.16": 63,
    "2.17": 107,
    "2.18": 108,
    "2.19": 53,
    "2.20": 55,
    "2.21": 53,
    "2.22": 48,
    "2.23": 52,
    "2.24": 52,
    "2.25": 49,
    "2.26": 50,
}


def generation(text: str) -> Generation:
    """Find the rules of a release: `2.26`, `2.26.100.0`; the third number matters for 2.1.3 and 2.9.1 only.

    Raises:
        UnknownSdk: RVP-5025.
    """
    if not re.fullmatch(r"\d{1,3}(\.\d{1,6}){1,3}", text):
        raise UnknownSdk(f'"{text}" is not a release of the SDK', hint=_known())
    numbers = tuple(int(part) for part in text.split("."))
    third = numbers[2] if len(numbers) > 2 else 0
    if 100 <= third < 200:  # 2.9.1 calls itself 2.9.101
        third -= 100
    best = None
    for one in GENERATIONS:
        if one.version[:2] == numbers[:2] and (one.version[2:] or (0,))[0] <= third:
            best = one
    if best is None:
        raise UnknownSdk(f"SDK {text} is not known", hint=_known())
    return best


def generation_of(version: int) -> Generation:
    """Find the rules for the version that an unsigned enclave carries.

    Args:
        version: major, minor, revision as g_global_data has them (32, 16, 16 bits).

    Raises:
        UnknownSdk: RVP-5025.
    """
    return generation(f"{version >> 32}.{version >> 16 & 0xFFFF}.{version & 0xFFFF}")


def fitted(rules: Generation, global_data_bytes: int) -> Generation:
    """Choose between two builds of a release by the size of an enclave's g_global_data.

    Example:
        >>> fitted(generation("2.16"), 1688).has_tcs_count, fitted(generation("2.16"), 1680).has_tcs_count
        (True, False)
    """
    larger = msgspec.structs.replace(rules, **_LARGER.get(rules.name, {}))
    return larger if larger.global_data_bytes == global_data_bytes else rules


def _known() -> str:
    return f"known: {GENERATIONS[0].name} to {NEWEST.name}"
