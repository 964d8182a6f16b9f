"""Explain why two MRENCLAVEs differ: find out what the operands are, lay them over each other, ask the rules.

An operand is a file of any SGX format, a measurement log, a SIGSTRUCT, a document of `rvp measure --format
json`, or 64 hex digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from pipeline.explain.model import Explained, FirstDivergence, Row, Side
from pipeline.explain.sgx.causes import likely_causes
from pipeline.explain.sgx.evidence import Evidence, collect
from pipeline.explain.sgx.hypotheses import search
from pipeline.explain.sgx.side import EnclaveSide, is_tcs, shown
from pipeline.explain.unmeasured import file_differences, signature_differences
from pipeline.explain.walk import Run, Split
from pipeline.measure.formats import UnknownFormat, detect, given
from pipeline.measure.measured import MeasureOptions, OptionNotTaken
from pipeline.measure.sgx.elf import Elf, map_file
from pipeline.measure.sgx.enclave import Enclave, lay_out
from pipeline.measure.sgx.enclave_image import describe_flags
from pipeline.measure.sgx.hashing import mrenclave
from pipeline.measure.sgx.log import REPEAT, content_of, fold_log, write_log
from pipeline.measure.sgx.sigstruct import SIGSTRUCT_SIZE, Sigstruct, has_sigstruct_header
from provenance.claims import Measurements
from provenance.errors import UsageError
from provenance.events import Observer, ignore
from provenance.measurement_log import MeasurementLog
from provenance.strict import NotReadable, convert, parse_json, read_file

_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")
_JSON: Final = re.compile(rb"\s*(\{|\[\s*\{)")  # a manifest in TOML may begin with a bracket, too
_MAX_JSON: Final = 64 << 20
_ROW: Final = 16
_ROWS: Final = 8


class CannotExplain(UsageError):
    """An operand of `rvp explain A B` has no MRENCLAVE that could be explained.

    Cure: give an enclave of any SGX format, a log of `rvp measure --log`, a SIGSTRUCT, what `rvp measure
    --format json` printed, or 64 hex digits.
    """

    code = "RVP-5060"


class Operand(msgspec.Struct, frozen=True, kw_only=True):
    """One operand as it was typed, and what belongs to it."""

    text: str
    options: MeasureOptions = MeasureOptions()
    symbols_from: Path | None = None


def explain(
    left: Operand,
    right: Operand | None = None,
    *,
    budget_s: float = 30.0,
    clock: Callable[[], float],
    observer: Observer = ignore,
) -> Explained:
    """Explain why two operands have different MRENCLAVEs.

    Args:
        left: one side.
        right: the other; None: the value that the left one's SIGSTRUCT signs.
        budget_s: for trying changes, when one side is a bare value.
        clock: monotonic seconds.
        observer: hears of long work.

    Raises:
        CannotExplain: RVP-5060. OptionNotTaken: RVP-5014, for an option without a use.
        LogDoesNotFold: RVP-5009, for a log with the file's value that does not fold over the file; and what
            the readers raise (RVP-50nn).

    Cost: two passes over both contents; a bare value costs up to `budget_s`.
    """
    return _explain(*_sides(left, right), (left, right or left), budget_s, clock, observer)[0]


def explain_with_sides(
    left: Operand,
    right: Operand | None = None,
    *,
    budget_s: float = 30.0,
    clock: Callable[[], float],
    observer: Observer = ignore,
) -> tuple[Explained, EnclaveSide, EnclaveSide]:
    """Explain, and give the sides too, for a picture."""
    sides = _sides(left, right)
    return _explain(*sides, (left, right or left), budget_s, clock, observer)


def _sides(left: Operand, right: Operand | None) -> tuple[EnclaveSide, EnclaveSide]:
    fitting = tuple(_fitting(operand) for operand in (left, right or left))
    one = side_of(fitting[0])
    if right is not None:
        other_side = side_of(fitting[1])
        _require_used((left, right), fitting, (one, other_side))
        return one, other_side
    _require_used((left,), fitting, (one,))
    left = fitting[0]
    enclaves = lay_out(Path(left.text), left.options) if one.enclave is not None else ()
    for other in enclaves[1:]:
        value = mrenclave(other.image)
        if value.hex() != one.side.value:
            return one, _file_side(left, other, value)
    signed = one.signed
    if signed is None or signed.is_empty:
        raise CannotExplain(
            "the enclave is not signed, so there is no value to compare with",
            place=left.text,
            hint="give two operands",
        )
    return one, EnclaveSide(
        Side(name=f"SIGSTRUCT of {left.text}", kind="digest", value=signed.mrenclave.hex(), what="SIGSTRUCT"),
        signed=signed,
    )


def _fitting(operand: Operand) -> Operand:
    """Leave out options that the operand's format has no use for: they may be for the other operand."""
    options = operand.options
    if not given(options):
        return operand
    try:
        found = detect(Path(operand.text), tee="sgx", options=options)
    except (UnknownFormat, NotReadable):  # a log, a bare value, or what `side_of` refuses
        takes: tuple[str, ...] = ()
    else:
        takes = found.takes
    nothing = MeasureOptions()
    unused = {name: getattr(nothing, name) for name in given(options) if name not in takes}
    return msgspec.structs.replace(operand, options=msgspec.structs.replace(options, **unused))


def _require_used(
    operands: tuple[Operand, ...], fitting: tuple[Operand, ...], sides: tuple[EnclaveSide, ...]
) -> None:
    """Check that no option was given in vain.

    A configuration is for an enclave that is not laid out yet, or for the search for changes.
    """
    searches = len(sides) == 1 or any(side.side.kind == "digest" for side in sides)
    for operand in operands:
        for name in given(operand.options):
            value = getattr(operand.options, name)
            if not any(
                getattr(fit.options, name) == value
                and (name != "config" or searches or (side.enclave is not None and side.enclave.by_config))
                for fit, side in zip(fitting, sides, strict=False)
            ):
                raise OptionNotTaken(
                    f"--{name} is of no use: no operand is laid out by it",
                    place=operand.text,
                    hint="leave it out",
                )


def side_of(operand: Operand) -> EnclaveSide:
    """Find out what an operand is.

    Raises:
        CannotExplain: RVP-5060. NotReadable: RVP-1010; and what the readers raise (RVP-50nn).
    """
    text = operand.text
    path = Path(text)
    if _HEX.fullmatch(text) and not path.exists():
        return EnclaveSide(Side(name=text[:16] + "…", kind="digest", value=text.lower(), what="a bare value"))
    start = _start(path)
    if _JSON.match(start) and (found := _json_side(path, text)) is not None:
        return found
    if has_sigstruct_header(start):
        signed = Sigstruct(read_file(path, limit_bytes=4 * SIGSTRUCT_SIZE), name=text)
        return EnclaveSide(
            Side(name=text, kind="digest", value=signed.mrenclave.hex(), what="SIGSTRUCT"), signed=signed
        )
    enclave = lay_out(path, operand.options)[0]
    return _file_side(operand, enclave, mrenclave(enclave.image))


def _file_side(operand: Operand, enclave: Enclave, value: bytes) -> EnclaveSide:
    options = operand.options
    signed = enclave.sigstruct
    if options.sigstruct is not None:
        signed = Sigstruct(options.sigstruct, name=options.sigstruct_name)
    symbols = operand.symbols_from
    return EnclaveSide(
        Side(name=operand.text, kind="file", value=value.hex(), what=enclave.layout),
        enclave=enclave,
        signed=signed,
        path=Path(operand.text),
        symbols_from=None if symbols is None else Elf(map_file(symbols), name=str(symbols)),
    )


def _start(path: Path) -> bytes:
    if "!" in str(path) or path.is_dir():
        return b""
    try:
        with path.open("rb") as stream:
            return stream.read(4096)
    except OSError as error:
        raise NotReadable(
            f"cannot read the file: {error.strerror}",
            place=str(path),
            hint="check the path; a bare MRENCLAVE has 64 hex digits",
        ) from error


def _json_side(path: Path, text: str) -> EnclaveSide | None:
    """Read a log, or what `rvp measure` printed; None for any other document."""
    document = parse_json(read_file(path, limit_bytes=_MAX_JSON), name=text, limit_bytes=_MAX_JSON)
    if isinstance(document, dict) and document.get("schema") == "rvp/measurements/v1":
        values = {
            str(one.claims["mrenclave"])
            for one in convert(document, Measurements).measurements
            if one.tee == "sgx" and "mrenclave" in one.claims
        }
        if len(values) == 1:
            return EnclaveSide(Side(name=text, kind="digest", value=values.pop(), what="measurements"))
        raise CannotExplain(f"the document has {len(values)} values of MRENCLAVE, one is needed", place=text)
    for one in document if isinstance(document, list) else [document]:
        if isinstance(one, dict) and one.get("register") == "mrenclave":
            log = convert(one, MeasurementLog)
            return EnclaveSide(Side(name=text, kind="log", value=log.value, what="measurement log"), log=log)
    return None


# ---- the explanation ---------------------------------------------------------------------------------------


def _explain(
    left: EnclaveSide,
    right: EnclaveSide,
    operands: tuple[Operand, Operand],
    budget_s: float,
    clock: Callable[[], float],
    observer: Observer,
) -> tuple[Explained, EnclaveSide, EnclaveSide]:
    said = Explained(
        tee="sgx",
        register="mrenclave",
        equal=left.side.value == right.side.value,
        left=left.side,
        right=right.side,
    )
    if said.equal:
        return msgspec.structs.replace(said, notes=_notes_of_equal(left, right)), left, right
    kinds = left.side.kind, right.side.kind
    if "digest" in kinds:
        if kinds == ("digest", "digest"):
            notes: tuple[str, ...] = ("both sides are bare values: nothing of them can be compared",)
            notes += signature_differences(left.signed, right.signed)
            return msgspec.structs.replace(said, notes=notes), left, right
        from_left = kinds[1] == "digest"
        found = search(
            left if from_left else right,
            bytes.fromhex(right.side.value if from_left else left.side.value),
            _fitting(operands[0 if from_left else 1]).options,
            changed="left" if from_left else "right",
            budget_s=budget_s,
            clock=clock,
            observer=observer,
        )
        return (
            msgspec.structs.replace(said, hypotheses=found.hypotheses, tried=found.tried, notes=found.notes),
            left,
            right,
        )
    one, other = _alike(left, right)
    evidence = collect(one, other)
    return (
        msgspec.structs.replace(
            said,
            parameters=evidence.parameters(),
            first=_first(evidence, left, right),
            regions=evidence.regions,
            causes=likely_causes(evidence),
            notes=_notes(evidence),
        ),
        left,
        right,
    )


def _alike(left: EnclaveSide, right: EnclaveSide) -> tuple[EnclaveSide, EnclaveSide]:
    """Put the log of a file beside a log: both cut in the same way."""
    if left.has_content == right.has_content:
        return left, right
    return _as_log(left), _as_log(right)


def _as_log(side: EnclaveSide) -> EnclaveSide:
    if side.enclave is None:
        return side
    value = bytes.fromhex(side.side.value)
    log = write_log(side.enclave.image, value, elves=side.enclave.elves)
    return EnclaveSide(side.side, log=log)


def _notes_of_equal(left: EnclaveSide, right: EnclaveSide) -> tuple[str, ...]:
    notes: list[str] = []
    for one, other in ((left, right), (right, left)):
        if one.log is not None and other.enclave is not None:
            fold_log(one.log, content_of(other.enclave.image))
            notes.append("the log folds to MRENCLAVE over the content of the file")
    notes += [f"signed differently: {line}" for line in signature_differences(left.signed, right.signed)]
    if left.path and right.path and left.path.is_file() and right.path.is_file():
        differing = file_differences(left.path, right.path)
        if differing:
            notes.append("the files differ, in what is not measured: " + "; ".join(differing))
        else:
            notes.append("the files are equal")
    return tuple(notes)


def _notes(evidence: Evidence) -> tuple[str, ...]:
    notes: list[str] = []
    if evidence.split is None and evidence.left.frame == evidence.right.frame:
        notes.append(
            "no event differs, but the values do: a log states a value that it does not fold to; "
            "measure the file again"
        )
    if evidence.split is not None and evidence.split.unknown:
        notes.append(
            f"{evidence.split.unknown} pages before could not be compared: the logs cut them differently"
        )
    if any(run.op == REPEAT for side in (evidence.left, evidence.right) for run in side.runs):
        notes.append("a log has threads as one event: where they differ, it cannot say which one")
    if not evidence.left.has_content:
        notes.append("a log has no content: bytes, strings and symbols were not compared")
    return tuple(notes)


def _first(evidence: Evidence, left: EnclaveSide, right: EnclaveSide) -> FirstDivergence | None:
    split = evidence.split
    if split is None:
        return _first_parameter(evidence)
    one, other = split.left, split.right
    run = one or other
    if run is None:
        return None
    address = _address(split, right=one is None)
    side = left if one is not None else right
    offset = -1
    rows: tuple[Row, ...] = ()
    if split.kind == "content" and one and other and one.content and other.content:
        pages = bytes(one.content_at(split.left_index)), bytes(other.content_at(split.right_index))
        offset = next((at for at, (a, b) in enumerate(zip(*pages, strict=False)) if a != b), 0)
        rows = _rows(address, *pages)
    inside = max(offset, 0)
    place = _place(side, evidence, address + inside, run)
    place_right = ""
    if one and other:
        place_right = _place(right, evidence, _address(split, right=True) + inside, other)
    return FirstDivergence(
        kind=split.kind,
        number=split.number,
        exact=split.units == 1 and not split.unknown,
        address=address,
        pages=split.units,
        offset=offset,
        place=place,
        place_right="" if place_right == place else place_right,
        left=_words(split, evidence.left, one, split.left_index),
        right=_words(split, evidence.right, other, split.right_index),
        rows=rows,
    )


def _place(side: EnclaveSide, evidence: Evidence, address: int, run: Run) -> str:
    """Name the place; a log's label is the best that a log has."""
    if not evidence.left.has_content and not is_tcs(run):
        return run.label
    return side.words(address, run if side.has_content else None) or run.label


def _address(split: Split, *, right: bool) -> int:
    run, index = (split.right, split.right_index) if right else (split.left, split.left_index)
    return run.address + index * run.unit if run else 0


def _words(split: Split, side: EnclaveSide, run: Run | None, index: int) -> str:
    if run is None:
        return "nothing more: the enclave ends here"
    address = f"{run.address + index * run.unit:#x}"
    match split.kind:
        case "content":
            if run.content is None:
                return f"sha256 {run.digest}"
            return f"page {address}, {describe_flags(run.flags)}"
        case _:
            measured = "measured" if run.is_measured else "added, not measured"
            label = f" ({run.label})" if run.label else ""
            del side
            return f"page {address}, {describe_flags(run.flags)}, {measured}{label}"


def _first_parameter(evidence: Evidence) -> FirstDivergence | None:
    (size, ssa), (other_size, other_ssa) = evidence.left.frame, evidence.right.frame
    if (size, ssa) == (other_size, other_ssa):
        return None
    return FirstDivergence(
        kind="parameter",
        number=0,
        place="ECREATE",
        left=f"size {shown('bytes', size)}, SSA frame {ssa} pages",
        right=f"size {shown('bytes', other_size)}, SSA frame {other_ssa} pages",
    )


def _rows(address: int, one: bytes, other: bytes) -> tuple[Row, ...]:
    found = []
    for at in range(0, len(one), _ROW):
        a, b = one[at : at + _ROW], other[at : at + _ROW]
        if a != b:
            found.append(
                Row(
                    address=address + at,
                    left=a.hex(),
                    right=b.hex(),
                    differs=tuple(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
                )
            )
        if len(found) == _ROWS:
            break
    return tuple(found)
