"""Enclaves inside container images: found in the final file system, measured as if they lay in a folder.

Beside the measurement of an enclave stands that of its image; `inside` ties the one to the other. What
MRENCLAVE does not bind of the image is said by the check `binds-application`.

Cost: two passes over the layers; what is measured is copied to a private folder first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from pipeline.measure.formats import Format, UnknownFormat, detect, given, split_inside
from pipeline.measure.image_files import FoundFile, ImageFiles, open_image_files
from pipeline.measure.measured import Measured, MeasureOptions, OptionNotTaken
from pipeline.measure.sgx.enclave import Enclave, lay_out, measure_enclave
from pipeline.measure.sgx.in_image.binding import binding_check
from pipeline.measure.sgx.in_image.open_enclave import module_of, runtime_of
from provenance.claims import Check, Inside, Measurement
from provenance.errors import RvpError, UsageError
from provenance.measurement_log import MeasurementLog
from provenance.predicates.shapes import is_plain

MANIFEST: Final = ".manifest.sgx"
_MAX_ENCLAVES: Final = 256
_MAX_NAMED: Final = 8
NAME_ONE: Final = "name one: IMAGE!/PATH"
_LOOKED_FOR: Final = "ELF files with .note.sgxmeta or .oeinfo, SGXS streams, Gramine's *.manifest.sgx"
# Where Gramine's loader is: built by GSC (Debian and Ubuntu, Red Hat and CentOS), installed by packages.
_LIBPALS: Final = (
    "/gramine/meson_build_output/lib/x86_64-linux-gnu/gramine/sgx/libpal.so",
    "/gramine/meson_build_output/lib64/gramine/sgx/libpal.so",
    "/usr/local/lib/x86_64-linux-gnu/gramine/sgx/libpal.so",
    "/usr/local/lib64/gramine/sgx/libpal.so",
    "/usr/lib/x86_64-linux-gnu/gramine/sgx/libpal.so",
    "/usr/lib64/gramine/sgx/libpal.so",
)
_LIBPAL: Final = "/gramine/sgx/libpal.so"


class NoEnclaveInImage(UsageError):
    """A container image has no enclave, or none that could be measured, or too many to measure them all.

    Cure: name the file, as in `image.tar!/opt/enclave.signed.so`. Images of SCONE hold no file that tells
    MRENCLAVE: its loader lays the enclave out when it starts.
    """

    code = "RVP-5052"


class _Taken(msgspec.Struct, frozen=True, kw_only=True):
    """An enclave that was taken out of the image, with what belongs to it."""

    file: FoundFile
    path: Path
    libpal: Path | None = None
    found: Format | None = None


def measure_in_image(path: Path, options: MeasureOptions) -> Measured:
    """Measure the enclave at a path of an image (`options.inside`), or every enclave that is in it.

    Returns:
        The enclaves in the order of their paths, then the image.

    Raises:
        NoEnclaveInImage: RVP-5052. NotInImage: RVP-5051. WhichImage: RVP-5050. BadImage: RVP-5101.
            ImageDigestMismatch: RVP-5102; for a single enclave what its reader raises (RVP-50nn).
    """
    measurements: list[Measurement] = []
    logs: list[MeasurementLog] = []
    refused: list[str] = []
    with _opened(path, options) as (files, taken, scratch):
        for one in taken:
            try:
                found = _measure(files, one, options)
            except RvpError as error:
                _rename(error, scratch, path, one)
                if options.inside or not isinstance(error, UsageError):
                    raise
                refused.append(f"{one.file.path}: {error.message}")
                continue
            measurements += found.measurements
            logs += found.logs
        if not measurements:
            raise NoEnclaveInImage(
                f"none of {len(taken)} enclaves could be measured: {'; '.join(refused[:_MAX_NAMED])}",
                place=str(path),
            )
        image = files.oci
        if refused:
            image = msgspec.structs.replace(
                image, checks=(*image.checks, _incomplete(len(measurements), refused))
            )
    return Measured(measurements=(*measurements, image), logs=tuple(logs))


def _incomplete(count: int, refused: list[str]) -> Check:
    return Check(
        id="enclaves",
        status="warning",
        expected="every file that is an enclave is measured",
        got=f"{count} measured, {len(refused)} not: {'; '.join(refused[:_MAX_NAMED])}",
        hint="measure each by its path: IMAGE!/PATH",
    )


def lay_out_in_image(path: Path, options: MeasureOptions) -> tuple[Enclave, ...]:
    """Lay out the enclave at a path of an image, or the only one that is in it.

    Raises:
        NoEnclaveInImage: RVP-5052, and as `measure_in_image`.
    """
    with _opened(path, options) as (_, taken, scratch):
        one = _only(taken, path)
        try:
            return lay_out(one.path, _options(one, options, ""))
        except RvpError as error:
            _rename(error, scratch, path, one)
            raise


@contextmanager
def _opened(path: Path, options: MeasureOptions) -> Iterator[tuple[ImageFiles, list[_Taken], Path]]:
    """Find the enclaves and copy them, with what belongs to them, to a private folder."""
    with (
        open_image_files(path, image=options.image, name=options.name) as files,
        tempfile.TemporaryDirectory(prefix="rvp-enclave-") as folder,
    ):
        scratch = Path(folder)
        wanted = [files.find(options.inside)] if options.inside else _candidates(files, path)
        yield files, _take(files, path, wanted, scratch, options), scratch


def take_out(path: Path, options: MeasureOptions, folder: Path) -> tuple[Path, MeasureOptions]:
    """Copy the enclave at a path of an image, with what belongs to it, to a folder.

    Args:
        path: of the image, or of the enclave in it (`image.tar!/opt/enclave.so`).
        options: with `inside`, when the path is that of the image.
        folder: an empty one, of the caller's own.

    Returns:
        The copy, and the options that it is laid out with.

    Raises:
        As `lay_out_in_image`.
    """
    image, inside = split_inside(path)
    if inside:
        options = msgspec.structs.replace(options, inside=inside)
    with open_image_files(image, image=options.image, name=options.name) as files:
        wanted = [files.find(options.inside)] if options.inside else _candidates(files, path)
        one = _only(_take(files, path, wanted, folder, options), path)
        return one.path, _options(one, options, "")


def _take(
    files: ImageFiles, path: Path, wanted: list[FoundFile], scratch: Path, options: MeasureOptions
) -> list[_Taken]:
    """Copy enclaves; then, when their files ask for more of the image, that as well."""
    copies: dict[Path, FoundFile] = {}
    taken = []
    for number, file in enumerate(wanted):
        place = scratch / f"{number:03}"
        place.mkdir()
        taken.append(_plan(files, file, place, copies))
    files.take(copies)
    if not options.inside:
        taken = [one for one in taken if _format_of(one.path) is not None]
    if not taken:
        raise _none(files, path)
    taken = [msgspec.structs.replace(one, found=_format_of(one.path)) for one in taken]
    for more in (runtime_of, module_of):
        copies = {}
        for one in taken:
            if found := more(files, one.path, one.file.path, options.libpal):
                copies[one.path.with_name(found[0])] = found[1]
        if copies:
            files.take(copies)
    _require_taken(taken, options, path)
    return taken


def _require_taken(taken: list[_Taken], options: MeasureOptions, path: Path) -> None:
    """Check that every option is for one of the enclaves, and a configuration for the only one.

    Raises:
        OptionNotTaken: RVP-5014.
    """
    formats = [one.found for one in taken if one.found is not None]
    if options.config is not None and len(taken) > 1:
        raise OptionNotTaken(
            f"--config is for one enclave, the image has {len(taken)}", place=str(path), hint=NAME_ONE
        )
    for name in given(options):
        if name != "image" and formats and not any(name in one.takes for one in formats):
            titles = "; ".join(sorted({one.title for one in formats}))
            raise OptionNotTaken(f"--{name}: {titles} has no use for it", place=str(path))


def _only(taken: list[_Taken], path: Path) -> _Taken:
    if len(taken) != 1:
        listed = ", ".join(one.file.path for one in taken[:_MAX_NAMED])
        raise NoEnclaveInImage(f"{len(taken)} enclaves lie in it: {listed}", place=str(path), hint=NAME_ONE)
    return taken[0]


def _candidates(files: ImageFiles, path: Path) -> list[FoundFile]:
    found = []
    for file in files.hinted():
        found.append(file)
        if len(found) > _MAX_ENCLAVES:
            raise NoEnclaveInImage(
                f"more than {_MAX_ENCLAVES} files look like enclaves",
                place=str(path),
                hint=NAME_ONE,
            )
    return found


def _none(files: ImageFiles, path: Path) -> NoEnclaveInImage:
    count, size = files.count()
    hint = "name the file, as in IMAGE!/opt/enclave.so, if it is one"
    if any(files.below("/opt/scone")):
        hint = (
            "this image holds SCONE, whose loader lays out the enclave when it starts: ask it for MRENCLAVE"
        )
    return NoEnclaveInImage(
        f"no enclave among {count} files of {size} bytes; looked for: {_LOOKED_FOR}",
        place=str(path),
        hint=hint,
    )


def _plan(files: ImageFiles, file: FoundFile, folder: Path, copies: dict[Path, FoundFile]) -> _Taken:
    """Name what is copied for one enclave. Names are our own: those of the image may be anything."""
    if not is_plain(file.path):
        raise NoEnclaveInImage(f"an enclave has the name {file.path!r}, which no statement can hold")
    is_manifest = file.path.endswith(MANIFEST)
    path = folder / ("enclave.manifest.sgx" if is_manifest else "enclave")
    copies[path] = file
    stem = file.path.removesuffix(MANIFEST) if is_manifest else file.path.removesuffix(".sgxs")
    for name in (f"{file.path}.sig", f"{stem}.sig"):
        if name != file.path and files.exists(name):
            copies[folder / "enclave.sig"] = files.find(name)
            break
    libpal = _libpal(files) if is_manifest else None
    if libpal is None:
        return _Taken(file=file, path=path)
    copies[folder / "libpal.so"] = libpal
    return _Taken(file=file, path=path, libpal=folder / "libpal.so")


def _libpal(files: ImageFiles) -> FoundFile | None:
    """Find Gramine's loader: where it is by custom, else wherever there is just one."""
    for name in _LIBPALS:
        if files.exists(name):
            return files.find(name)
    others = list(files.ending(_LIBPAL))
    return others[0] if len(others) == 1 else None


def _format_of(path: Path) -> Format | None:
    try:
        found = detect(path, tee="sgx")
    except UnknownFormat:
        return None
    return found if found.lay_out else None


def _is_image(path: Path) -> bool:
    try:
        return detect(path, tee="oci").tee == "oci"
    except UnknownFormat:
        return False


def _options(one: _Taken, options: MeasureOptions, name: str) -> MeasureOptions:
    """Give the options that the enclave is laid out with: what is for others of the image is left out."""
    takes = one.found.takes if one.found else ()
    unused: dict[str, None] = (
        {} if options.inside else {f: None for f in ("sigstruct", "libpal") if f not in takes}
    )
    libpal = one.libpal if "libpal" in unused else options.libpal or one.libpal
    generation = options.generation if options.inside or "generation" in takes else ""
    return msgspec.structs.replace(
        options,
        name=name,
        inside="",
        image="",
        companions=True,
        libpal=libpal,
        sigstruct=None if "sigstruct" in unused else options.sigstruct,
        generation=generation,
    )


def _measure(files: ImageFiles, one: _Taken, options: MeasureOptions) -> Measured:
    if _is_image(one.path):
        raise NoEnclaveInImage(
            "this is an image inside an image", place=one.file.path, hint="take it out first"
        )
    inside = _options(one, options, f"{files.oci.subject.name}!{one.file.path}")
    measured = measure_enclave(one.path, inside)
    claims = files.oci.claims
    tie = Inside(
        image=files.oci.subject, manifest=str(claims.get("manifest", claims["config"])), path=one.file.path
    )
    made = []
    for measurement in measured.measurements:
        checks = (*measurement.checks, *_checks_of_kind(files, one))
        if not any(check.id == "binds-application" for check in checks):
            checks += (binding_check(files, one.file, one.path, lay_out(one.path, inside)[0]),)
        made.append(msgspec.structs.replace(measurement, checks=checks, inside=tie))
    return msgspec.structs.replace(measured, measurements=tuple(made))


def _checks_of_kind(files: ImageFiles, one: _Taken) -> tuple[Check, ...]:
    """Check what a kind of enclave binds beside its pages."""
    if one.file.path.endswith(MANIFEST):
        from pipeline.measure.sgx.in_image.trusted_files import trusted_files_check

        return (trusted_files_check(files, one.path),)
    from pipeline.measure.sgx.in_image.occlum import is_occlum, occlum_checks

    return occlum_checks(files, one.file, one.path) if is_occlum(one.path) else ()


def _rename(error: RvpError, scratch: Path, path: Path, one: _Taken) -> None:
    """Name the file as the user knows it, not its copy."""
    if error.place.startswith(str(scratch)):
        error.place = f"{path}!{one.file.path}" + error.place[len(str(one.path)) :]
