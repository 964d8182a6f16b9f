"""Lay out an SDK-style enclave file: one enclave for each of its metadata records."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pipeline.measure.measured import MeasureOptions, OptionNotTaken
from pipeline.measure.sgx.elf import Elf, map_file
from pipeline.measure.sgx.enclave import Enclave, MappedElf
from pipeline.measure.sgx.sdk.layout import appended_elves, enclave_image
from pipeline.measure.sgx.sdk.metadata import Record, is_laid_out, read_metadata
from pipeline.measure.sgx.sigstruct import Sigstruct


def lay_out_sdk(path: Path, options: MeasureOptions) -> tuple[Enclave, ...]:
    """Lay out an enclave file with SDK metadata.

    Args:
        path: a signed enclave, or the file that the linker wrote.
        options: `config` for a file that is not signed, perhaps `generation`.

    Raises:
        OptionNotTaken: RVP-5014. BadElf: RVP-5001. BadSgxMetadata: RVP-5002;
            and what `lay_out_unsigned` raises.
    """
    elf = Elf(map_file(path), name=str(path))
    if options.config is not None and not is_laid_out(elf):
        from pipeline.measure.sgx.sdk.sign import is_sdk_enclave, lay_out_object
        from pipeline.measure.sgx.unsigned import lay_out_unsigned

        if is_sdk_enclave(path):
            enclaves = lay_out_object(elf, options)
        else:
            enclaves = (lay_out_unsigned(path, options).enclave,)
        return tuple(msgspec.structs.replace(one, by_config=True) for one in enclaves)
    if options.generation and options.config is None:
        raise OptionNotTaken(
            "--generation belongs to --config: what is laid out already says how",
            place=str(path),
            hint="leave it out, or give the configuration as well: they are compared with the file",
        )
    return tuple(enclave_of_record(elf, record) for record in read_metadata(elf))


def enclave_of_record(elf: Elf, record: Record) -> Enclave:
    """Lay out what one metadata record describes."""
    base = record.elrange[0] - record.elrange[1] if record.elrange else 0
    return Enclave(
        layout=f"SDK metadata {record.version}",
        image=enclave_image(elf, record),
        sigstruct=Sigstruct(record.sigstruct, name=elf.name),
        elves=(
            MappedElf(elf=elf, base=base),
            *(
                MappedElf(elf=one, base=base + module.address)
                for one, module in zip(appended_elves(elf, record), record.modules, strict=True)
            ),
        ),
        facts={"metadata": record.version, "enclave_size": record.enclave_size},
    )
