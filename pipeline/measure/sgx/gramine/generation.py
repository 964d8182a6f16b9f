"""What changed from one release of Gramine to the next, as far as MRENCLAVE and SIGSTRUCT show it.

One table. The order of the memory areas, their sizes, the fields of the TCS and of the thread's TLS page are
the same in every release from 1.0 to 1.9; what differs is where addresses begin, how memory is added, and
which options of the manifest mean what.

`gramine-sgx-sign` writes its defaults into the manifest that is measured, so that a manifest tells the
release that signed it, or a later one that measures alike; `libpal.so` has no version in it.

Source: Gramine v1.0 to v1.9, `python/graminelibos/{sgx_sign,manifest,sigstruct}.py`, `generated_offsets.c`.

Example:
    >>> generation_named("1.5").based_at_size, generation_named("1.4").based_at_size
    (False, True)
    >>> seen_generation({"cpu_features": {}})
    '1.9'
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final

import msgspec

from provenance.errors import UsageError

# XFRM bits of the optional features, Intel SDM vol. 1, "XSAVE-managed features"
AVX, MPX, AVX512, PKRU, AMX = 0x4, 0x18, 0xE4, 0x200, 0x60000
XFRM_LEGACY: Final = 0x3
# sgx_arch.h: the loader may choose AVX and AVX-512; since 1.1 AMX, too
XFRM_MASK_10: Final = 0xFFFFFFFFFFFFFF1B
XFRM_MASK: Final = 0xFFFFFFFFFFF9FF1B


class UnknownGramine(UsageError):
    """A release of Gramine is not one whose layout is known here.

    Cure: name one of the releases that the hint lists, or none: then the manifest tells it. Graphene, the
    predecessor, measured other areas in another order; its enclaves cannot be measured here.
    """

    code = "RVP-5040"


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One release.

    Attributes:
        name: the release.
        based_at_size: addresses in TLS pages begin at the enclave's size, not at 0, unless the manifest says
            `sgx.nonpie_binary`; then, and in later releases, the lowest 64 KiB are left out.
        edmm: `sgx.edmm_enable` is known: free memory is not added at launch.
        edmm_size: the default of `sgx.enclave_size` with EDMM.
        threads: keys of the number of threads; the first that is there counts.
        exinfo: keys that put EXINFO into MISCSELECT.
        require: keys that put features into XFRM, with their bits.
        xfrm_mask: the bits of XFRM that SIGSTRUCT requires of the platform, before the manifest's own.
        cpu_features: `sgx.cpu_features` is known; it has precedence over `require`.
    """

    name: str
    based_at_size: bool
    edmm: bool
    edmm_size: str
    threads: tuple[str, ...]
    exinfo: tuple[str, ...]
    require: dict[str, int]
    xfrm_mask: int
    cpu_features: bool


DEFAULT_SIZE: Final = "256M"
DEFAULT_THREADS: Final = 4
_TERA: Final = "1024G"
_REQUIRE_10: Final = {
    "require_avx": AVX,
    "require_avx512": AVX512,
    "require_mpx": MPX,
    "require_pkru": PKRU,
}
_REQUIRE: Final = {**_REQUIRE_10, "require_amx": AMX}


def _generation(
    name: str,
    *,
    based_at_size: bool = False,
    edmm: bool = True,
    edmm_size: str = _TERA,
    threads: tuple[str, ...] = ("max_threads",),
    exinfo: tuple[str, ...] = ("use_exinfo",),
    require: Mapping[str, int] | None = None,
    cpu_features: bool = True,
) -> Generation:
    return Generation(
        name=name,
        based_at_size=based_at_size,
        edmm=edmm,
        edmm_size=edmm_size,
        threads=threads,
        exinfo=exinfo,
        require=dict(require or {}),
        xfrm_mask=XFRM_MASK_10 if name == "1.0" else XFRM_MASK,
        cpu_features=cpu_features,
    )


def _first(name: str, require: Mapping[str, int] = _REQUIRE) -> Generation:
    return _generation(
        name,
        based_at_size=True,
        edmm=False,
        edmm_size=DEFAULT_SIZE,
        threads=("thread_num",),
        exinfo=("support_exinfo",),
        require=require,
        cpu_features=False,
    )


GENERATIONS: Final[tuple[Generation, ...]] = (
    _first("1.0", _REQUIRE_10),
    _first("1.1"),
    _first("1.2"),
    _first("1.3"),
    _generation(
        "1.4",
        based_at_size=True,
        edmm_size=DEFAULT_SIZE,
        threads=("max_threads", "thread_num"),
        exinfo=("require_exinfo",),
        require=_REQUIRE,
        cpu_features=False,
    ),
    _generation("1.5", exinfo=("require_exinfo",), require=_REQUIRE, cpu_features=False),
    _generation("1.6", exinfo=("use_exinfo", "require_exinfo"), require=_REQUIRE),
    _generation("1.7", exinfo=("use_exinfo", "require_exinfo"), require=_REQUIRE),
    _generation("1.8"),
    _generation("1.9"),
)
NEWEST: Final = GENERATIONS[-1].name


def generation_named(name: str) -> Generation:
    """Find a release; patch releases (1.3.1, 1.6.2) measure as their release does.

    Raises:
        UnknownGramine: RVP-5040.
    """
    release = ".".join(name.split(".")[:2])
    for one in GENERATIONS:
        if one.name == release and all(part.isdigit() for part in name.split(".")):
            return one
    known = [one.name for one in GENERATIONS]
    near = difflib.get_close_matches(name, known, n=1)
    proposal = f', did you mean "{near[0]}"?' if near else ""
    raise UnknownGramine(f'there is no Gramine "{name}" here{proposal}', hint=f"known: {', '.join(known)}")


def seen_generation(sgx: Mapping[str, object]) -> str:
    """Tell from the table `sgx` of a signed manifest which release signed it.

    Only the layout counts: where several releases measure alike, the newest of them is named.

    Args:
        sgx: the table, with the defaults that the signer wrote into it.
    """
    if "cpu_features" in sgx:
        return "1.7" if "require_exinfo" in sgx else NEWEST
    if "use_exinfo" in sgx:  # 1.6 and 1.7 wrote it, beside old keys of the user's
        return "1.7"
    old = {"thread_num", "support_exinfo"} & sgx.keys()
    if "nonpie_binary" in sgx and not _comes_after(sgx, "edmm_enable", "enable_stats"):
        if "require_exinfo" in sgx or "max_threads" in sgx:
            return "1.4"
        return "1.3" if "require_amx" in sgx else "1.0"
    if old:
        return "1.3"
    return "1.5" if any(key in sgx for key in (*_REQUIRE, "require_exinfo")) else NEWEST


def _comes_after(sgx: Mapping[str, object], key: str, other: str) -> bool:
    """Tell whether a key was written after another; the signer of 1.5 added `edmm_enable` last."""
    order = list(sgx)
    return key in sgx and other in sgx and order.index(key) > order.index(other)
