"""Gramine: from a manifest and libpal.so to the enclave that Gramine's loader builds.

Applications, the LibOS and the libraries are not in the enclave at launch: the manifest, which is measured,
names them by their SHA-256. Whether it names all that runs is a check of its own (`gramine_binding`).

Cost: nothing is copied but the manifest.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from pipeline.measure.measured import CheckFailed, MeasureOptions
from pipeline.measure.sgx.elf import Elf, map_file
from pipeline.measure.sgx.enclave import Enclave, MappedElf
from pipeline.measure.sgx.enclave_image import EnclaveImage
from pipeline.measure.sgx.gramine.binding import binding_check, trusted_files
from pipeline.measure.sgx.gramine.layout import SSA_FRAME_PAGES, GramineLayout
from pipeline.measure.sgx.gramine.manifest import (
    MAX_BYTES,
    GramineManifest,
    enclave_parameters,
    generation_of,
    looks_like_manifest,
    read_manifest,
)
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.sigstruct import SIGSTRUCT_SIZE, Sigstruct, SigstructFields, check_fields
from pipeline.measure.sgx.unsigned import Unsigned
from provenance.claims import Check
from provenance.errors import UsageError
from provenance.strict import read_file

LIBPAL: Final = "libpal.so"
_USUAL_PLACES: Final = (
    "Gramine installs it as /usr/lib/x86_64-linux-gnu/gramine/sgx/libpal.so (or lib64/gramine/sgx); "
    "a shielded container has it under /gramine/meson_build_output"
)


class NoLibpal(UsageError):
    """A Gramine enclave is a manifest and `libpal.so`; the latter is not there.

    Cure: give the one of the release that runs the enclave with `--libpal`, or put it beside the manifest as
    `libpal.so`. It is never taken from where this machine has Gramine installed: that may be another one.
    """

    code = "RVP-5042"


def lay_out_gramine(path: Path, options: MeasureOptions) -> tuple[Enclave, ...]:
    """Lay out a Gramine enclave, for the table of formats.

    The SIGSTRUCT lies beside the manifest: of `app.manifest.sgx` as `app.sig` or `app.manifest.sgx.sig`.

    Args:
        path: the manifest; or, with `options.manifest`, a file that the manifest should trust.
        options: `manifest`, `libpal`, `generation`, `sigstruct`.

    Raises:
        UnknownGramine: RVP-5040. BadGramineManifest: RVP-5041. NoLibpal: RVP-5042. BadLibpal: RVP-5043.
        GramineTooSmall: RVP-5044. BadElf: RVP-5001. BadSigstruct: RVP-5004.
    """
    place = options.manifest or path
    data = read_file(place, limit_bytes=MAX_BYTES)
    libpal = _libpal(place, options)
    takes_companion = options.companions and options.sigstruct is None
    signed = _companion(place) if takes_companion else None
    enclave = lay_out_manifest(
        data,
        map_file(libpal),
        generation=options.generation,
        name=str(place),
        libpal_name=str(libpal),
        sigstruct=signed,
        told=map_file(path) if not _same(path, place) else None,
    )
    return (enclave,)


def lay_out_manifest(
    data: bytes,
    libpal: memoryview,
    *,
    generation: str = "",
    name: str = "",
    libpal_name: str = LIBPAL,
    sigstruct: Sigstruct | None = None,
    told: memoryview | None = None,
) -> Enclave:
    """Lay out a manifest with its libpal.so.

    Args:
        data: the manifest, the exact bytes.
        libpal: the file `libpal.so`.
        generation: release of Gramine; empty: as the manifest tells.
        name: what to call the manifest in errors.
        libpal_name: what to call libpal.so in errors.
        sigstruct: its SIGSTRUCT, when it is known.
        told: a file that the manifest should trust: it is checked that it does.

    Raises:
        UnknownGramine: RVP-5040. BadGramineManifest: RVP-5041. BadLibpal: RVP-5043.
        GramineTooSmall: RVP-5044. BadElf: RVP-5001.
    """
    manifest = read_manifest(data, name=name)
    release = generation_of(manifest, generation)
    parameters = enclave_parameters(manifest, release)
    elf = Elf(libpal, name=libpal_name)
    layout = GramineLayout(manifest, parameters, elf)
    checks: tuple[Check, ...] = (binding_check(manifest),)
    if told is not None:
        checks += (_trust_check(manifest, told),)
    return Enclave(
        layout=f"Gramine {release.name}",
        image=EnclaveImage(
            size_bytes=parameters.size_bytes, ssa_frame_size=SSA_FRAME_PAGES, parts=tuple(layout.parts())
        ),
        sigstruct=sigstruct,
        elves=(MappedElf(elf=elf, base=layout.pal),),
        facts={
            "gramine": release.name,
            "enclave_size": parameters.size_bytes,
            "max_threads": parameters.threads,
            "edmm_enable": int(parameters.edmm),
            "debug": int(parameters.debug),
            "manifest_bytes": len(data),
            "libpal_sha256": hashlib.sha256(libpal).hexdigest(),
        },
        checks=checks,
    )


def is_gramine(path: Path) -> bool:
    """Tell whether a file is a Gramine manifest.

    Raises:
        NotReadable: RVP-1010.
    """
    data = map_file(path)
    text = b"\0" not in bytes(data[:4096])
    return text and len(data) <= MAX_BYTES and looks_like_manifest(bytes(data))


def lay_out_gramine_unsigned(path: Path, options: MeasureOptions) -> Unsigned:
    """Lay out a Gramine enclave for signing, with the fields that `gramine-sgx-sign` states.

    What is written is the SIGSTRUCT: the file `.sig`.

    Raises:
        BadGramineManifest: RVP-5041, also when trusted files are not hashed yet; and as `lay_out_gramine`.
    """
    enclave = lay_out_gramine(path, options)[0]
    manifest = read_manifest(read_file(options.manifest or path, limit_bytes=MAX_BYTES), name=str(path))
    bare = [file for file, digest in trusted_files(manifest).items() if not digest]
    if bare:
        raise manifest.bad(
            "sgx.trusted_files",
            f"{bare[0][:120]} has no sha256",
            "sign the .manifest.sgx, into which gramine-sgx-sign writes the hashes",
        )
    parameters = enclave_parameters(manifest, generation_of(manifest, options.generation))
    fields = SigstructFields(
        mrenclave=mrenclave(enclave.image),
        isvprodid=parameters.isvprodid,
        isvsvn=parameters.isvsvn,
        attributes=parameters.attributes,
        attributes_mask=(0xFFFFFFFFFFFFFFFF, parameters.xfrm_mask),
        miscselect=parameters.miscselect,
        miscselect_mask=0xFFFFFFFF,
    )

    def write(signed: Sigstruct | None) -> bytes:
        if signed is None:
            return bytes(SIGSTRUCT_SIZE)
        check_fields(signed, fields)
        return signed.raw

    return Unsigned(enclave=enclave, fields=fields, write=write)


def _libpal(manifest: Path, options: MeasureOptions) -> Path:
    from pipeline.measure.sgx.open_enclave.sign import is_open_enclave
    from pipeline.measure.sgx.sdk.sign import is_sdk_enclave

    if options.libpal is not None:
        if is_sdk_enclave(options.libpal) or is_open_enclave(options.libpal):
            raise NoLibpal(
                "this is an enclave of its own, not Gramine's libpal.so",
                place=str(options.libpal),
                hint=_USUAL_PLACES,
            )
        return options.libpal
    beside = manifest.with_name(LIBPAL)
    if options.companions and beside.is_file():
        return beside
    raise NoLibpal(
        "the enclave is this manifest and Gramine's libpal.so, which is not beside it",
        place=str(manifest),
        hint=f"give it with --libpal; {_USUAL_PLACES}",
    )


def _companion(manifest: Path) -> Sigstruct | None:
    """Read the SIGSTRUCT beside a manifest: where gramine-sgx-sign puts it, or under the full name."""
    stem = manifest.name.removesuffix(".sgx").removesuffix(".manifest")
    for name in (f"{stem}.sig", f"{manifest.name}.sig"):
        beside = manifest.with_name(name)
        if beside != manifest and beside.is_file():
            return Sigstruct(read_file(beside, limit_bytes=4 * SIGSTRUCT_SIZE), name=str(beside))
    return None


def _same(one: Path, other: Path) -> bool:
    try:
        return one == other or one.samefile(other)
    except OSError:
        return False


def _trust_check(manifest: GramineManifest, told: memoryview) -> Check:
    """Check that a file is one that the manifest trusts."""
    digest = hashlib.sha256(told).hexdigest()
    trusted = trusted_files(manifest)
    found = next((name for name, one in trusted.items() if one == digest), "")
    return Check(
        id="file-is-trusted",
        status="passed" if found else "failed",
        expected="its SHA-256 among sgx.trusted_files",
        got=f"{digest} ({found})" if found else digest,
        source="the manifest",
        hint="" if found else "the manifest was signed for another build of this file",
        code="" if found else CheckFailed.code,
    )
