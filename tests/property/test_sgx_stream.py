"""The measured stream: batches equal the manual's words, SGXS round trips, logs fold, no flipped byte passes."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from unittest import mock

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pipeline.measure.sgx import sgxs
from pipeline.measure.sgx.enclave_image import PAGE, EnclaveImage, Pages
from pipeline.measure.sgx.hashing import (
    Batches,
    ecreate_record,
    hash_plainly,
    mrenclave,
    mrenclaves,
    write_plainly,
)
from pipeline.measure.sgx.log import LogDoesNotFold, fold_log, write_log
from pipeline.measure.sgx.sgxs import BadSgxs, read_sgxs, write_sgxs
from provenance.measurement_log import LogEvent


@st.composite
def images(draw: st.DrawFn) -> EnclaveImage:
    address, parts = 0, []
    for index in range(draw(st.integers(1, 6))):
        address += draw(st.integers(0, 3)) * PAGE
        count = draw(st.sampled_from([1, 2, 3, 257, 300]))
        flags = draw(st.sampled_from([0x201, 0x203, 0x205, 0x100]))
        kind = draw(st.sampled_from(["bare", "filled", "whole"]))
        content = b""
        if kind != "bare":
            seed = draw(st.binary(min_size=1, max_size=8))
            length = PAGE * (count if kind == "whole" else 1)
            content = hashlib.shake_128(seed).digest(length)
        parts.append(Pages(address=address, count=count, flags=flags, content=content, label=f"part {index}"))
        address += count * PAGE
    return EnclaveImage(
        size_bytes=1 << (address + PAGE).bit_length(),
        ssa_frame_size=draw(st.integers(1, 4)),
        parts=tuple(parts),
    )


def pages_of(image: EnclaveImage) -> dict[int, bytes]:
    found = {}
    for part in image.parts:
        for index in range(part.count if part.is_measured else 0):
            at = 0 if part.is_filled else index * PAGE
            found[part.address + index * PAGE] = bytes(part.content[at : at + PAGE])
    return found


def content_in(pages: dict[int, bytes]) -> Callable[[LogEvent], bytes]:
    return lambda event: b"".join(pages[event.address + index * PAGE] for index in range(event.count))


@settings(max_examples=40, deadline=None)
@given(images())
def test_both_writers_hash_to_what_the_manual_says(image: EnclaveImage) -> None:
    expected = hash_plainly(image)
    for write in (Batches().write, write_plainly):
        hashing = hashlib.sha256(ecreate_record(image.size_bytes, image.ssa_frame_size))
        for part in image.parts:
            assert isinstance(part, Pages)
            write(part, hashing.update)
        assert hashing.digest() == expected
    assert mrenclave(image) == expected


@settings(max_examples=25, deadline=None)
@given(images(), st.data())
def test_enclaves_that_begin_alike_keep_their_values(image: EnclaveImage, data: st.DataObject) -> None:
    parts = tuple(image.parts)
    others = []
    for _ in range(3):
        cut = data.draw(st.integers(0, len(parts)))
        changed = [msgspec.structs.replace(part, flags=0x207) for part in parts[cut:]]
        frame = data.draw(st.sampled_from([1, image.ssa_frame_size]))
        others.append(
            EnclaveImage(size_bytes=image.size_bytes, ssa_frame_size=frame, parts=(*parts[:cut], *changed))
        )
    assert mrenclaves((image, *others)) == tuple(hash_plainly(one) for one in (image, *others))


@pytest.fixture(params=[0, 1 << 30], ids=["with-numpy", "without-numpy"])
def plain_bytes(request: pytest.FixtureRequest) -> Iterator[int]:
    """How large a stream may be to be read without numpy: none, or any."""
    with mock.patch.object(sgxs, "_PLAIN_BYTES", request.param):
        yield request.param


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(image=images())
def test_sgxs_round_trips(plain_bytes: int, image: EnclaveImage) -> None:
    del plain_bytes
    stream = write_sgxs(image)
    assert hashlib.sha256(stream).digest() == mrenclave(image)
    found = read_sgxs(memoryview(stream))
    assert found.is_file
    assert mrenclave(found) == mrenclave(image)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(image=images(), data=st.data())
def test_chunks_of_a_page_may_be_missing_unordered_and_unmeasured(
    plain_bytes: int, image: EnclaveImage, data: st.DataObject
) -> None:
    del plain_bytes
    loose = data.draw(st.permutations(range(16)))[: data.draw(st.integers(0, 16))]
    unmeasured = set(data.draw(st.lists(st.sampled_from(range(16)), max_size=2)))
    records = []
    for index in loose:
        header = struct.pack("<8sQ48x", b"UNMEASRD" if index in unmeasured else b"EEXTEND", index * 256)
        records.append((index in unmeasured, header + bytes([index]) * 256))
    page = struct.pack("<8sQQ40x", b"EADD", 0, 0x203)
    moved = EnclaveImage(
        size_bytes=image.size_bytes * 2,
        ssa_frame_size=1,
        parts=[msgspec.structs.replace(part, address=part.address + PAGE) for part in image.parts],
    )
    stream = write_sgxs(moved)
    file = stream[:64] + page + b"".join(record for _, record in records) + stream[64:]
    hashed = stream[:64] + page + b"".join(record for skip, record in records if not skip) + stream[64:]
    found = read_sgxs(memoryview(file))
    assert found.is_file == (file == hashed)
    assert mrenclave(found) == hashlib.sha256(hashed).digest()


@settings(max_examples=25, deadline=None)
@given(images())
def test_a_log_folds_to_its_mrenclave(image: EnclaveImage) -> None:
    log = write_log(image, mrenclave(image))
    assert fold_log(log, content_in(pages_of(image))) == mrenclave(image)


@settings(max_examples=25, deadline=None)
@given(images(), st.data())
def test_a_log_does_not_fold_over_other_content(image: EnclaveImage, data: st.DataObject) -> None:
    pages = pages_of(image)
    assume(pages)
    address = data.draw(st.sampled_from(sorted(pages)))
    changed = bytearray(pages[address])
    changed[data.draw(st.integers(0, PAGE - 1))] ^= 1
    log = write_log(image, mrenclave(image))
    with pytest.raises(LogDoesNotFold):
        fold_log(log, content_in({**pages, address: bytes(changed)}))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(image=images(), data=st.data())
def test_a_flipped_bit_of_a_stream_never_gives_the_same_value(
    plain_bytes: int, image: EnclaveImage, data: st.DataObject
) -> None:
    del plain_bytes
    stream = bytearray(write_sgxs(image))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        assert mrenclave(read_sgxs(memoryview(stream))) != mrenclave(image)
    except BadSgxs:
        return
