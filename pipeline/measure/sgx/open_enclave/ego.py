"""EGo programs: a Go binary, signed, that Edgeless RT links into its own enclave (`ego-enclave`).

    enclave = ego-enclave (main image) + the program (linked in) + its configuration (JSON, read only)

Three things are measured: the runtime `ego-enclave` of the EGo release that signed the program, which is not
in the program's file; the program; and the configuration that `ego sign` appended to it. The program's
`.oeinfo` (4096 bytes that the compiler reserved) holds the properties and the SIGSTRUCT, as the runtime's
would; at 0x800 it holds where in the file the configuration lies.

Source: Edgeless RT 0.2.4 to 0.5.2 (its patch of Open Enclave), EGo's `sign.go` and `elf.go`.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Final

import msgspec

from pipeline.measure.measured import MeasureOptions
from pipeline.measure.sgx.elf import BadElf, Elf, map_file
from pipeline.measure.sgx.enclave import Enclave
from pipeline.measure.sgx.enclave_image import PAGE
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.open_enclave.config import BadOpenEnclaveConfig, Conf, merge, read_conf
from pipeline.measure.sgx.open_enclave.enclave import (
    Parts,
    choose_layout,
    generations_of,
    guessed,
    is_signed,
    lay_out_as,
    properties_of,
)
from pipeline.measure.sgx.open_enclave.image import LoadedImage
from pipeline.measure.sgx.open_enclave.link import MissingModule
from pipeline.measure.sgx.open_enclave.properties import SECTION, BadOpenEnclave, Properties
from pipeline.measure.sgx.open_enclave.sign import fields_of, own_properties, with_properties
from pipeline.measure.sgx.sigstruct import SIGSTRUCT_SIZE, Sigstruct
from pipeline.measure.sgx.unsigned import Unsigned

RUNTIME_NAME: Final = "ego-enclave"
_PAYLOAD_AT: Final = 0x800
_PAYLOAD: Final = struct.Struct("<QQ")  # file offset, size
_MAX_PAYLOAD: Final = 1 << 30
_STACK_PAGES, _THREADS = 1024, 32  # what `ego sign` always asks for
_PAGES_OF_MIB: Final = 256
_MAX_HEAP_MIB: Final = 1 << 26


class EgoSettings(msgspec.Struct, frozen=True, rename="camel"):
    """What `enclave.json` says of the enclave's layout; the rest of it is data for the program."""

    heap_size: int
    debug: bool = False
    executable_heap: bool = False
    product_id: int = msgspec.field(default=0, name="productID")
    security_version: int = 0


def is_ego_program(elf: Elf) -> bool:
    """Tell whether a file with `.oeinfo` is a program for `ego-enclave`, not an enclave of its own."""
    section = elf.section(SECTION)
    return (
        section is not None
        and section.size >= _PAYLOAD_AT + _PAYLOAD.size
        and "_enclave_rva" not in LoadedImage(elf).symbols
    )


def is_ego_file(path: Path) -> bool:
    """Tell whether a file is an EGo program.

    Raises:
        NotReadable: RVP-1010.
    """
    try:
        return is_ego_program(Elf(map_file(path)))
    except (BadElf, BadOpenEnclave):
        return False


def lay_out_ego(path: Path, options: MeasureOptions) -> tuple[Enclave, ...]:
    """Lay out a signed EGo program with its runtime.

    Raises:
        BadOpenEnclave: RVP-5030. MissingModule: RVP-5031. BadOpenEnclaveConfig: RVP-5032. BadElf: RVP-5001.
    """
    program = Elf(map_file(path), name=str(path))
    if options.config is not None and not is_signed(program):
        return (msgspec.structs.replace(lay_out_unsigned_ego(path, options).enclave, by_config=True),)
    parts = _parts(path, options, properties_of(program))
    return (_described(choose_layout(parts, options.generation), parts),)


def _parts(path: Path, options: MeasureOptions, properties: Properties) -> Parts:
    program = Elf(map_file(path), name=str(path))
    runtime = _runtime(path, options)
    return Parts(
        path=runtime,
        main=Elf(map_file(runtime), name=str(runtime)),
        properties=properties,
        program=program,
        payload=_payload(program),
    )


def _runtime(path: Path, options: MeasureOptions) -> Path:
    runtime = options.libpal
    if runtime is None and options.companions:
        runtime = path.parent / RUNTIME_NAME
    if runtime is None or not runtime.is_file():
        raise MissingModule(
            f"an EGo program is a part of an enclave: the other part is {RUNTIME_NAME}",
            place=str(path),
            hint=f"give the {RUNTIME_NAME} of the EGo release that signed it with --runtime, "
            "or put it into the program's folder",
        )
    return runtime


def _payload(program: Elf) -> memoryview:
    image = LoadedImage(program)
    section, data = image.info_section, image.info_bytes(PAGE)
    if len(data) < _PAYLOAD_AT + _PAYLOAD.size:
        raise BadOpenEnclave(f"{SECTION} has {len(data)} bytes, no payload", place=program.name)
    at, size = _PAYLOAD.unpack_from(data, _PAYLOAD_AT)
    place = f"{program.name}: byte {section.offset + _PAYLOAD_AT:#x}"
    if (at == 0) != (size == 0):
        raise BadOpenEnclave(f"payload offset {at:#x} with payload size {size:#x}", place=place)
    if size > _MAX_PAYLOAD or at + size > len(program.data):
        raise BadOpenEnclave(
            f"payload: {size:#x} bytes at {at:#x}, the file has {len(program.data):#x}", place=place
        )
    return program.data[at : at + size]


def _described(enclave: Enclave, parts: Parts) -> Enclave:
    release = enclave.layout.removeprefix("Open Enclave ")
    facts = {
        **enclave.facts,
        "sdk": f"EGo (Open Enclave {release})",
        "payload_bytes": len(parts.payload),
        "runtime_sha256": hashlib.sha256(parts.main.data).hexdigest(),
    }
    return msgspec.structs.replace(enclave, layout=f"EGo (Open Enclave {release})", facts=facts)


def lay_out_unsigned_ego(path: Path, options: MeasureOptions) -> Unsigned:
    """Lay out an EGo program for signing, or for signing again.

    The configuration is `enclave.json`, or a `.conf` as EGo makes one of it; the program must have it
    embedded already, since what is embedded is measured.

    Raises:
        BadOpenEnclave: RVP-5030. MissingModule: RVP-5031. BadOpenEnclaveConfig: RVP-5032. BadElf: RVP-5001.
    """
    if options.config is None:
        raise BadOpenEnclaveConfig(
            "an EGo program is laid out by its configuration",
            place=str(path),
            hint="give --config enclave.json",
        )
    conf = _conf(options.config, options.config_name)
    runtime = _runtime(path, options)
    parts = _parts(path, options, own_properties(Elf(map_file(runtime), name=str(runtime))))
    program = parts.program or parts.main
    if not parts.payload:
        raise BadOpenEnclaveConfig(
            "the program has no configuration embedded, and what is embedded is measured",
            place=str(path),
            hint="run `ego sign` once, with any key; then sign again here",
        )
    candidates = generations_of(parts, options.generation)
    generation = candidates[0]
    properties = msgspec.structs.replace(
        merge(parts.properties, conf, generation, name=options.config_name),
        sigstruct=bytes(SIGSTRUCT_SIZE),
    )
    laid_out = msgspec.structs.replace(parts, properties=properties)
    enclave = guessed(_described(lay_out_as(laid_out, generation), laid_out), candidates)
    fields = fields_of(properties, generation, mrenclave(enclave.image))

    def write(signed: Sigstruct | None) -> bytes:
        return with_properties(program, properties, fields, signed)

    return Unsigned(enclave=enclave, fields=fields, write=write)


def _conf(data: bytes, name: str) -> Conf:
    if not data.lstrip().startswith(b"{"):
        return read_conf(data, name=name)
    try:
        settings = msgspec.json.decode(data, type=EgoSettings)
    except msgspec.DecodeError as error:  # a wrong type is one, too
        raise BadOpenEnclaveConfig(str(error), place=name) from error
    if not 0 < settings.heap_size <= _MAX_HEAP_MIB:
        raise BadOpenEnclaveConfig(f"heapSize is {settings.heap_size} MiB", place=name)
    for key, value in (("productID", settings.product_id), ("securityVersion", settings.security_version)):
        if not 0 <= value < 1 << 16:
            raise BadOpenEnclaveConfig(f"{key} is {value}, at most 65534", place=name)
    return Conf(
        debug=int(settings.debug),
        heap_pages=settings.heap_size * _PAGES_OF_MIB,
        stack_pages=_STACK_PAGES,
        threads=_THREADS,
        product_id=settings.product_id,
        security_version=settings.security_version,
        executable_heap=1 if settings.executable_heap else None,
    )
