"""The measurement log of MRTD: runs of pages with the names of their sections, and the fold back.

Operations of the log:
    PAGE.ADD             pages that are added and not measured
    PAGE.ADD+MR.EXTEND   pages that are added and extended one after the other (single pass)
    MR.EXTEND            pages that are extended after all of their section were added (two pass)

A measured page is an event, equal neighbours are one: two logs alone name the first page that differs.
`content` is the SHA-256 of the plain content of the whole run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Final

from pipeline.measure.ovmf import PAGE
from pipeline.measure.tdx.mrtd import CHUNK, MR_EXTEND, PAGE_ADD, PageOrder
from pipeline.measure.tdx.tdvf import Section, Tdvf
from provenance.errors import MeasurementMismatch
from provenance.measurement_log import LogEvent, MeasurementLog

ADDED: Final = "PAGE.ADD"
MEASURED: Final = "PAGE.ADD+MR.EXTEND"
EXTENDED: Final = "MR.EXTEND"


class TdxLogDoesNotFold(MeasurementMismatch):
    """A log of MRTD or of an RTMR, folded again, does not give the value that it states.

    Cure: the log or the content was changed; measure the firmware again.
    """

    code = "RVP-5202"


def write_mrtd_log(tdvf: Tdvf, data: bytes | memoryview, order: PageOrder, value: bytes) -> MeasurementLog:
    """Write the log of a firmware whose MRTD is `value`."""
    events: list[LogEvent] = []
    for section in tdvf.sections:
        if not section.is_added or not section.size:
            continue
        if not section.is_measured or order is PageOrder.TWO_PASS:
            events.append(
                LogEvent(
                    op=ADDED,
                    address=section.address,
                    length=PAGE,
                    label=section.kind.name,
                    count=section.size // PAGE,
                    stride=PAGE,
                )
            )
        if section.is_measured:
            events += _measured(section, data, MEASURED if order is PageOrder.SINGLE_PASS else EXTENDED)
    return MeasurementLog(
        tee="tdx", register="mrtd", algorithm="sha384", value=value.hex(), events=tuple(events)
    )


def _measured(section: Section, data: bytes | memoryview, op: str) -> Iterator[LogEvent]:
    for address, count, page in _equal_runs(section, data):
        yield LogEvent(
            op=op,
            address=address,
            length=PAGE,
            content=hashlib.sha256(page * count).hexdigest(),
            label=section.kind.name,
            count=count,
            stride=PAGE,
        )


def _equal_runs(section: Section, data: bytes | memoryview) -> Iterator[tuple[int, int, bytes]]:
    content = section.content(data)
    pages = section.size // PAGE
    start, page = 0, bytes(content[:PAGE]).ljust(PAGE, b"\0")
    for number in range(1, pages):
        other = bytes(content[number * PAGE : (number + 1) * PAGE]).ljust(PAGE, b"\0")
        if other != page:
            yield section.address + start * PAGE, number - start, page
            start, page = number, other
    yield section.address + start * PAGE, pages - start, page


def fold_mrtd_log(log: MeasurementLog, content_of: Callable[[LogEvent], bytes]) -> bytes:
    """Fold a log over its content, record by record.

    Args:
        log: of MRTD.
        content_of: gives the content of all pages of an event.

    Raises:
        TdxLogDoesNotFold: RVP-5202.
    """
    hashing = hashlib.sha384()
    for event in log.events:
        content = content_of(event) if event.content else b""
        if event.content and hashlib.sha256(content).hexdigest() != event.content:
            raise TdxLogDoesNotFold(
                f"the content of {event.label} at {event.address:#x} is not the one of the log",
                place=log.register,
            )
        for number in range(event.count):
            address = event.address + number * event.stride
            if event.op != EXTENDED:
                hashing.update(_record(PAGE_ADD, address))
            if not event.content:
                continue
            for at in range(0, PAGE, CHUNK):
                hashing.update(_record(MR_EXTEND, address + at))
                hashing.update(content[number * PAGE + at : number * PAGE + at + CHUNK])
    if hashing.hexdigest() != log.value:
        raise TdxLogDoesNotFold(
            f"the log of {log.register} folds to {hashing.hexdigest()}, it states {log.value}",
            place=log.register,
        )
    return hashing.digest()


def _record(name: bytes, address: int) -> bytes:
    return name.ljust(16, b"\0") + address.to_bytes(8, "little") + bytes(104)
