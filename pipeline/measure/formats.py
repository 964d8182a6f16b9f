"""The table of formats: what a file is, is seen from its content; its measurer is loaded when it is needed.

A new format is one new file with a measurer and one line here. The first line that recognises a file wins.

Example:
    >>> [one.name for one in FORMATS if one.tee == "oci"]
    ['oci-layout', 'oci-archive']
"""

from __future__ import annotations

import difflib
import importlib
import mmap
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

import msgspec

from pipeline.measure.file_kind import look
from pipeline.measure.measured import Measured, MeasureOptions, OptionNotTaken
from provenance.claims import Tee
from provenance.errors import UsageError
from provenance.strict import NotReadable, read_file

_HEAD_BYTES: Final = 4096
_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_INSIDE: Final = "!/"
_NO_SECTION: Final = " without an enclave's section (.note.sgxmeta of Intel's SDK, .oeinfo of Open Enclave)"

# What people call these formats, where a TEE is asked for.
_CALLED: Final = {"uki": "tpm", "eif": "nitro"}

Measurer = Callable[[Path, MeasureOptions], Measured]


class UnknownFormat(UsageError):
    """What a file is cannot be seen from its content, or it is not what the command was told.

    Cure: check the path; `rvp measure --help` lists what can be measured.
    """

    code = "RVP-5000"


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a format is recognised by: the path, and the first bytes of a file (none of a folder)."""

    path: Path
    start: bytes
    size_bytes: int


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """One format.

    Attributes:
        name: short and stable.
        tee: whose claims it gives.
        title: what it is, in words.
        recognises: looks at a file; cheap, and never raises for a file that is something else.
        measurer: `module:function`, loaded when it is called.
        lay_out: of an SGX enclave `module:function`: gives its pages; the measurer is the same for all.
        takes: the options that it has a use for, as fields of `MeasureOptions`.
    """

    name: str
    tee: Tee
    title: str
    recognises: Callable[[Head], bool]
    measurer: str = "pipeline.measure.sgx.enclave:measure_enclave"
    lay_out: str = ""
    takes: tuple[str, ...] = ()


def _is_sdk_enclave(head: Head) -> bool:
    if not head.start.startswith(b"\x7fELF"):
        return False
    from pipeline.measure.sgx.elf import BadElf, Elf, map_file
    from pipeline.measure.sgx.sdk.metadata import NOTE_SECTION

    data = map_file(head.path)
    try:
        return Elf(data).section(NOTE_SECTION) is not None
    except BadElf:  # a damaged enclave is still one: its measurer says what is wrong
        return isinstance(data.obj, mmap.mmap) and data.obj.find(b"sgx_metadata\0") >= 0


def _is_open_enclave(head: Head) -> bool:
    if not head.start.startswith(b"\x7fELF"):
        return False
    from pipeline.measure.sgx.elf import BadElf, Elf, map_file

    data = map_file(head.path)
    try:
        return Elf(data).section(".oeinfo") is not None
    except BadElf:  # a damaged enclave is still one: its reader says what is wrong
        return isinstance(data.obj, mmap.mmap) and data.obj.find(b"\0.oeinfo\0") >= 0


def _is_ego(head: Head) -> bool:
    if not head.start.startswith(b"\x7fELF"):
        return False
    from pipeline.measure.sgx.open_enclave.ego import is_ego_file

    return is_ego_file(head.path)


def _is_sgxs(head: Head) -> bool:
    return head.start[:8] in {b"ECREATE\0", b"UNSIZED\0"}


def _is_sigstruct(head: Head) -> bool:
    from pipeline.measure.sgx.sigstruct import has_sigstruct_header

    return has_sigstruct_header(head.start)


def _is_gramine(head: Head) -> bool:
    if not _is_text(head):
        return False
    from pipeline.measure.sgx.gramine.manifest import MAX_BYTES, looks_like_manifest

    return head.size_bytes <= MAX_BYTES and looks_like_manifest(read_file(head.path))


def _is_page_list(head: Head) -> bool:
    from pipeline.measure.sgx.page_list.reader import looks_like_page_list

    return _is_text(head) and looks_like_page_list(head.start)


def _is_text(head: Head) -> bool:
    return bool(head.start) and not _CONTROLS.search(head.start)


def _is_firmware(head: Head) -> bool:
    from pipeline.measure.ovmf import is_firmware_file

    return head.size_bytes > 0 and is_firmware_file(head.path)


def _is_layout_folder(head: Head) -> bool:
    return head.path.is_dir() and (head.path / "oci-layout").is_file()


def _is_tar(head: Head) -> bool:
    return head.start[257:262] == b"ustar"


def _is_tdvf(head: Head) -> bool:
    from pipeline.measure.tdx.tdvf import is_tdvf_file

    return bool(head.start) and is_tdvf_file(head.path)


def _is_image(head: Head) -> bool:
    return _is_layout_folder(head) or _is_tar(head)


def _is_uki(head: Head) -> bool:
    if not head.start.startswith(b"MZ"):
        return False
    from pipeline.measure.boot.pe import BadPe
    from pipeline.measure.boot.uki import looks_like_uki
    from pipeline.measure.sgx.elf import map_file

    try:
        return looks_like_uki(map_file(head.path))
    except BadPe:  # a damaged one is still one: its reader says what is wrong
        return b".linux\0\0" in head.start


def _is_eif(head: Head) -> bool:
    return head.start.startswith(b".eif")


FORMATS: Final[tuple[Format, ...]] = (
    Format(
        name="sgx-sdk",
        tee="sgx",
        title="Intel SGX enclave (SDK layout)",
        recognises=_is_sdk_enclave,
        lay_out="pipeline.measure.sgx.sdk.enclave:lay_out_sdk",
        takes=("sigstruct", "config", "generation"),
    ),
    Format(
        name="sgx-ego",
        tee="sgx",
        title="Intel SGX enclave (EGo program)",
        recognises=_is_ego,
        lay_out="pipeline.measure.sgx.open_enclave.ego:lay_out_ego",
        takes=("sigstruct", "config", "libpal", "generation"),
    ),
    Format(
        name="sgx-open-enclave",
        tee="sgx",
        title="Intel SGX enclave (Open Enclave)",
        recognises=_is_open_enclave,
        lay_out="pipeline.measure.sgx.open_enclave.enclave:lay_out_open_enclave",
        takes=("sigstruct", "config", "generation"),
    ),
    Format(
        name="sgxs",
        tee="sgx",
        title="Intel SGX enclave (SGXS stream)",
        recognises=_is_sgxs,
        lay_out="pipeline.measure.sgx.sgxs:lay_out_sgxs",
        takes=("sigstruct",),
    ),
    Format(
        name="sigstruct",
        tee="sgx",
        title="Intel SGX SIGSTRUCT",
        recognises=_is_sigstruct,
        measurer="pipeline.measure.sgx.sigstruct_file:measure_sigstruct",
        takes=("sigstruct",),  # to refuse it in words of its own
    ),
    Format(
        name="gramine",
        tee="sgx",
        title="Gramine enclave (manifest)",
        recognises=_is_gramine,
        lay_out="pipeline.measure.sgx.gramine.enclave:lay_out_gramine",
        takes=("sigstruct", "manifest", "libpal", "generation"),
    ),
    Format(
        name="page-list",
        tee="sgx",
        title="Intel SGX enclave (page list)",
        recognises=_is_page_list,
        lay_out="pipeline.measure.sgx.page_list.reader:lay_out_page_list",
        takes=("sigstruct",),
    ),
    Format(
        name="oci-layout",
        tee="oci",
        title="container image (OCI layout)",
        recognises=_is_layout_folder,
        measurer="pipeline.measure.oci:measure_image",
    ),
    Format(
        name="oci-archive",
        tee="oci",
        title="container image (archive)",
        recognises=_is_tar,
        measurer="pipeline.measure.oci:measure_image",
    ),
    Format(
        name="sgx-in-image",
        tee="sgx",
        title="Intel SGX enclaves in a container image",
        recognises=_is_image,
        measurer="pipeline.measure.sgx.in_image.enclave:measure_in_image",
        lay_out="pipeline.measure.sgx.in_image.enclave:lay_out_in_image",
        takes=("sigstruct", "config", "libpal", "generation", "image"),
    ),
    Format(
        name="tdvf",
        tee="tdx",
        title="firmware of an Intel TDX trust domain",
        recognises=_is_tdvf,
        measurer="pipeline.measure.tdx.measure:measure_firmware",
    ),
    Format(
        name="ovmf-snp",
        tee="snp",
        title="SEV-SNP guest",
        recognises=_is_firmware,
        measurer="pipeline.measure.snp.measurement:measure_snp",
    ),
    Format(
        name="uki",
        tee="tpm",
        title="unified kernel image (UKI)",
        recognises=_is_uki,
        measurer="pipeline.measure.boot.uki:measure_uki",
    ),
    Format(
        name="eif",
        tee="nitro",
        title="AWS Nitro enclave image (EIF)",
        recognises=_is_eif,
        measurer="pipeline.measure.eif:measure_eif",
    ),
)


def detect(path: Path, *, tee: str | None = None, options: MeasureOptions | None = None) -> Format:
    """Find out what a file is.

    Args:
        path: file or folder.
        tee: only look at formats of this TEE.
        options: a Gramine manifest in them says that the file belongs to that enclave, whatever it is.

    Raises:
        NotReadable: RVP-1010. UnknownFormat: RVP-5000.
    """
    known = sorted({one.tee for one in FORMATS} | _CALLED.keys())
    tee = _CALLED.get(tee, tee) if tee else tee
    if tee is not None and tee not in known:
        near = difflib.get_close_matches(tee, known, n=1)
        proposal = f', did you mean "{near[0]}"?' if near else ""
        raise UnknownFormat(f'nothing here measures "{tee}"{proposal}', hint=f"known: {', '.join(known)}")
    image, inside = split_inside(path)
    if inside and tee not in {None, "sgx"}:
        raise UnknownFormat(
            f"a file in an image is measured as an enclave, not as {tee}",
            place=str(path),
            hint=f"name {image}",
        )
    if inside:
        tee = "sgx"
    head = _head(image)
    if options is not None and options.manifest is not None and tee in {None, "sgx"} and not inside:
        return next(one for one in FORMATS if one.name == "gramine")
    for one in FORMATS:
        if (tee is None or one.tee == tee) and one.recognises(head):
            return one
    raise _unknown(path, image, head, tee)


def _unknown(path: Path, image: Path, head: Head, tee: str | None) -> UnknownFormat:
    other = next((one for one in FORMATS if one.recognises(head)), None) if tee else None
    if other is not None:
        return UnknownFormat(
            f"this is of another kind than {tee}: {other.title}", place=str(path), hint=f"rvp measure {path}"
        )
    found = look(image)
    what = f"{found.what}{_NO_SECTION if found.what == 'an ELF file' else ''}"
    titles = (one.title.rstrip(")").split(" (") for one in FORMATS if tee is None or one.tee == tee)
    kinds: dict[str, list[str]] = {}
    for name, *of in titles:
        kinds.setdefault(name, []).extend(of)
    known = "; ".join(f"{name} ({', '.join(of)})" if of else name for name, of in kinds.items())
    return UnknownFormat(
        f"nothing here measures this: {what}", place=str(path), hint=found.hint or f"known: {known}"
    )


OPTIONS: Final = ("sigstruct", "config", "manifest", "libpal", "generation", "image")


def given(options: MeasureOptions) -> tuple[str, ...]:
    """Name the options that were given and that not every format has a use for."""
    return tuple(name for name in OPTIONS if getattr(options, name) not in {None, ""})


def is_in_image(path: Path) -> bool:
    """Tell whether a path names a container image or a file in one.

    Raises:
        UnknownFormat: RVP-5000. NotReadable: RVP-1010.
    """
    return bool(split_inside(path)[1]) or detect(path, tee="sgx").name == "sgx-in-image"


def require_taken(found: Format, options: MeasureOptions, path: Path) -> None:
    """Check that a format has a use for every option that was given.

    Raises:
        OptionNotTaken: RVP-5014.
    """
    unused = [name for name in given(options) if name not in found.takes]
    if not unused:
        return
    takers = "; ".join(one.title for one in FORMATS if unused[0] in one.takes)
    listed = ", ".join(f"--{name}" for name in unused)
    raise OptionNotTaken(
        f"{listed}: {found.title} has no use for it", place=str(path), hint=f"--{unused[0]} is for: {takers}"
    )


def _head(path: Path) -> Head:
    try:
        if path.is_dir():
            return Head(path=path, start=b"", size_bytes=0)
        with path.open("rb") as stream:
            start = stream.read(_HEAD_BYTES)
            return Head(path=path, start=start, size_bytes=stream.seek(0, 2))
    except OSError as error:
        name, mark, inside = str(path).partition("!")
        in_image = mark and not inside.startswith("/") and Path(name).exists()
        raise NotReadable(
            f"cannot read the file: {error.strerror}",
            place=str(path),
            hint=f"a path in an image begins with a slash: '{name}!/{inside}'"
            if in_image
            else "check the path",
        ) from error


def measure_file(path: Path, *, tee: str | None = None, options: MeasureOptions | None = None) -> Measured:
    """Measure a file or an image folder, whatever it is.

    Raises:
        UnknownFormat: RVP-5000, and what the measurer raises (RVP-50nn, RVP-51nn).
    """
    options = options or MeasureOptions()
    image, inside = split_inside(path)
    if inside:
        options = msgspec.structs.replace(options, inside=inside)
    module, _, function = detect(path, tee=tee, options=options).measurer.partition(":")
    measurer = cast("Measurer", getattr(importlib.import_module(module), function))
    return measurer(image, options)


def split_inside(path: Path) -> tuple[Path, str]:
    """Split `image.tar!/opt/enclave.so` into the image and the path in it.

    Returns:
        The path as it is, and nothing, when it names a file of its own.
    """
    text = str(path)
    at = text.find(_INSIDE)
    while at > 0 and not path.exists():
        if Path(text[:at]).exists():
            return Path(text[:at]), text[at + 1 :]
        at = text.find(_INSIDE, at + 1)
    return path, ""
