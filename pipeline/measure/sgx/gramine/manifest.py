r"""A Gramine manifest: the TOML text that is measured, and what it says of its enclave.

The exact bytes are measured; this reader only takes out of them what the signer takes: sizes, threads,
attributes. Types are strict, as Gramine's own loader is.

Units: sizes are bytes.
Source: Gramine, `Documentation/manifest-syntax.rst`; `python/graminelibos/sgx_sign.py`.

Example:
    >>> manifest = read_manifest(b'libos.entrypoint = "/a"\nsgx.enclave_size = "64M"\nsgx.max_threads = 2')
    >>> parameters = enclave_parameters(manifest, generation_of(manifest, ""))
    >>> parameters.size_bytes, parameters.threads
    (67108864, 2)
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec

from pipeline.measure.sgx.gramine.generation import (
    AMX,
    AVX,
    AVX512,
    DEFAULT_SIZE,
    DEFAULT_THREADS,
    MPX,
    PKRU,
    XFRM_LEGACY,
    Generation,
    generation_named,
    seen_generation,
)
from pipeline.measure.sgx.sigstruct import DEBUG, MODE64BIT
from provenance.errors import UsageError
from provenance.strict import NotWellFormed, line_in_toml, parse_toml

T = TypeVar("T")

MAX_BYTES: Final = 16 << 20  # 100 000 trusted files
MAX_THREADS: Final = 4096  # MAX_DBG_THREADS of Gramine's loader
MAX_SIZE: Final = 1 << 52  # as wide as virtual addresses will be
MIN_SIZE: Final = 1 << 13
_SIZE: Final = re.compile(r"(0x[0-9a-fA-F]{1,16}|0|[1-9][0-9]{0,19})([KMG]?)\Z")
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SGX: Final = re.compile(rb"^[ \t]*(?:\[{1,2}[ \t]*sgx[ \t]*[\].]|sgx[ \t]*[.=])", re.MULTILINE)
_OTHER: Final = re.compile(
    rb"^[ \t]*(?:\[{1,2}[ \t]*(?:loader|libos)[ \t]*[\].]|(?:loader|libos)[ \t]*[.=])", re.MULTILINE
)
_FEATURES: Final = {"avx": AVX, "avx512": AVX512, "amx": AMX}
_HARDENING: Final = {"mpx": MPX, "pkru": PKRU}


class BadGramineManifest(UsageError):
    """A Gramine manifest cannot be laid out: it is not TOML, or a value is not one that Gramine takes.

    The message names the option. Cure: measure the `.manifest.sgx` that `gramine-sgx-sign` wrote, complete
    and unchanged: every byte of it is in MRENCLAVE.
    """

    code = "RVP-5041"


class GramineManifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest: its bytes, which are measured, and its tables."""

    data: bytes
    table: dict[str, Any]
    name: str = ""

    def bad(self, option: str, message: str, hint: str = "") -> BadGramineManifest:
        """Make the error about an option; its place is the line of it."""
        line = line_in_toml(self.data.decode(), f"$.{option}") if option else None
        place = f"{self.name}:{line}" if line and self.name else self.name
        return BadGramineManifest(f"{option}: {message}" if option else message, place=place, hint=hint)

    def option(self, path: str, type_: type[T], default: T) -> T:
        """Take an option, such as `sgx.enclave_size`.

        Raises:
            BadGramineManifest: RVP-5041 when it has another type.
        """
        value: Any = self.table
        done: list[str] = []
        for key in path.split("."):
            if not isinstance(value, dict):
                raise self.bad(".".join(done), f"{_kind(value)}, expected a table")
            if key not in value:
                return default
            value = value[key]
            done.append(key)
        if type(value) is not type_:
            raise self.bad(path, f"{_kind(value)}, expected {_WORDS.get(type_, type_.__name__)}")
        return value

    @property
    def sgx(self) -> dict[str, Any]:
        """The table `sgx`."""
        return self.option("sgx", dict, {})


class EnclaveParameters(msgspec.Struct, frozen=True, kw_only=True):
    """What the enclave is made of.

    Attributes:
        size_bytes: SECS.SIZE.
        threads: how many TCS.
        edmm: free memory is not added at launch.
        base: the address that the enclave's TLS pages count from: 0, or the size.
        heap_min: offset of the lowest page that is added.
        attributes: flags and xfrm.
        xfrm_mask: which bits of xfrm are required of the platform.
    """

    size_bytes: int
    threads: int
    edmm: bool
    base: int
    heap_min: int
    attributes: tuple[int, int]
    xfrm_mask: int
    miscselect: int
    isvprodid: int
    isvsvn: int

    @property
    def debug(self) -> bool:
        """Tell whether the enclave is a debug one: its memory is open to the host."""
        return bool(self.attributes[0] & DEBUG)


_WORDS: Final[dict[Any, str]] = {
    bool: "true or false",
    int: "an integer",
    str: "a string",
    list: "an array",
    dict: "a table",
}


def _kind(value: object) -> str:
    return {bool: "a boolean", int: "an integer", str: "a string", list: "an array", dict: "a table"}.get(
        type(value), f"a {type(value).__name__}"
    )


def looks_like_manifest(data: bytes) -> bool:
    """Tell whether a text has the tables of a Gramine manifest: `sgx`, and `loader` or `libos`; cheap."""
    return b"\0" not in data and _SGX.search(data) is not None and _OTHER.search(data) is not None


def read_manifest(data: bytes, *, name: str = "") -> GramineManifest:
    """Read a manifest.

    Raises:
        BadGramineManifest: RVP-5041.
    """
    if b"\0" in data:
        raise BadGramineManifest("the text has a NUL byte", place=name)
    try:
        table = parse_toml(data, name=name, limit_bytes=MAX_BYTES)
    except NotWellFormed as error:
        raise BadGramineManifest(error.message, place=error.place) from error
    found = GramineManifest(data=data, table=table, name=name)
    if not isinstance(table.get("sgx", {}), dict):
        raise found.bad("sgx", f"{_kind(table['sgx'])}, expected a table")
    return found


def generation_of(manifest: GramineManifest, wanted: str) -> Generation:
    """Choose the release: the wanted one, else the one that the manifest tells.

    Raises:
        UnknownGramine: RVP-5040.
    """
    return generation_named(wanted or seen_generation(manifest.sgx))


def enclave_parameters(manifest: GramineManifest, generation: Generation) -> EnclaveParameters:
    """Take from a manifest what the signer takes.

    Raises:
        BadGramineManifest: RVP-5041.
    """
    edmm = generation.edmm and manifest.option("sgx.edmm_enable", bool, False)
    size = _size(manifest, generation.edmm_size if edmm else DEFAULT_SIZE)
    nonpie = manifest.option("sgx.nonpie_binary", bool, False)
    at_size = generation.based_at_size and not nonpie
    debug = manifest.option("sgx.debug", bool, False)
    xfrm, mask = _xfrm(manifest, generation)
    exinfo = [key for key in generation.exinfo if key in manifest.sgx]
    if len(exinfo) > 1:
        raise manifest.bad(f"sgx.{exinfo[1]}", f"stands beside sgx.{exinfo[0]}, which replaces it")
    return EnclaveParameters(
        size_bytes=size,
        threads=_threads(manifest, generation),
        edmm=edmm,
        base=size if at_size else 0,
        heap_min=0 if at_size else 0x10000,
        attributes=(MODE64BIT | (DEBUG if debug else 0), xfrm),
        xfrm_mask=mask,
        miscselect=int(any(manifest.option(f"sgx.{key}", bool, False) for key in exinfo)),
        isvprodid=_short(manifest, "sgx.isvprodid"),
        isvsvn=_short(manifest, "sgx.isvsvn"),
    )


def _size(manifest: GramineManifest, default: str) -> int:
    text = manifest.option("sgx.enclave_size", str, default)
    found = _SIZE.match(text)
    if not found:
        raise manifest.bad(
            "sgx.enclave_size", f"{text[:40]!r} is not a size", 'write a number and K, M or G: "256M"'
        )
    size = int(found[1], 0) * _UNITS[found[2]]
    if size & (size - 1) or not MIN_SIZE <= size <= MAX_SIZE:
        raise manifest.bad(
            "sgx.enclave_size",
            f"{size:#x} bytes, expected a power of two from {MIN_SIZE:#x} to {MAX_SIZE:#x}",
        )
    return size


def _threads(manifest: GramineManifest, generation: Generation) -> int:
    keys = [key for key in generation.threads if key in manifest.sgx]
    key = keys[0] if keys else generation.threads[0]
    threads = manifest.option(f"sgx.{key}", int, DEFAULT_THREADS)
    if not 1 <= threads <= MAX_THREADS:
        raise manifest.bad(f"sgx.{key}", f"{threads} threads, expected 1 to {MAX_THREADS}")
    return threads


def _short(manifest: GramineManifest, path: str) -> int:
    value = manifest.option(path, int, 0)
    if not 0 <= value <= 0xFFFF:
        raise manifest.bad(path, f"{value}, expected 0 to 65535")
    return value


def _xfrm(manifest: GramineManifest, generation: Generation) -> tuple[int, int]:
    """Compute XFRM and its mask: features are required, forbidden, or left to the loader."""
    xfrm, mask = XFRM_LEGACY, generation.xfrm_mask
    given = [key for key in generation.require if key in manifest.sgx]
    if not generation.cpu_features or "cpu_features" not in manifest.sgx:
        for key in given:
            xfrm |= generation.require[key] if manifest.option(f"sgx.{key}", bool, False) else 0
        return xfrm, mask
    if given:
        raise manifest.bad(f"sgx.{given[0]}", "stands beside sgx.cpu_features, which replaces it")
    for features, may_choose in ((_FEATURES, True), (_HARDENING, False)):
        for name, bits in features.items():
            path = f"sgx.cpu_features.{name}"
            match manifest.option(path, str, ""):
                case "required":
                    xfrm, mask = xfrm | bits, mask | bits
                case "disabled":
                    xfrm, mask = xfrm & ~bits, mask | bits
                case "":
                    if name in manifest.option("sgx.cpu_features", dict, {}):
                        raise manifest.bad(path, 'an empty string, expected "required" or "disabled"')
                case "unspecified" if may_choose:
                    pass
                case other:
                    known = '"required", "disabled"' + (', "unspecified"' if may_choose else "")
                    raise manifest.bad(path, f'"{other[:40]}", expected one of {known}')
    return xfrm, mask
