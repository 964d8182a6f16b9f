"""The generations of systemd-stub: which sections of a UKI it measures, what it hands to the kernel.

A stub says its version in its section `.sdmagic`; the newest generation that is not newer counts.

| from | PCR 11, in this order (no `.pcrsig`) | kernel starts by | initrd gets | RTMR2 |
|---|---|---|---|---|
| 252 | .linux .osrel .cmdline .initrd .splash .dtb .pcrpkey | LoadImage: PCR 4 | .pcrsig .pcrpkey | no |
| 254 | … .dtb .uname .sbat .pcrpkey | the same | the same | no |
| 256 | … .initrd .ucode .splash … | the same | .ucode before it | as PCR 11 |
| 257 | … .pcrpkey .profile .dtbauto .hwids | the same | and .osrel, .profile | as PCR 11 |
| 258 | … .hwids .efifw | its own loader: no second event | the same | as PCR 11 |
| 262 | the same | the same; may append `console=` | and a secret of the machine | as PCR 11 |

Source: systemd `src/fundamental/uki.c` and `tpm2-pcr`, `src/boot/stub.c`, `linux.c`, `cpio.c`, `measure.c` of
252.39, 254.26, 257.13 and of the development branch; NEWS of 252 to 257. Before 252 nothing goes to PCR 11.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from provenance.errors import UsageError

_MAGIC: Final = re.compile(rb"#### LoaderInfo: systemd-stub (\d{1,4})[^#]{0,200} ####")
_MAX_MAGIC_BYTES: Final = 4096


class UnknownStub(UsageError):
    """Which generation of systemd-stub a UKI has cannot be seen, or it does not measure.

    Cure: `--generation 257` says it; the stub's package has the version. UKIs of other stubs are not known.
    """

    code = "RVP-5424"


class StubGeneration(msgspec.Struct, frozen=True, kw_only=True):
    """One generation.

    Attributes:
        since: first major version.
        sections: what goes to PCR 11, in order.
        measures_empty: a section of no bytes is measured too.
        loads_image: the inner kernel is started with LoadImage, which measures it.
        first_initrds: sections that are initrds before `.initrd`.
        packed: sections that are put into a cpio archive of their own after the initrd, and the file's name.
        measures_in_a_td: it also extends RTMR2.
        chops_start: white space at the start of the command line is cut off too.
        appends_console: a command line without `console=` may get one, chosen by the hardware.
        adds_secret: the initrd may get an archive with a secret of the machine.
        has_profiles: `.profile` begins the sections of a profile.
        by_prefix: a section counts whose name only begins with a known one.
    """

    since: int
    sections: tuple[str, ...]
    measures_empty: bool = False
    loads_image: bool = True
    first_initrds: tuple[str, ...] = ()
    packed: tuple[tuple[str, str], ...] = ()
    measures_in_a_td: bool = False
    chops_start: bool = False
    appends_console: bool = False
    adds_secret: bool = False
    has_profiles: bool = False
    by_prefix: bool = False


_SIGNATURE: Final = (
    (".pcrsig", "tpm2-pcr-signature.json"),
    (".pcrpkey", "tpm2-pcr-public-key.pem"),
)
_PROFILED: Final = (*_SIGNATURE, (".osrel", "os-release"), (".profile", "profile"))
_BASE: Final = (".linux", ".osrel", ".cmdline", ".initrd")
_256: Final = (*_BASE, ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey")
_257: Final = (*_256, ".profile", ".dtbauto", ".hwids")

G252: Final = StubGeneration(
    since=252, sections=(*_BASE, ".splash", ".dtb", ".pcrpkey"), packed=_SIGNATURE, by_prefix=True
)
G254: Final = StubGeneration(
    since=254,
    sections=(*_BASE, ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey"),
    packed=_SIGNATURE,
    by_prefix=True,
)
G256: Final = StubGeneration(
    since=256,
    sections=_256,
    measures_empty=True,
    first_initrds=(".ucode",),
    packed=_SIGNATURE,
    measures_in_a_td=True,
    chops_start=True,
)
G257: Final = msgspec.structs.replace(G256, since=257, sections=_257, packed=_PROFILED, has_profiles=True)
G258: Final = msgspec.structs.replace(G257, since=258, sections=(*_257, ".efifw"), loads_image=False)
G262: Final = msgspec.structs.replace(G258, since=262, appends_console=True, adds_secret=True)
GENERATIONS: Final = (G252, G254, G256, G257, G258, G262)


def generation(version: str, *, place: str = "") -> StubGeneration:
    """Find the generation of a version: `257`, `257.13-1`.

    Raises:
        UnknownStub: RVP-5424.
    """
    found = re.match(r"\d{1,4}(?=\D|\Z)", version)
    if found is None:
        raise UnknownStub(f'"{version}" is no version of systemd-stub', place=place, hint="such as 257")
    known = [one for one in GENERATIONS if one.since <= int(found[0])]
    if not known:
        raise UnknownStub(
            f"systemd-stub {version} measures nothing into PCR 11; it does from {GENERATIONS[0].since} on",
            place=place,
        )
    return known[-1]


def version_of(magic: bytes | memoryview) -> str:
    """Read the version from the section `.sdmagic`; empty when it says none."""
    found = _MAGIC.search(bytes(magic[:_MAX_MAGIC_BYTES]))
    return "" if found is None else found[1].decode()
