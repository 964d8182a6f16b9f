"""Measure a SIGSTRUCT file on its own: what its owner states, and whether the signature is right."""

from __future__ import annotations

from pathlib import Path

from pipeline.measure.measured import Measured, MeasureOptions, subject_of
from pipeline.measure.sgx.enclave_measurement import enclave_measurement, sigstruct_checks
from pipeline.measure.sgx.sigstruct import (
    SIGSTRUCT_SIZE,
    TBS_SIZE,
    BadSigstruct,
    Sigstruct,
    SigstructNotVerified,
    has_sigstruct_header,
)
from provenance.strict import NotReadable, read_file


def companion(path: Path) -> Sigstruct | None:
    """Read the SIGSTRUCT that lies beside an enclave: `FILE.sig`, or FILE with the suffix `.sig`.

    Raises:
        BadSigstruct: RVP-5004, for a file of that name that is none.
    """
    for beside in (path.with_name(f"{path.name}.sig"), path.with_suffix(".sig")):
        if beside != path and beside.is_file():
            return Sigstruct(read_file(beside, limit_bytes=4 * SIGSTRUCT_SIZE), name=str(beside))
    return None


def measure_sigstruct(path: Path, options: MeasureOptions) -> Measured:
    """Read the values that a SIGSTRUCT signs; MRENCLAVE is stated by it, not computed.

    Raises:
        BadSigstruct: RVP-5004. OptionNotTaken: RVP-5014.
    """
    if options.sigstruct is not None:
        raise BadSigstruct(
            f"this is a SIGSTRUCT itself, and so is {options.sigstruct_name}",
            place=str(path),
            hint="give the enclave that they sign",
        )
    from pipeline.measure.formats import detect, require_taken

    require_taken(detect(path, tee="sgx"), options, path)
    raw = read_file(path, limit_bytes=4 * SIGSTRUCT_SIZE)
    signed = Sigstruct(raw, name=str(path))
    subject = subject_of(raw, options.name or path.name)
    checks = sigstruct_checks(signed, None)
    return Measured(measurements=(enclave_measurement(subject, signed.mrenclave, signed, checks),))


def read_sigstruct(path: Path, options: MeasureOptions | None = None) -> Sigstruct:
    """Find the SIGSTRUCT of a file: the one that was given, the file itself, or the one of the enclave in it.

    Raises:
        SigstructNotVerified: RVP-5012 for an enclave that is not signed. UnknownFormat: RVP-5000.
        BadSigstruct: RVP-5004; and what the readers of the formats raise (RVP-50nn).
    """
    if options is not None and options.sigstruct is not None:
        signed: Sigstruct | None = Sigstruct(options.sigstruct, name=options.sigstruct_name)
    elif has_sigstruct_header(_start(path)):
        signed = Sigstruct(read_file(path, limit_bytes=4 * SIGSTRUCT_SIZE), name=str(path))
    else:
        from pipeline.measure.sgx.enclave import lay_out

        signed = lay_out(path, options)[0].sigstruct
    if signed is None or signed.is_empty:
        raise SigstructNotVerified(
            "the enclave is not signed", place=str(path), hint="rvp sgx sign, or give --sigstruct"
        )
    return signed


def read_stated(path: Path) -> tuple[Sigstruct, bool]:
    """Read what is signed, or what is to be signed; tell whether there is a signature.

    Raises:
        As `read_sigstruct`.
    """
    from pipeline.measure.sgx.elf import Elf, map_file
    from pipeline.measure.sgx.sdk.metadata import is_laid_out
    from pipeline.measure.sgx.sdk.sign import is_sdk_enclave

    start = _start(path)
    if start.startswith(b"\x7fELF") and is_sdk_enclave(path) and not is_laid_out(Elf(map_file(path))):
        raise SigstructNotVerified(
            "the enclave is not signed", place=str(path), hint="`rvp sgx digest` shows what would be signed"
        )
    if len(start) == TBS_SIZE and has_sigstruct_header(start) and path.stat().st_size == TBS_SIZE:
        from pipeline.measure.sgx.sigstruct_fields import of_tbs

        return of_tbs(start, name=str(path)), False
    return read_sigstruct(path), True


def given_sigstruct(path: Path) -> bytes:
    """Read what was given as a SIGSTRUCT: one, or a signed enclave that has one in it.

    Raises:
        As `read_sigstruct`.
    """
    if _start(path).startswith(b"\x7fELF"):
        return read_stated(path)[0].raw
    return read_file(path, limit_bytes=1 << 20)


def _start(path: Path) -> bytes:
    from pipeline.measure.formats import split_inside

    if split_inside(path)[1]:
        return b""  # an enclave in an image: the reader of images finds it
    try:
        with path.open("rb") as stream:
            return stream.read(TBS_SIZE)
    except IsADirectoryError:
        return b""
    except OSError as error:
        raise NotReadable(
            f"cannot read the file: {error.strerror}", place=str(path), hint="check the path"
        ) from error
