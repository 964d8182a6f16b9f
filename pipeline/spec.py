"""The spec: what a person writes into `rvp.toml`.

Models only say shapes; `read_spec` also checks what types cannot: names, references, cycles are told with
their line. Everything is strict: an unknown key is an error with a did-you-mean.

References between parts of a spec, and nodes of the graph, have the same names:
`base.NAME`, `source.NAME`, `fetch.NAME`, `step.ID`, `pack.ID`, `measure.ID`; a file inside one is
`step.enclave:enclave.so`; a file beside the spec is its relative path, `enclave.toml`.
"""

from __future__ import annotations

from typing import Literal

import msgspec


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
    exclude: tuple[str, ...] = ()


class Fetch(_Strict, frozen=True, kw_only=True):
    """A command that reaches the network, in `rvp lock` only; its output tree is pinned."""

    base: str
    run: tuple[str, ...]
    needs: tuple[str, ...] = ()
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
    sigstruct: str = ""
    config: str = ""
    firmware: str = ""
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    vcpus: int | tuple[int, ...] = ()
    memory: str | tuple[str, ...] = ()
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
