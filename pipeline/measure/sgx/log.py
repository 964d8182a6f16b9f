"""The measurement log of MRENCLAVE: runs of pages with labels, and the fold back.

Operations of the log:
    ECREATE        length: SECS.SIZE, flags: SSAFRAMESIZE
    EADD           pages that are added and not measured
    EADD+EEXTEND   pages that are added and measured whole, in order
    EEXTEND        256-byte chunks measured one by one

`content` is the SHA-256 of the plain content of the whole run. A log without the content can be compared;
with the content (`content_of`) it folds to MRENCLAVE again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from pipeline.measure.sgx.enclave_image import CHUNK, PAGE, Bytes, Chunks, EnclaveImage, Pages, Part
from pipeline.measure.sgx.hashing import mrenclave
from provenance.errors import MeasurementMismatch
from provenance.measurement_log import LogEvent, MeasurementLog

ECREATE: Final = "ECREATE"
ADDED: Final = "EADD"
MEASURED: Final = "EADD+EEXTEND"
EXTENDED: Final = "EEXTEND"
_FILL_PAGES: Final = 256


class LogDoesNotFold(MeasurementMismatch):
    """A measurement log, folded again over its content, does not give the value that it states.

    Cure: the log or the content was changed; measure the file again.
    """

    code = "RVP-5009"


def write_log(image: EnclaveImage, value: bytes) -> MeasurementLog:
    """Write the log of an enclave whose MRENCLAVE is `value`; neighbouring equal runs become one event.

    Cost: one SHA-256 pass over the measured content.
    """
    events = [LogEvent(op=ECREATE, length=image.size_bytes, flags=image.ssa_frame_size)]
    events += _events(image.parts)
    return MeasurementLog(
        tee="sgx", register="mrenclave", algorithm="sha256", value=value.hex(), events=tuple(events)
    )


def _events(parts: Iterable[Part]) -> Iterator[LogEvent]:
    group: list[Part] = []
    for part in parts:
        if group and not _continues(group[-1], part):
            yield _event(group)
            group = []
        group.append(part)
    if group:
        yield _event(group)


def _continues(before: Part, part: Part) -> bool:
    if isinstance(before, Pages) and isinstance(part, Pages):
        return part.address == before.address + before.count * PAGE and (
            part.flags,
            part.label,
            part.is_measured,
        ) == (before.flags, before.label, before.is_measured)
    return (
        isinstance(before, Chunks)
        and isinstance(part, Chunks)
        and part.address == before.address + len(before.content)
    )


def _event(group: list[Part]) -> LogEvent:
    first = group[0]
    hashing = hashlib.sha256()
    count = 0
    for part in group:
        if isinstance(part, Chunks):
            count += len(part.content) // CHUNK
            hashing.update(part.content)
        else:
            count += part.count
            if part.is_measured:
                _hash_content(hashing.update, part)
    if isinstance(first, Chunks):
        op, flags, length = EXTENDED, 0, CHUNK
    else:
        op, flags, length = (MEASURED if first.is_measured else ADDED), first.flags, PAGE
    return LogEvent(
        op=op,
        address=first.address,
        length=length,
        flags=flags,
        content="" if op == ADDED else hashing.hexdigest(),
        label=first.label,
        count=count,
        stride=length if count > 1 else 0,
    )


def _hash_content(update: Callable[[Bytes], object], part: Pages) -> None:
    if not part.is_filled:
        update(part.content)
        return
    many = bytes(part.content) * min(part.count, _FILL_PAGES)
    for start in range(0, part.count, _FILL_PAGES):
        update(many[: min(_FILL_PAGES, part.count - start) * PAGE])


def fold_log(log: MeasurementLog, content_of: Callable[[LogEvent], Bytes]) -> bytes:
    """Fold a log to MRENCLAVE again.

    Args:
        log: what `write_log` wrote.
        content_of: gives the plain content of an event that has a content digest.

    Raises:
        LogDoesNotFold: RVP-5009, for content with another digest or length, or another value at the end.
    """
    first = log.events[0] if log.events else LogEvent(op="nothing")
    if first.op != ECREATE:
        raise LogDoesNotFold(f"the log begins with {first.op}, expected {ECREATE}")

    def parts() -> Iterator[Part]:
        for event in log.events[1:]:
            content: Bytes = b""
            if event.content:
                content = content_of(event)
                got = hashlib.sha256(content).hexdigest()
                if got != event.content or len(content) != event.count * event.length:
                    raise LogDoesNotFold(
                        f"{event.op} at {event.address:#x} ({event.label}): the content has sha256 {got}, "
                        f"the log says {event.content}"
                    )
            if event.op == EXTENDED:
                yield Chunks(address=event.address, content=content, label=event.label)
            elif event.op in {ADDED, MEASURED} and bool(content) == (event.op == MEASURED):
                yield Pages(
                    address=event.address,
                    count=event.count,
                    flags=event.flags,
                    content=content,
                    label=event.label,
                )
            else:
                raise LogDoesNotFold(f"{event.op} at {event.address:#x} is not an event of MRENCLAVE")

    value = mrenclave(EnclaveImage(size_bytes=first.length, ssa_frame_size=first.flags, parts=parts()))
    if value.hex() != log.value:
        raise LogDoesNotFold(f"the log folds to {value.hex()}, it states {log.value}")
    return value
