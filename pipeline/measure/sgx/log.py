"""The measurement log of MRENCLAVE: runs of pages with labels, and the fold back.

Operations of the log:
    ECREATE        length: SECS.SIZE, flags: SSAFRAMESIZE
    EADD           pages that are added and not measured
    EADD+EEXTEND   pages that are added and measured whole, in order
    EEXTEND        256-byte chunks measured one by one
    REPEAT         the last `flags` events again, `count` times, each time `length` bytes further

`content` is the SHA-256 of the plain content of the whole run; of a REPEAT, the SHA-256 of the content
digests (hex) of the events that it stands for. A log without the content can be compared; with it
(`content_of`) it folds to MRENCLAVE again.

Runs of plain content end where a section begins and at every multiple of N pages, N the smallest power of
two that keeps the log near 4096 events: in an enclave of up to 16 MiB each page is an event, so two logs
alone name the first page that differs. Pages that are all equal (stacks, zeros) are one event. REPEAT is
only written where threads alone would fill the log.
"""

from __future__ import annotations

import bisect
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from pipeline.measure.sgx.enclave_image import (
    CHUNK,
    PAGE,
    SECINFO_TCS,
    Bytes,
    Chunks,
    EnclaveImage,
    Pages,
    Part,
)
from pipeline.measure.sgx.equal_pages import equal_runs, is_plain, piece_of
from pipeline.measure.sgx.hashing import HEADER, MAX_STREAM, MEASURED_PAGE, mrenclave
from pipeline.measure.sgx.labels import Labels
from provenance.errors import MeasurementMismatch
from provenance.measurement_log import LogEvent, MeasurementLog

if TYPE_CHECKING:
    from pipeline.measure.sgx.enclave import MappedElf

ECREATE: Final = "ECREATE"
ADDED: Final = "EADD"
MEASURED: Final = "EADD+EEXTEND"
EXTENDED: Final = "EEXTEND"
REPEAT: Final = "REPEAT"
EVENTS: Final = 4096  # about so many, whatever the enclave's size
_FILL_PAGES: Final = 256
_MOST: Final = (1 << 63) - 1
_MOST_SSA: Final = (1 << 32) - 1
_MAX_PERIOD: Final = 16
_MAX_EXPANDED: Final = 1 << 20
_NUMBER: Final = re.compile(r"\d+(?=$|[,:])")


class LogDoesNotFold(MeasurementMismatch):
    """A measurement log, folded again over its content, does not give the value that it states.

    Cure: the log or the content was changed; measure the file again.
    """

    code = "RVP-5009"


def write_log(
    image: EnclaveImage, value: bytes, *, elves: Iterable[MappedElf] = (), events: int = EVENTS
) -> MeasurementLog:
    """Write the log of an enclave whose MRENCLAVE is `value`.

    Args:
        image: the enclave.
        value: its MRENCLAVE.
        elves: the ELF files in it, to name sections and symbols from.
        events: about how many events the log may have.

    Cost: one SHA-256 pass over the measured content; one binary search an event.
    """
    labels = Labels(elves)
    starts = [start & -PAGE for start in labels.section_starts]
    pages = _pages_of_an_event(image.parts, starts, events)
    found = [LogEvent(op=ECREATE, length=image.size_bytes, flags=image.ssa_frame_size)]
    found += _events(image.parts, starts, pages, labels)
    if len(found) > events:
        found = _repeated(found)
    return MeasurementLog(
        tee="sgx", register="mrenclave", algorithm="sha256", value=value.hex(), events=tuple(found)
    )


def _pages_of_an_event(parts: Iterable[Part], starts: list[int], events: int) -> int:
    """Choose how many pages of plain content one event covers: a power of two."""
    others = 0
    runs: list[tuple[int, int]] = []
    for part in parts:
        if isinstance(part, Pages) and is_plain(part) and part.count > 1:
            runs.append((part.address // PAGE, part.count))
        else:
            others += 1
    left = max(events - min(others, events // 2) - len(set(starts)), events // 8)
    pages = 1
    while sum((first + count - 1) // pages - first // pages + 1 for first, count in runs) > left and any(
        count > pages for _, count in runs
    ):
        pages *= 2
    return pages


def _cut(part: Part, starts: list[int], pages: int) -> Iterator[Part]:
    """Cut a run of plain content at sections and at multiples of `pages` pages."""
    if not isinstance(part, Pages) or not is_plain(part) or part.count == 1:
        yield part
        return
    at, end = part.address, part.address + part.count * PAGE
    block = pages * PAGE
    index = bisect.bisect_right(starts, at)
    while at < end:
        stop = min((at // block + 1) * block, end)
        while index < len(starts) and starts[index] <= at:
            index += 1
        if index < len(starts):
            stop = min(stop, starts[index])
        content = part.content[at - part.address : stop - part.address]
        yield piece_of(part, at, (stop - at) // PAGE, content)
        at = stop


def _events(parts: Iterable[Part], starts: list[int], pages: int, labels: Labels) -> Iterator[LogEvent]:
    group: list[Part] = []
    for run in equal_runs(parts):
        for part in _cut(run, starts, pages):
            if group and not _continues(group[-1], part, starts, pages):
                yield _event(group, labels)
                group = []
            group.append(part)
    if group:
        yield _event(group, labels)


def _continues(before: Part, part: Part, starts: list[int], pages: int) -> bool:
    """Tell whether a part belongs to the event of the one before: its block of pages, or chunks."""
    if isinstance(before, Pages) and isinstance(part, Pages):
        last = before.address + (before.count - 1) * PAGE
        return (
            part.address == last + PAGE
            and (part.flags, part.label) == (before.flags, before.label)
            and is_plain(before)
            and is_plain(part)
            and last // PAGE // pages == part.address // PAGE // pages
            and bisect.bisect_right(starts, last) == bisect.bisect_right(starts, part.address)
        )
    return (
        isinstance(before, Chunks)
        and isinstance(part, Chunks)
        and part.address == before.address + len(before.content)
    )


def _event(group: list[Part], labels: Labels) -> LogEvent:
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
    within = labels.names(first.address, first.address + count * length)
    return LogEvent(
        op=op,
        address=first.address,
        length=length,
        flags=flags,
        content="" if op == ADDED else hashing.hexdigest(),
        label=", ".join(filter(None, (first.label, within))),
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


# ---- threads that repeat ----------------------------------------------------------------------


def _repeated(events: list[LogEvent]) -> list[LogEvent]:
    """Put one REPEAT in place of threads that follow each other in equal steps."""
    found: list[LogEvent] = []
    at = 0
    while at < len(events):
        for period in range(1, _MAX_PERIOD + 1):
            times = _times(events, at, period)
            if times > 1 and any(one.flags == SECINFO_TCS for one in events[at : at + period]):
                block = events[at : at + period]
                stop = at + period * (times + 1)
                step = events[at + period].address - block[0].address
                found += [*block, _repeat(events[at + period : stop], period, times, step)]
                at = stop
                break
        else:
            found.append(events[at])
            at += 1
    return found


def _times(events: list[LogEvent], at: int, period: int) -> int:
    """Count how often the block at `at` is repeated behind it, in equal steps."""
    if at + 2 * period > len(events):
        return 0
    step = events[at + period].address - events[at].address
    times = 0
    while step > 0 and at + (times + 2) * period <= len(events):
        start = at + (times + 1) * period
        pairs = zip(events[at : at + period], events[start : start + period], strict=True)
        if not all(_same_shape(one, other, step * (times + 1)) for one, other in pairs):
            break
        times += 1
    return times


def _same_shape(one: LogEvent, other: LogEvent, distance: int) -> bool:
    return (
        other.address - one.address == distance
        and (one.op, one.flags, one.length, one.count) == (other.op, other.flags, other.length, other.count)
        and _NUMBER.sub("", one.label) == _NUMBER.sub("", other.label)
    )


def _repeat(events: list[LogEvent], period: int, times: int, step: int) -> LogEvent:
    first, last = events[0], events[-1]
    return LogEvent(
        op=REPEAT,
        address=first.address,
        length=step,
        flags=period,
        content=hashlib.sha256("".join(one.content for one in events).encode()).hexdigest(),
        label=f"{times} more threads: {first.label} to {last.label}",
        count=times,
        stride=step,
    )


# ---- the fold --------------------------------------------------------------------------------


def content_of(image: EnclaveImage) -> Callable[[LogEvent], Bytes]:
    """Give the function that finds the content of a log's events in an enclave.

    It returns what the enclave has at the event's place: for equal pages one page, for nothing nothing.
    """
    pages = sorted(
        (part for part in image.parts if isinstance(part, Pages) and part.is_measured),
        key=lambda one: one.address,
    )
    chunks = sorted((part for part in image.parts if isinstance(part, Chunks)), key=lambda one: one.address)
    starts = [one.address for one in pages], [one.address for one in chunks]

    def content(event: LogEvent) -> Bytes:
        parts, known = (chunks, starts[1]) if event.op == EXTENDED else (pages, starts[0])
        found: list[Bytes] = []
        at, end = event.address, event.address + event.count * event.length
        index = max(bisect.bisect_right(known, at) - 1, 0)
        for part in parts[index:]:
            size = len(part.content) if isinstance(part, Chunks) else part.count * PAGE
            if not part.address <= at < part.address + size:
                break
            stop = min(end, part.address + size)
            if isinstance(part, Pages) and part.is_filled:
                if at == event.address and stop == end:
                    return part.content
                found += [part.content] * ((stop - at) // PAGE)
            else:
                found.append(part.content[at - part.address : stop - part.address])
            at = stop
            if at == end:
                break
        return found[0] if len(found) == 1 else b"".join(found)

    return content


def fold_log(log: MeasurementLog, content_of: Callable[[LogEvent], Bytes]) -> bytes:
    """Fold a log to MRENCLAVE again.

    Args:
        log: what `write_log` wrote.
        content_of: gives the plain content of an event that has a content digest; one page for a run of
            pages that are all equal.

    Raises:
        LogDoesNotFold: RVP-5009, for content with another digest or length, or another value at the end.
    """
    first = log.events[0] if log.events else LogEvent(op="nothing")
    if first.op != ECREATE:
        raise LogDoesNotFold(f"the log begins with {first.op}, expected {ECREATE}")

    if not 0 <= first.length <= _MOST or not 0 <= first.flags <= _MOST_SSA:
        raise LogDoesNotFold(
            f"{ECREATE} has {first.length:#x} bytes and an SSA frame of {first.flags:#x} pages"
        )
    if sum(_stream_bytes(event) for event in log.events[1:] if event.op != REPEAT) > MAX_STREAM:
        raise LogDoesNotFold(f"the log asks for more than {MAX_STREAM:#x} bytes of hashing")

    def parts() -> Iterator[Part]:
        left = MAX_STREAM
        for event, part in _folded(log.events[1:], content_of):
            left -= _stream_bytes(event)
            if left < 0:
                raise LogDoesNotFold(f"the log asks for more than {MAX_STREAM:#x} bytes of hashing")
            got = _digest(part)
            if got != event.content:
                raise LogDoesNotFold(
                    f"{event.op} at {event.address:#x} ({event.label}): the content has sha256 "
                    f"{got or 'none'}, the log says {event.content or 'none'}"
                )
            yield part

    value = mrenclave(EnclaveImage(size_bytes=first.length, ssa_frame_size=first.flags, parts=parts()))
    if value.hex() != log.value:
        raise LogDoesNotFold(f"the log folds to {value.hex()}, it states {log.value}")
    return value


def _folded(
    events: tuple[LogEvent, ...], content_of: Callable[[LogEvent], Bytes]
) -> Iterator[tuple[LogEvent, Part]]:
    """Give each event with its part; of what a REPEAT stands for, the digests are checked here."""
    for index, event in enumerate(events):
        if event.op != REPEAT:
            yield event, _part(event, content_of(event) if event.content else b"")
            continue
        block = events[max(index - event.flags, 0) : index]
        if (
            not 0 < event.flags == len(block)
            or event.count * event.flags > _MAX_EXPANDED
            or any(one.op == REPEAT for one in block)
        ):
            raise LogDoesNotFold(f"REPEAT at {event.address:#x} repeats {event.flags} events")
        hashing = hashlib.sha256()
        for turn in range(1, event.count + 1):
            for one in block:
                moved = msgspec.structs.replace(one, address=one.address + event.length * turn)
                part = _part(moved, content_of(moved) if moved.content else b"")
                digest = _digest(part)
                hashing.update(digest.encode())
                yield msgspec.structs.replace(moved, content=digest), part
        if hashing.hexdigest() != event.content:
            raise LogDoesNotFold(
                f"REPEAT at {event.address:#x} ({event.label}): the content digests have sha256 "
                f"{hashing.hexdigest()}, the log says {event.content}"
            )


def _stream_bytes(event: LogEvent) -> int:
    if event.op == EXTENDED:
        return event.count * (HEADER + CHUNK)
    return event.count * (HEADER if event.op == ADDED else MEASURED_PAGE)


def _part(event: LogEvent, content: Bytes) -> Part:
    if (
        min(event.address, event.flags, event.count) < 0
        or max(event.address + event.count * PAGE, event.flags) > _MOST
        or _stream_bytes(event) > MAX_STREAM
    ):
        raise LogDoesNotFold(
            f"{event.op} at {event.address:#x}, {event.count} times with flags {event.flags:#x}: "
            "no enclave has that"
        )
    if event.op not in {ADDED, MEASURED, EXTENDED} or bool(event.content) == (event.op == ADDED):
        raise LogDoesNotFold(f"{event.op} at {event.address:#x} is not an event of MRENCLAVE")
    unit = CHUNK if event.op == EXTENDED else PAGE
    fills = event.op == MEASURED and len(content) == PAGE
    if event.op != ADDED and not fills and len(content) != event.count * unit:
        raise LogDoesNotFold(
            f"{event.op} at {event.address:#x} ({event.label}): {len(content)} bytes of content, "
            f"the log says {event.count * unit}"
        )
    if event.op == EXTENDED:
        return Chunks(address=event.address, content=content, label=event.label)
    return Pages(
        address=event.address, count=event.count, flags=event.flags, content=content, label=event.label
    )


def _digest(part: Part) -> str:
    hashing = hashlib.sha256()
    if isinstance(part, Chunks):
        hashing.update(part.content)
    elif part.is_measured:
        _hash_content(hashing.update, part)
    else:
        return ""
    return hashing.hexdigest()
