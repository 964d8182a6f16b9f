"""What MRENCLAVE binds, and what of an image it does not: told plainly, for every enclave in an image.

MRENCLAVE covers the pages of the enclave. An enclave that runs what it reads later (a runtime that many
applications share) has the same MRENCLAVE whatever it runs. The table names runtimes that are known to do so.
The rule needs no table: beside an enclave lie M files that are not in its pages, and nothing but the image
digest binds them. Formats that bind further files by their digest (Gramine's manifest, Occlum's file-system
MAC) have rules of their own.

Sources: of each entry, its documentation.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import msgspec

from pipeline.measure.image_files import FoundFile, ImageFiles
from pipeline.measure.sgx.elf import map_file
from pipeline.measure.sgx.enclave import Enclave
from pipeline.measure.sgx.enclave_image import PAGE, EnclaveImage, Pages
from provenance.claims import Check


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """A runtime whose MRENCLAVE says nothing of the application.

    Attributes:
        name: what it is.
        paths: patterns of the enclave's path.
        marks: bytes of the enclave's file; one is enough.
        runs: what it runs, and from where.
        source: where that is written.
    """

    name: str
    paths: tuple[str, ...] = ()
    marks: tuple[bytes, ...] = ()
    runs: str
    source: str


RUNTIMES: Final[tuple[Runtime, ...]] = (
    Runtime(
        name="WebAssembly Micro Runtime",
        marks=(b"wasm_runtime_load", b"wasm_runtime_instantiate"),
        runs="WebAssembly modules that the host hands in",
        source="bytecodealliance/wasm-micro-runtime, doc/linux_sgx.md",
    ),
    Runtime(
        name="Apache Teaclave execution service",
        paths=("*/teaclave_execution_service_enclave.signed.so",),
        runs="functions (Python, WebAssembly) that are registered while it runs",
        source="apache/incubator-teaclave, docs/functions-in-python.md",
    ),
    Runtime(
        name="SGX-LKL",
        paths=("*/libsgxlkl.so", "*/libsgxlkl.so.signed", "*/libsgxlkl-user.so"),
        runs="a Linux application from an encrypted disk image, named by a configuration given at start",
        source="lsds/sgx-lkl, README",
    ),
    Runtime(
        name="Mystikos",
        paths=("*/mystenc.so",),
        runs="an application from a root file system; only a package (`myst package`) measures its digest",
        source="deislabs/mystikos, doc/sign-package.md",
    ),
    Runtime(
        name="EGo's runtime",
        paths=("*/ego-enclave",),
        runs="a Go program that is measured only when `ego sign` put it into a signed file of its own",
        source="edgelesssys/ego, docs",
    ),
    Runtime(
        name="Enarx",
        paths=("*/enarx",),
        runs="WebAssembly workloads that are fetched when it starts",
        source="enarx/enarx, docs",
    ),
)


def measured_bytes(image: EnclaveImage) -> int:
    """Count the bytes whose content MRENCLAVE covers."""
    return sum(
        (one.count * PAGE if one.is_measured else 0) if isinstance(one, Pages) else len(one.content)
        for one in image.parts
    )


def known_runtime(path: str, content: memoryview) -> Runtime | None:
    """Find the runtime that an enclave is, by its path in the image and by marks in its file."""
    data = content.obj if hasattr(content.obj, "find") else bytes(content)
    for one in RUNTIMES:
        if any(fnmatchcase(path, pattern) for pattern in one.paths):
            return one
        if any(data.find(mark) >= 0 for mark in one.marks):
            return one
    return None


def binding_check(files: ImageFiles, file: FoundFile, path: Path, enclave: Enclave) -> Check:
    """Check what MRENCLAVE binds of the image; a warning says what it does not.

    Args:
        files: of the image.
        file: the enclave in it.
        path: of its copy.
        enclave: as it is laid out.
    """
    count, size = files.count()
    rest, rest_bytes = count - 1, size - file.entry.size_bytes
    covered = measured_bytes(enclave.image)
    expected = "MRENCLAVE covers all that runs"
    words = (
        f"MRENCLAVE covers only these {covered} bytes of {file.path}; the rest of the image ({rest} files, "
        f"{rest_bytes} bytes) is bound by the image digest, not by MRENCLAVE"
    )
    hint = "verify the image digest as well, or let the enclave check what it loads by digests of its own"
    runtime = known_runtime(file.path, map_file(path))
    if runtime is not None:
        return Check(
            id="binds-application",
            status="warning",
            expected=expected,
            got=f"this is {runtime.name}: MRENCLAVE is the same whatever it runs ({runtime.runs}). {words}",
            source=runtime.source,
            hint=hint,
        )
    if rest == 0:
        return Check(
            id="binds-application",
            status="passed",
            expected=expected,
            got=f"{covered} bytes; the image has no other file",
        )
    return Check(
        id="binds-application",
        status="warning",
        expected=expected,
        got=words,
        source="design of SGX",
        hint=hint,
    )
