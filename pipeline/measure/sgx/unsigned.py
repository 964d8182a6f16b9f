"""Lay out an enclave that nobody has signed yet, so that its owner can: one function for every kind.

| the file | the configuration | laid out by |
|---|---|---|
| freestanding ELF (marker `rvpencl1`) | `enclave.toml`, or the SDK's XML | `freestanding` |
| Gramine's manifest | is its own | `gramine` |
| Open Enclave ELF (section `.oeinfo`) | `oesign`'s `.conf` | `open_enclave` |
| ELF of Intel's SDK | the SDK's XML | `sdk` |
| EGo program | `enclave.json`, or a `.conf` | `open_enclave.ego` |
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from pipeline.measure.file_kind import look
from pipeline.measure.measured import MeasureOptions, OptionNotTaken
from pipeline.measure.sgx.enclave import Enclave
from pipeline.measure.sgx.sigstruct import Sigstruct, SigstructFields


class Unsigned(msgspec.Struct, frozen=True, kw_only=True):
    """An enclave that is laid out and waits for its owner's signature.

    Attributes:
        enclave: its pages.
        fields: what the owner is to sign, MRENCLAVE included; the date is 1970-01-01, the caller sets it.
        write: gives the file of the enclave, with a SIGSTRUCT or without; of a format whose SIGSTRUCT lies
            beside the enclave, the SIGSTRUCT itself.
    """

    enclave: Enclave
    fields: SigstructFields
    write: Callable[[Sigstruct | None], bytes]


def _require(fulfilled: bool, message: str, path: Path) -> None:  # noqa: FBT001  the condition itself
    if not fulfilled:
        raise OptionNotTaken(f"{message}; leave it out", place=str(path))


def lay_out_unsigned(path: Path, options: MeasureOptions) -> Unsigned:
    """Lay out an enclave for signing.

    Args:
        path: what the linker wrote, or (to sign it again) what is laid out already.
        options: `config`, or `generation` and `libpal`, as the kind needs them.

    Raises:
        OptionNotTaken: RVP-5014, for an option that the kind has no use for. UnknownFormat: RVP-5000.
        BadEnclaveConfig: RVP-5007. CannotPack: RVP-5008; and what the readers raise (RVP-50nn).
    """
    from pipeline.measure.formats import UnknownFormat, split_inside
    from pipeline.measure.sgx.freestanding.pack import lay_out_freestanding
    from pipeline.measure.sgx.gramine.enclave import is_gramine, lay_out_gramine_unsigned
    from pipeline.measure.sgx.open_enclave.ego import is_ego_file, lay_out_unsigned_ego
    from pipeline.measure.sgx.open_enclave.sign import is_open_enclave, lay_out_unsigned_open_enclave
    from pipeline.measure.sgx.sdk.sign import is_sdk_enclave, lay_out_sdk_unsigned

    if split_inside(path)[1]:
        raise UnknownFormat(
            "an enclave is not signed inside an image",
            place=str(path),
            hint="sign the file, then build the image with it",
        )
    if options.manifest is not None or is_gramine(path):
        _require(options.config is None, "--config: a Gramine manifest is its own configuration", path)
        return lay_out_gramine_unsigned(path, options)
    if is_ego_file(path):
        return lay_out_unsigned_ego(path, options)
    _require(options.libpal is None, "--libpal is for Gramine's manifests and EGo's programs", path)
    if is_open_enclave(path):
        return lay_out_unsigned_open_enclave(path, options)
    if is_sdk_enclave(path):
        return lay_out_sdk_unsigned(path, options)
    found = look(path)
    if "ELF" not in found.what:
        raise UnknownFormat(
            f"nothing here lays this out for signing: {found.what}",
            place=str(path),
            hint=found.hint
            or "what can be signed: ELF files of Intel's SDK, Open Enclave, EGo, freestanding ones; "
            "a Gramine manifest",
        )
    return lay_out_freestanding(path, options)
