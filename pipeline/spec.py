"""The spec: what a person writes into `rvp.toml`.

Models only say shapes; `read_spec` also checks what types cannot: names, references, cycles are told with
their line. Everything is strict: an unknown key is an error with a did-you-mean.

References between parts of a spec, and nodes of the graph, have the same names:
`base.NAME`, `source.NAME`, `fetch.NAME`, `step.ID`, `pack.ID`, `measure.ID`; a file inside one is
`step.enclave:enclave.so`; a file beside the spec is its relative path, `enclave.toml`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from provenance import strict
from provenance.errors import SpecError, UsageError

LIMIT_BYTES: Final = 4 << 20
# The variations that `[rebuild] vary` and a step's `fixed` may name.
VARIATION_NAMES: Final = (
    "time",
    "timezone",
    "hostname",
    "locale",
    "umask",
    "user",
    "home",
    "environment",
    "build-path",
    "cpus",
    "file-order",
    "kernel-release",
)
# What is replaced in `run` and `environment`; any other brace, and the shell's ${out}, stays as it is.
PLACEHOLDER: Final = re.compile(
    r"(?<!\$)\{(out|work|(?:source|fetch|step|pack)\.[A-Za-z0-9][A-Za-z0-9_-]*)\}"
)
_REFERENCE: Final = re.compile(
    r"(base|source|fetch|step|pack|measure)\.([A-Za-z0-9][A-Za-z0-9_-]*)(?::(.*))?", re.DOTALL
)
_SIZE: Final = re.compile(r"(\d{1,15})\s*(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_UNIT_BYTES: Final = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
_TIME: Final = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?")


class SpecNotReadable(SpecError):
    """The spec cannot be read: there is no such file, or it is not permitted, or it is far too large.

    Cure: `rvp init` writes a commented spec; `-C DIR` says in which folder to work.
    """

    code = "RVP-1101"


class SpecNotToml(SpecError):
    """The spec is not TOML.

    Cure: the message has the line and the column.
    """

    code = "RVP-1102"


class SpecUnknownKey(SpecError):
    """The spec has a key that the format does not have; a misspelt key must not be ignored.

    Cure: the message proposes the nearest known key; `rvp schema spec` has them all.
    """

    code = "RVP-1103"


class SpecWrongType(SpecError):
    """A value in the spec has the wrong type, or a key is missing.

    Cure: `rvp schema spec` and docs/reference/spec.md say what each key holds.
    """

    code = "RVP-1104"


class BadSize(SpecError):
    """A size or a time that is not a number with a unit.

    Cure: write sizes as "512MiB" or "2GiB" (kB, MB, GB: powers of ten), times as "90s", "30m", "1h", "30d".
    """

    code = "RVP-1105"


class BadReference(SpecError):
    """A reference that cannot be: a part with a path that climbs out, or a file outside the spec's folder.

    Cure: write `kind.NAME`, `kind.NAME:path/in/it`, or the relative path of a file beside the spec
    (`./step.c` when the file's name looks like a reference).
    """

    code = "RVP-1106"


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    pass


class Project(_Strict, frozen=True, kw_only=True):
    """What is built."""

    name: str
    version: str
    source_date_epoch: int | Literal["commit"] = "commit"  # Unix seconds, or the time of the source's commit
    repository: str = ""  # the canonical place of the source; default: git's origin


class DebianArchive(_Strict, frozen=True, kw_only=True):
    """A further Debian-style archive: a vendor's repository, another suite, another keyring."""

    name: str
    suites: tuple[str, ...]
    components: tuple[str, ...] = ("main",)
    keyring: str  # file beside the spec, or a path of an installed keyring
    origin: str = ""  # the Origin field of its Release, checked


class DebianBase(_Strict, frozen=True, kw_only=True):
    """A root filesystem unpacked from Debian packages."""

    suites: tuple[str, ...]
    packages: tuple[str, ...]
    components: tuple[str, ...] = ("main",)
    architecture: str = "amd64"
    keyring: str = ""  # default: the Debian archive keyring
    archives: tuple[DebianArchive, ...] = ()


class Base(_Strict, frozen=True, kw_only=True):
    """A root filesystem for steps. Exactly one of debian, image, tar."""

    debian: DebianBase | None = None
    image: str | None = None  # name:tag or name@sha256:…; the lock pins the digest
    tar: str | None = None  # a file beside the spec, with its sha256
    sha256: str | None = None


class Source(_Strict, frozen=True, kw_only=True):
    """What is built from. Exactly one of path, git, url, debian_source."""

    path: str | None = None
    git: str | None = None
    rev: str | None = None
    url: str | None = None
    sha256: str | None = None
    debian_source: str | None = msgspec.field(default=None, name="debian-source")
    suite: str = "bookworm"
    include: tuple[str, ...] = ()  # of path and git: only these paths (files or folders)
    exclude: tuple[str, ...] = ()  # of path and git: not these


class Fetch(_Strict, frozen=True, kw_only=True):
    """A command that reaches the network, in `rvp lock` only; its output tree is pinned."""

    base: str
    run: tuple[str, ...]
    needs: tuple[str, ...] = ()  # sources and other fetches
    environment: dict[str, str] = {}
    hosts: tuple[str, ...] = ()  # allowed hosts; empty: any, and the transcript says which


class Limits(_Strict, frozen=True, kw_only=True):
    """What a step may use. Sizes are text with a unit."""

    cpus: int = 1
    memory: str = "2GiB"
    disk: str = "8GiB"  # everything it writes
    output: str = "4GiB"  # everything that leaves
    time: str = "1h"
    pids: int = 1024


class Step(_Strict, frozen=True, kw_only=True):
    """One command in one container."""

    id: str
    base: str
    run: tuple[str, ...]  # argv; {out}, {work}, {source.app}, {step.kernel}, {fetch.deps} are replaced
    outputs: tuple[str, ...]
    needs: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    fixed: tuple[str, ...] = ()  # variations that this step cannot bear
    limits: Limits = Limits()


class Pack(_Strict, frozen=True, kw_only=True):
    """Something that rvp itself writes, deterministically, without a container."""

    id: str
    kind: Literal["sgx", "oci"]
    output: str
    # sgx: an unsigned enclave, its configuration, and the owner's published signature
    image: str = ""
    config: str = ""
    sigstruct: str = ""
    generation: str = ""  # of the SDK whose layout is meant; default: what the enclave says, else the newest
    # oci: an image of these files
    files: dict[str, str] = {}  # absolute path in the image -> reference
    base: str = ""  # a base to put below, e.g. base.runtime
    entrypoint: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    labels: dict[str, str] = {}
    user: str = ""
    architecture: str = "amd64"


class Measure(_Strict, frozen=True, kw_only=True):
    """A measurement that belongs to the values."""

    id: str
    tee: str | tuple[str, ...]
    image: str = ""
    path: str = ""  # of an enclave in a container image; default: every enclave of it
    sigstruct: str = ""
    config: str = ""
    libpal: str = ""  # of a Gramine enclave, whose image is its manifest
    generation: str = ""  # of the SDK or of Gramine; default: what the file says, else the newest
    firmware: str = ""
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    vcpus: int | tuple[int, ...] = ()
    memory: str | tuple[str, ...] = ()
    vmm: str | tuple[str, ...] = ()  # who launches the machine; default: qemu
    vcpu_type: str | tuple[str, ...] = ()  # SNP: as in QEMU's -cpu; default: EPYC-v4
    guest_features: str | tuple[str, ...] = ()  # SNP: SEV_FEATURES in hex; default: 0x1
    host_data: str = ""  # SNP: what the host binds to the guest, 64 hex digits; default: left to the policy
    policy: str = ""  # SNP: the guest policy in hex
    id_block: str = ""  # SNP: the owner's published word on the guest: pinned inputs
    id_auth: str = ""
    layer: str = "workload"


class Rebuild(_Strict, frozen=True, kw_only=True):
    """How often to build again, and what to change on purpose."""

    times: int = 2
    vary: tuple[str, ...] = ()


class Spec(_Strict, frozen=True, kw_only=True):
    """The whole spec."""

    schema: Literal["rvp/spec/v1"]
    project: Project
    base: dict[str, Base] = {}
    source: dict[str, Source] = {}
    fetch: dict[str, Fetch] = {}
    step: tuple[Step, ...] = ()
    pack: tuple[Pack, ...] = ()
    measure: tuple[Measure, ...] = ()
    rebuild: Rebuild = Rebuild()


class Reference(msgspec.Struct, frozen=True):
    """What a reference in a spec names.

    Attributes:
        kind: base, source, fetch, step, pack, measure; or "file" for a file beside the spec.
        name: the part's name; empty for a file.
        path: relative path in the part's tree (of a base: below its root); empty for the whole part.
            For a file: its path relative to the spec's folder.
    """

    kind: Literal["base", "source", "fetch", "step", "pack", "measure", "file"]
    name: str
    path: str = ""

    @property
    def node(self) -> str:
        """The node of the graph that it names, `step.enclave`; empty for a file."""
        return f"{self.kind}.{self.name}" if self.name else ""


def parse_reference(text: str) -> Reference:
    """Take a reference apart.

    Example:
        >>> parse_reference("step.enclave:enclave.so")
        Reference(kind='step', name='enclave', path='enclave.so')
        >>> parse_reference("base.toolchain:/usr/share/ovmf/OVMF.fd").path
        'usr/share/ovmf/OVMF.fd'
        >>> parse_reference("keys/signature.bin")
        Reference(kind='file', name='', path='keys/signature.bin')

    Raises:
        BadReference: RVP-1106.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        return Reference("file", "", inside(text))
    kind: Any = match[1]
    path = match[3]
    if path is None:
        return Reference(kind, match[2])
    if kind == "base":
        path = path.removeprefix("/")
    return Reference(kind, match[2], inside(path))


def inside(path: str) -> str:
    """Normalise a relative path; refuse one that is empty, absolute or leads out with `..`.

    Raises:
        BadReference: RVP-1106.
    """
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if path.startswith("/"):
        raise BadReference(f'"{path}" is absolute', hint="write a path relative to the folder")
    if ".." in parts:
        raise BadReference(
            f'"{path}" leads out of its folder with ".."', hint="name a path inside the folder"
        )
    if not parts or any(character in path for character in "\0\n\r"):
        raise BadReference(f"{path!r} is not a path")
    return "/".join(parts)


def placeholders(text: str) -> tuple[str, ...]:
    """Name the placeholders of an argument: `out`, `work`, `source.app`, …, in order."""
    return tuple(PLACEHOLDER.findall(text))


def size_bytes(text: str) -> int:
    """Read a size with a unit.

    Example:
        >>> size_bytes("2GiB"), size_bytes("1MB")
        (2147483648, 1000000)

    Raises:
        BadSize: RVP-1105.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadSize(f'"{text}" is not a size', hint='a number and a unit: "512MiB", "2GiB"')
    return int(match[1]) * _UNIT_BYTES[match[2]]


def seconds(text: str) -> int:
    """Read a time with a unit.

    Example:
        >>> seconds("1h30m"), seconds("30d")
        (5400, 2592000)

    Raises:
        BadSize: RVP-1105.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise BadSize(f'"{text}" is not a time', hint='a number and a unit: "90s", "30m", "1h", "30d"')
    days, hours, minutes, rest = (int(group or 0) for group in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


_AS_SPEC_ERROR: Final[dict[type[UsageError], type[SpecError]]] = {
    strict.NotReadable: SpecNotReadable,
    strict.NotWellFormed: SpecNotToml,
    strict.UnknownKey: SpecUnknownKey,
    strict.WrongType: SpecWrongType,
}


def parse_spec(data: bytes, *, name: str = "rvp.toml") -> Spec:
    """Read a spec from bytes and check all of it.

    Raises:
        SpecError: RVP-11nn, with the line.
    """
    from pipeline.spec_check import check_spec  # the checks are written on top of the models

    try:
        spec = strict.read_toml(data, Spec, name=name, limit_bytes=LIMIT_BYTES)
    except UsageError as error:
        hint = "`rvp schema spec` prints the keys" if isinstance(error, strict.UnknownKey) else error.hint
        raise _AS_SPEC_ERROR[type(error)](error.message, hint=hint, place=error.place) from error
    check_spec(spec, text=data.decode("utf-8"), name=name)
    return spec


def read_spec(path: Path) -> Spec:
    """Read a spec and check all of it.

    Raises:
        SpecError: RVP-11nn, with file and line.
    """
    return parse_spec(read_spec_bytes(path), name=str(path))


def read_spec_bytes(path: Path) -> bytes:
    """Read the bytes of a spec.

    Raises:
        SpecNotReadable: RVP-1101.
    """
    try:
        return strict.read_file(path, limit_bytes=LIMIT_BYTES)
    except strict.NotReadable as error:
        hint = "`rvp init` writes a spec; `-C DIR` works in another folder"
        raise SpecNotReadable(error.message, hint=hint, place=error.place) from error


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of `rvp.toml`, from the models."""
    schema = msgspec.json.schema(Spec)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "rvp.toml",
        **schema,
    }
