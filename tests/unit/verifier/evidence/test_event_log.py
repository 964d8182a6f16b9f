"""The reader of event logs: whole or not at all, the place told."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc

import pytest

from tests.fakes.event_logs import (
    BOOT,
    CCEL,
    Entry,
    agile_event,
    agile_log,
    digest,
    old_event,
    sha1_log,
    spec_id,
)
from verifier.evidence import event_log
from verifier.evidence.event_log import EventLogDamaged, read_event_log, read_log_file
from verifier.evidence.event_log_json import read_json_log
from verifier.evidence.replay import replay_log


def refused(data: bytes) -> EventLogDamaged:
    with pytest.raises(EventLogDamaged) as caught:
        read_event_log(data, name="boot.log")
    return caught.value


def test_banks_events_and_offsets_are_read() -> None:
    data = agile_log(BOOT, ("sha1", "sha256", "sha384"))
    log = read_event_log(data)
    assert (log.kind, log.form, log.size_bytes, log.padding_bytes) == ("tpm", "crypto-agile", len(data), 0)
    assert [one.name for one in log.banks] == ["sha1", "sha256", "sha384"]
    assert [(one.index, one.type, one.data) for one in log.events[1:]] == [
        (e.index, e.type, e.data) for e in BOOT
    ]
    assert log.events[1].digests == tuple(digest(bank, BOOT[0]) for bank in ("sha1", "sha256", "sha384"))
    assert struct.unpack_from("<II", data, log.events[2].offset) == (BOOT[1].index, BOOT[1].type)


def test_a_log_with_sha1_alone_is_read() -> None:
    log = read_event_log(sha1_log(BOOT))
    assert (log.kind, log.form, [one.name for one in log.banks]) == ("tpm", "sha1", ["sha1"])
    assert len(log.events) == len(BOOT)


def test_digests_in_another_order_than_the_header_are_sorted_by_bank() -> None:
    turned = Entry(0, 0x4, bytes(4), banks=("sha256", "sha1"))
    log = read_event_log(agile_log([turned], ("sha1", "sha256")))
    assert log.events[1].digests == (digest("sha1", turned), digest("sha256", turned))


@pytest.mark.parametrize(
    "padding", [b"\0" * 5, b"\0" * 4096, b"\xff" * 4, b"\xff" * 500, b"\xff" * 4 + b"\0" * 96]
)
def test_padding_and_terminators_end_a_log(padding: bytes) -> None:
    log = read_event_log(agile_log(BOOT) + padding)
    assert (len(log.events), log.padding_bytes) == (len(BOOT) + 1, len(padding))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_zeros_that_could_begin_an_event_of_pcr_0_are_no_padding(size: int) -> None:
    assert "cut off" in refused(agile_log(BOOT) + bytes(size)).message


def test_what_follows_a_terminator_is_refused() -> None:
    data = agile_log(BOOT) + b"\xff" * 8 + b"x" + b"\xff" * 8
    assert refused(data).message == "something follows the terminator"


def test_events_behind_zeros_are_not_passed_over() -> None:
    error = refused(agile_log(BOOT) + bytes(64) + agile_event(BOOT[0], ("sha256",)))
    assert error.field == f"event {len(BOOT) + 1}: digest count"


@pytest.mark.parametrize(
    ("head", "field", "words"),
    [
        (spec_id(("sha256",), sizes={"sha256": 20}), "header event: digest size", "sha256 has 32 bytes, not 20"),
        (spec_id(("sha256", "sha256")), "header event: algorithm", "stands twice"),
        (spec_id(()), "header event: algorithm count", "0 algorithms"),
        (spec_id(("sha256",))[:24] + b"\xff\xff\xff\xff" + b"\0", "header event: algorithm count", "4294967295"),
        (spec_id(("sha256",)) + b"x", "header event: vendor size", "0 bytes of vendor data are stated, 1"),
        (spec_id(("sha256",))[:20], "header event: data", "at least 28"),
        (spec_id(("sha256",)).replace(b"\x0b\0\x20\0", b"\x99\x99\x00\x04"), "header event: digest size", "unknown"),
    ],
)  # fmt: skip
def test_a_header_that_contradicts_itself_is_refused_with_its_field(
    head: bytes, field: str, words: str
) -> None:
    error = refused(old_event(0, 3, bytes(20), head) + agile_event(BOOT[0], ("sha256",)))
    assert error.field == field
    assert words in error.message
    assert f"at offset {error.offset:#x}" in error.place


def test_an_unknown_algorithm_of_a_plausible_size_is_carried_along() -> None:
    head = spec_id(("sha256",)).replace(b"\x0b\0\x20\0", b"\x99\x99\x20\x00")
    event = agile_event(BOOT[0], ("sha256",)).replace(b"\x01\0\0\0\x0b\0", b"\x01\0\0\0\x99\x99")
    log = read_event_log(old_event(0, 3, bytes(20), head) + event)
    assert [(one.name, one.size) for one in log.banks] == [("algorithm-9999", 32)]


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (struct.pack("<III", 24, 4, 1) + b"\x0b\0" + bytes(36), "index"),
        (struct.pack("<III", 0, 4, 0) + b"x" * 4, "digest count"),
        (struct.pack("<III", 0, 4, 0xFFFFFFFF) + b"x" * 4, "digest count"),
        (struct.pack("<III", 0, 4, 1) + b"\x0c\0" + bytes(52), "algorithm"),
        (struct.pack("<III", 0, 4, 1) + b"\x0b\0" + bytes(32) + b"\xff\xff\xff\x7f", "data"),
        (struct.pack("<III", 0, 4, 1) + b"\x0b\0" + b"x" * 31, "digest"),
    ],
)
def test_an_event_that_does_not_fit_is_refused_with_its_field_and_offset(event: bytes, field: str) -> None:
    data = agile_log(BOOT)
    error = refused(data + event)
    assert error.field == f"event {len(BOOT) + 1}: {field}"
    assert len(data) <= error.offset <= len(data) + len(event)


def test_an_event_without_the_digest_of_a_bank_is_refused() -> None:
    error = refused(agile_log([Entry(0, 4, bytes(4), banks=("sha256",))], ("sha1", "sha256")))
    assert error.message == "1 digests, but the header declares 2 algorithms"


def test_an_event_with_one_bank_twice_is_refused() -> None:
    error = refused(agile_log([Entry(0, 4, bytes(4), banks=("sha256", "sha256"))], ("sha1", "sha256")))
    assert "stands twice" in error.message


def test_a_header_with_a_digest_is_refused() -> None:
    assert refused(old_event(0, 3, b"x" * 20, spec_id(("sha256",)))).field == "header event: digest"


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"CCEL" + bytes(52), b"hello, this is no log at all " * 9, b"\x7fELF" + bytes(99)])  # fmt: skip
def test_strangers_are_refused(data: bytes) -> None:
    assert refused(data).code == "RVP-7000"


def test_the_acpi_table_is_told_from_the_log() -> None:
    assert refused(b"CCEL" + bytes(52)).hint == "the log is /sys/firmware/acpi/tables/data/CCEL"


def test_a_ccel_is_seen_by_its_bank_and_its_registers() -> None:
    assert read_event_log(agile_log(CCEL, ("sha384",), first_index=1)).kind == "ccel"
    assert read_event_log(agile_log(CCEL, ("sha384",), first_index=1), kind="tpm").kind == "tpm"
    assert read_event_log(agile_log(BOOT, ("sha384",))).kind == "tpm"
    assert read_event_log(agile_log(CCEL, ("sha256",))).kind == "tpm"


def test_a_log_with_other_registers_is_no_ccel() -> None:
    with pytest.raises(EventLogDamaged, match="is no RTMR"):
        read_event_log(agile_log(BOOT, ("sha384",)), kind="ccel")


@pytest.mark.parametrize("locality", [0, 3, 4])
def test_the_startup_locality_is_read(locality: int) -> None:
    entries = [Entry(0, 3, b"StartupLocality\0" + bytes([locality])), *BOOT]
    assert read_event_log(agile_log(entries)).startup_locality == locality


@pytest.mark.parametrize("said", [b"", b"\x01", b"\x04\x04"])
def test_a_startup_locality_that_is_none_is_refused(said: bytes) -> None:
    error = refused(agile_log([Entry(0, 3, b"StartupLocality\0" + said), *BOOT]))
    assert error.field == "event 1: StartupLocality"


def test_two_startup_localities_contradict_each_other() -> None:
    twice = [Entry(0, 3, b"StartupLocality\0" + bytes([one])) for one in (3, 4)]
    assert refused(agile_log([*twice, *BOOT])).message == "locality 4 after locality 3"


def test_an_event_of_no_register_is_read_and_not_extended() -> None:
    aside = Entry(0xFFFFFFFF, 3, b"trust point")
    log = read_event_log(agile_log([BOOT[0], aside, *BOOT[1:]]) + b"\xff" * 64)
    assert (len(log.events), log.events[2].index, log.padding_bytes) == (len(BOOT) + 2, 0xFFFFFFFF, 64)
    assert replay_log(log).events[2].register == "none"
    assert {one.register for one in replay_log(log).registers} == {f"pcr{index}" for index in range(10)}


def test_an_extended_event_of_no_register_is_no_event() -> None:
    assert (
        refused(agile_log([*BOOT, Entry(0xFFFFFFFF, 4, bytes(4))])).message
        == "something follows the terminator"
    )


def test_json_without_data_is_not_called_a_lie() -> None:
    bare = DSTACK[0] | {"event_payload": ""}
    event = replay_log(read_json_log(json.dumps([bare]).encode()).log).events[0]
    assert event.preimage.outcome == "undecided"


def test_an_h_crtm_begins_pcr_0_with_locality_4() -> None:
    assert read_event_log(agile_log([Entry(0, 0x80000010, b"HCRTM"), *BOOT])).startup_locality == 4


def test_a_file_larger_than_any_log_is_not_read_whole(tmp_path) -> None:
    path = tmp_path / "huge.log"
    with path.open("wb") as stream:
        stream.write(agile_log(BOOT))
        stream.truncate(2 << 30)
    tracemalloc.start()
    with pytest.raises(EventLogDamaged, match="larger than 32 MiB"):
        read_log_file(path)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()


def test_more_events_than_any_boot_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "MAX_EVENTS", 5)
    assert refused(agile_log(BOOT)).message == "there are more than 5 events"


def test_many_zero_bytes_cost_one_pass() -> None:
    entries = [Entry(0, 4, b"")] * 20_000
    data = agile_log(entries) + bytes(8 << 20)
    began = time.monotonic()
    assert len(read_event_log(data).events) == 20_001
    assert time.monotonic() - began < 20


DSTACK = [
    {"imr": 0, "event_type": 4, "digest": digest("sha384", Entry(0, 4, bytes(4))).hex(), "event": "", "event_payload": "00000000"},
    {"imr": 3, "event_type": 0x08000001, "digest": "", "event": "app-id", "event_payload": "c0ffee"},
]  # fmt: skip


def test_dstacks_list_is_read_and_a_runtime_digest_that_is_left_out_is_computed() -> None:
    import hashlib

    found = read_json_log(json.dumps({"event_log": json.dumps(DSTACK), "quote": "00ff"}).encode())
    assert [one.index for one in found.log.events] == [1, 4]
    assert found.log.events[1].digests[0] == hashlib.sha384(b"\x01\0\0\x08:app-id:\xc0\xff\xee").digest()
    assert found.quote == b"\0\xff"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"imr": 4}, "$.event_log[0].imr"),
        ({"imr": "0"}, "$.event_log[0]"),
        ({"event_type": -1}, "$.event_log[0].event_type"),
        ({"digest": "00"}, "$.event_log[0].digest"),
        ({"digest": ""}, "$.event_log[0].digest"),
        ({"event_payload": "xy"}, "$.event_log[0]"),
    ],
)
def test_an_event_of_dstack_that_is_wrong_is_refused_with_its_path(change: dict, field: str) -> None:
    with pytest.raises(EventLogDamaged) as caught:
        read_json_log(json.dumps({"event_log": [DSTACK[0] | change]}).encode())
    assert caught.value.field == field


@pytest.mark.parametrize("document", [b"{}", b"[]", b'{"event_log": "nonsense"}', b'{"event_log": 3}', b'{"quote": "x!", "event_log": []}', b'{"cc_eventlog": "!"}'])  # fmt: skip
def test_json_without_a_log_is_refused(document: bytes) -> None:
    with pytest.raises(EventLogDamaged):
        read_json_log(document)


def test_the_evidence_of_confidential_containers_is_read() -> None:
    import base64

    text = base64.b64encode(agile_log(CCEL, ("sha384",), first_index=1)).decode()
    assert (
        len(read_json_log(json.dumps({"quote": "AAAA", "cc_eventlog": text}).encode()).log.events)
        == len(CCEL) + 1
    )
