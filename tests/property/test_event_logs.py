"""Event logs: what was written is read, and nothing that was changed is taken for the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.event_logs import BOOT, CCEL, Entry, agile_log, digest, folded, sha1_log
from verifier.evidence.event_log import EventLogDamaged, read_event_log
from verifier.evidence.event_words import MAX_WORDS, TYPES, in_words
from verifier.evidence.preimage import check_preimage
from verifier.evidence.register_values import Register, RegisterValues
from verifier.evidence.replay import replay_log

TYPE = st.sampled_from(sorted(set(TYPES) - {3, 0x80000010})) | st.integers(4, 0xFFFFFFFF).filter(
    lambda n: n != 0x80000010
)
ENTRIES = st.lists(
    st.builds(Entry, st.integers(0, 23), TYPE, st.binary(max_size=200)), min_size=1, max_size=20
)
BANKS = st.lists(st.sampled_from(["sha1", "sha256", "sha384", "sha512"]), min_size=1, unique=True).map(tuple)


@given(ENTRIES, BANKS, st.binary(max_size=255), st.sampled_from([b"", bytes(64), b"\xff" * 64]))
def test_what_is_written_is_read_and_folds(
    entries: list, banks: tuple, vendor: bytes, padding: bytes
) -> None:
    log = read_event_log(agile_log(entries, banks, vendor=vendor) + padding, kind="tpm")
    assert [(one.index, one.type, one.data) for one in log.events[1:]] == [
        (e.index, e.type, e.data) for e in entries
    ]
    assert [one.digests for one in log.events[1:]] == [
        tuple(digest(bank, e) for bank in banks) for e in entries
    ]
    for one in replay_log(log).registers:
        assert one.value == folded(entries, one.bank, int(one.register[3:])).hex()


@given(st.sampled_from(sorted(TYPES)) | st.integers(0, 0xFFFFFFFF), st.binary(max_size=600))
@settings(max_examples=400)
def test_words_are_found_for_any_data(type_: int, data: bytes) -> None:
    log = read_event_log(
        agile_log([Entry(4, type_, data)])
        if type_ != 3 or not data.startswith(b"StartupL")
        else agile_log(BOOT)
    )
    words = in_words(log.events[1], log.kind)
    assert words
    assert words.isprintable()
    assert len(words) <= MAX_WORDS
    check_preimage(log.events[1], log.banks)


SMALL = {
    "crypto-agile": agile_log(BOOT[:6], ("sha1", "sha256")),
    "sha1": sha1_log(BOOT[:6]),
    "ccel": agile_log(CCEL, ("sha384",), first_index=1),
}


def values_of(data: bytes) -> RegisterValues:
    found = replay_log(read_event_log(data))
    values = {
        Register(one.register, one.bank): bytes.fromhex(one.value) for one in found.registers if one.value
    }
    return RegisterValues(kind="pcrs", source="", trust="", values=values)


@pytest.mark.parametrize("name", SMALL)
def test_a_log_that_is_cut_anywhere_is_refused_or_lacks_whole_events(name: str) -> None:
    data = SMALL[name]
    whole = read_event_log(data)
    ends = {one.offset for one in whole.events[1:]}
    for end in range(len(data)):
        if end in ends:
            shorter = read_event_log(data[:end])
            assert shorter.events == whole.events[: len(shorter.events)]
        else:
            with pytest.raises(EventLogDamaged) as caught:
                read_event_log(data[:end])
            assert 0 <= caught.value.offset <= end
            assert caught.value.field


@pytest.mark.parametrize("name", SMALL)
def test_a_log_that_lacks_events_at_its_end_is_not_equal(name: str) -> None:
    data = SMALL[name]
    values = values_of(data)
    for event in read_event_log(data).events[1:]:
        if event.offset == 0:
            continue
        shorter = read_event_log(data[: event.offset], kind="ccel" if name == "ccel" else "tpm")
        found = replay_log(shorter, values)
        assert found.verdict == "different"


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("bit", [1, 0x80])
def test_no_flipped_bit_goes_unseen(name: str, bit: int) -> None:
    data = SMALL[name]
    values, whole = values_of(data), read_event_log(data)
    trusted = [(one.number, one.digests, one.index) for one in whole.events if one.is_extended]
    unseen = 0
    for at in range(len(data)):
        flipped = data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
        try:
            log = read_event_log(flipped)
        except EventLogDamaged:
            continue
        assert log != whole, hex(at)
        same = [(one.number, one.digests, one.index) for one in log.events if one.is_extended] == trusted
        if replay_log(log, values).verdict == "equal":
            assert same, hex(at)
            unseen += same
    assert unseen > 0  # types and data are not in a register: only the preimage tells
