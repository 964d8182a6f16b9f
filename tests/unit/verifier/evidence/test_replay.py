"""Folding, comparing, preimages, words."""

from __future__ import annotations

import csv
import json
import re
import struct
from pathlib import Path

import pytest

from tests.fakes.event_logs import (
    BOOT,
    CCEL,
    EFI_GLOBAL,
    Entry,
    agile_log,
    folded,
    sha1_log,
    tdx_quote,
    variable,
)
from verifier.evidence.event_log import EventLog, read_event_log
from verifier.evidence.event_log_json import read_json_log
from verifier.evidence.event_words import in_words
from verifier.evidence.fold import measurement_logs
from verifier.evidence.preimage import check_preimage
from verifier.evidence.register_values import Register, RegisterValues, read_register_values, values_of_quote
from verifier.evidence.replay import NothingCompared, RegistersDiffer, Replay, replay_log, require_equal


def values(given: dict[tuple[str, str], bytes]) -> RegisterValues:
    named = {Register(*key): value for key, value in given.items()}
    return RegisterValues(kind="pcrs", source="test", trust="none", values=named)


def boot(entries: list[Entry] = BOOT, banks: tuple[str, ...] = ("sha256",)) -> EventLog:
    return read_event_log(agile_log(entries, banks))


def against(log: EventLog, given: dict[tuple[str, str], bytes]) -> Replay:
    return replay_log(log, values(given), name="boot.log")


def test_every_register_of_every_bank_folds_as_the_specification_has_it() -> None:
    found = replay_log(boot(banks=("sha1", "sha256", "sha384", "sha512")))
    assert {(one.register, one.bank): one.value for one in found.registers} == {
        (f"pcr{index}", bank): folded(BOOT, bank, index).hex()
        for index in {one.index for one in BOOT}
        for bank in ("sha1", "sha256", "sha384", "sha512")
    }
    assert found.verdict == "not compared"


def test_events_of_no_action_are_never_extended() -> None:
    extra = [Entry(4, 3, b"SP800-155 Event\0rest"), *BOOT]
    pcr4 = next(one for one in replay_log(boot(extra)).registers if one.register == "pcr4")
    assert pcr4.value == folded(BOOT, "sha256", 4).hex()


def test_pcr_0_begins_with_the_startup_locality() -> None:
    found = replay_log(boot([Entry(0, 3, b"StartupLocality\0\x03"), *BOOT]))
    assert found.registers[0].value == folded(BOOT, "sha256", 0, last=3).hex()


def test_all_equal_passes() -> None:
    given = {(f"pcr{index}", "sha256"): folded(BOOT, "sha256", index) for index in range(10)}
    found = against(boot(), given)
    assert found.verdict == "equal"
    require_equal(found)


def test_one_flipped_bit_of_a_register_is_named() -> None:
    wrong = bytes([folded(BOOT, "sha256", 4)[0] ^ 1]) + folded(BOOT, "sha256", 4)[1:]
    found = against(boot(), {("pcr4", "sha256"): wrong, ("pcr7", "sha256"): folded(BOOT, "sha256", 7)})
    with pytest.raises(RegistersDiffer, match=r"boot.log: pcr4 of sha256 is not what the log folds to\Z"):
        require_equal(found)


def test_a_firmware_register_without_an_event_must_be_zero() -> None:
    log = boot([one for one in BOOT if one.index != 6])
    found = against(log, {("pcr6", "sha256"): b"x" * 32, ("pcr7", "sha256"): folded(BOOT, "sha256", 7)})
    assert (found.verdict, found.registers[6].hint) == ("different", "the log has no event of this register")


@pytest.mark.parametrize("index", [8, 9, 14])
def test_a_register_cannot_be_hidden_by_leaving_out_all_its_events(index: int) -> None:
    whole = [*BOOT, Entry(14, 0xD, b"MokList\0", b"a list")]
    given = {(f"pcr{one}", "sha256"): folded(whole, "sha256", one) for one in (*range(10), 14)}
    assert against(boot(whole), given).verdict == "equal"
    found = against(boot([one for one in whole if one.index != index]), given)
    assert [one.register for one in found.registers if one.compared == "different"] == [f"pcr{index}"]


def test_runtime_events_cannot_be_left_out_of_dstacks_json() -> None:
    boot_event = {
        "imr": 0,
        "event_type": 4,
        "digest": folded_digest(),
        "event": "",
        "event_payload": "00000000",
    }
    log = read_json_log(json.dumps({"event_log": [boot_event]}).encode()).log
    rtmr0 = folded([Entry(1, 4, bytes(4))], "sha384", 1)
    given = values_of_quote(tdx_quote((rtmr0, bytes(48), bytes(48), b"x" * 48)))
    found = replay_log(log, given)
    assert [one.compared for one in found.registers] == ["equal", "equal", "equal", "different"]


def folded_digest() -> str:
    import hashlib

    return hashlib.sha384(bytes(4)).hexdigest()


def test_a_register_that_others_extend_is_named_and_not_compared() -> None:
    found = against(boot(), {("pcr10", "sha256"): b"x" * 32, ("pcr7", "sha256"): folded(BOOT, "sha256", 7)})
    assert found.verdict == "equal"
    assert [one.register for one in found.registers if one.compared == "not in the log"] == ["pcr10"]


@pytest.mark.parametrize(
    "given",
    [
        {("pcr7", "sha1"): bytes(20)},
        {("rtmr0", "sha384"): bytes(48)},
        {("pcr16", "sha256"): bytes(32)},
        {("pcr10", "sha256"): b"x" * 32},
    ],
)
def test_nothing_that_can_be_compared_is_undecided(given: dict) -> None:
    found = against(boot(), given)
    assert found.verdict == "undecided"
    with pytest.raises(NothingCompared):
        require_equal(found)


def hint_of(_entries: list[Entry], value: bytes, index: int = 5, *, log: list[Entry] | None = None) -> str:
    found = against(boot(log or MANY), {(f"pcr{index}", "sha256"): value})
    return next(one for one in found.registers if one.register == f"pcr{index}").hint


MANY = [Entry(5, 5, bytes([65 + number]) * 4) for number in range(6)] + [Entry(6, 4, bytes(4))]


def test_a_register_that_was_read_early_has_the_first_events() -> None:
    hint = hint_of(MANY, folded(MANY[:4], "sha256", 5))
    assert hint.startswith("hypothesis: it has the first 4 of 6 events; the first that it lacks is event 5 (")


def test_an_event_that_is_not_in_the_register_is_found() -> None:
    assert (
        hint_of(MANY, folded([*MANY[:2], *MANY[3:]], "sha256", 5))
        == "hypothesis: event 3 (EV_ACTION, CCCC) is not in it"
    )


def test_an_event_that_went_in_twice_is_found() -> None:
    assert "event 1 (EV_ACTION, AAAA) was extended twice" in hint_of(
        MANY, folded([MANY[0], *MANY], "sha256", 5)
    )


def test_events_in_another_order_are_found() -> None:
    assert "event 1 (EV_ACTION, AAAA) and the one after it" in hint_of(
        MANY, folded([MANY[1], MANY[0], *MANY[2:]], "sha256", 5)
    )


def test_an_event_of_another_register_is_found() -> None:
    moved = [*MANY[:6], Entry(5, 4, bytes(4))]
    assert hint_of(MANY, folded(moved, "sha256", 5)).endswith("went into it, and the log has it in pcr6")


def test_a_digest_that_was_changed_in_the_log_is_found_from_its_data() -> None:
    lied = [*MANY[:2], Entry(5, 5, b"CCCC", b"other"), *MANY[3:]]
    assert "event 3 (EV_ACTION, CCCC) was extended with the digest of its data" in hint_of(
        MANY, folded(MANY, "sha256", 5), log=lied
    )


def test_another_locality_is_found() -> None:
    assert "PCR 0 began with locality 3, and the log says 0" in hint_of(
        MANY, folded(BOOT, "sha256", 0, last=3), 0, log=BOOT
    )


def test_registers_that_were_mistaken_for_each_other_are_found() -> None:
    assert hint_of(MANY, folded(BOOT, "sha256", 7), 4, log=BOOT) == "hypothesis: it is what pcr7 folds to"


def test_what_no_single_change_explains_is_said() -> None:
    assert "no single change of its 6 events" in hint_of(MANY, b"x" * 32)


@pytest.mark.parametrize("version", [4, 5])
def test_a_ccel_is_compared_with_a_quote(version: int) -> None:
    rtmrs = tuple(folded(CCEL, "sha384", index) for index in range(1, 5))
    log = read_event_log(agile_log(CCEL, ("sha384",), first_index=1) + b"\xff" * 64)
    found = replay_log(log, values_of_quote(tdx_quote(rtmrs, version=version)))
    assert [(one.register, one.compared) for one in found.registers] == [
        (f"rtmr{n}", "equal") for n in range(4)
    ]
    assert found.compared_with is not None
    assert found.compared_with.trust == "the signature of the quote was NOT verified"


def test_runtime_events_that_the_log_lacks_are_not_in_the_log() -> None:
    rtmrs = (*(folded(CCEL, "sha384", index) for index in range(1, 4)), b"x" * 48)
    found = replay_log(read_event_log(agile_log(CCEL, ("sha384",))), values_of_quote(tdx_quote(rtmrs)))
    assert (found.verdict, found.registers[3].compared) == ("equal", "not in the log")


@pytest.mark.parametrize(
    ("entry", "outcome", "part"),
    [
        (Entry(0, 4, bytes(4)), "matches", ""),
        (Entry(0, 4, bytes(4), b"other"), "not hashed", ""),
        (Entry(0, 3, b"anything"), "not extended", ""),
        (Entry(7, 0x80000001, variable(EFI_GLOBAL, "PK", b"")), "matches", ""),
        (Entry(7, 0x80000001, variable(EFI_GLOBAL, "PK", b"k"), b"other"), "not hashed", ""),
        (Entry(1, 0x80000002, variable(EFI_GLOBAL, "BootOrder", b"\1\0"), b"\1\0"), "matches", "the value of the variable"),
        (Entry(8, 0xD, b"grub_cmd: ls\0", b"ls"), "matches", "the text after grub's prefix"),
        (Entry(8, 0xD, b"grub_cmd ls\0", b"ls\0"), "matches", "the text after grub's prefix, with its NUL"),
        (Entry(8, 0xD, b"grub_cmd: ls\0", b"rm"), "not hashed", ""),
        (Entry(8, 0xD, b"kernel_cmdline: quiet\0", b"debug"), "not hashed", ""),
        (Entry(8, 0xD, b"/vmlinuz\0", b"the kernel"), "description", ""),
        (Entry(9, 0x6, struct.pack("<II", 0x8F3B22EC, 3) + b"ird", b"the initrd"), "description", ""),
        (Entry(1, 0xA, b"ACPI DATA", b"tables"), "description", ""),
        (Entry(1, 0xA, b"td_hob".ljust(16, b"\0") + b"\x03\0\0\0abc", b"abc"), "matches", "the blob"),
        (Entry(1, 0xA, b"td_hob".ljust(16, b"\0") + b"\x03\0\0\0abc", b"abd"), "not hashed", ""),
        (Entry(4, 0x80000003, bytes(32), b"the image"), "description", ""),
        (Entry(4, 0x12345678, b"who knows", b"other"), "not hashed", ""),
    ],
)  # fmt: skip
def test_preimages_are_checked_by_hashing(entry: Entry, outcome: str, part: str) -> None:
    log = boot([entry], ("sha1", "sha256"))
    found = check_preimage(log.events[1], log.banks)
    assert (found.outcome, found.part) == (outcome, part)


def test_data_that_match_in_one_bank_alone_do_not_match() -> None:
    good, bad = (
        agile_log([MANY[0]], ("sha1", "sha256")),
        agile_log([Entry(5, 5, b"AAAA", b"other")], ("sha1", "sha256")),
    )
    at = good.index(b"\x0b\0", 90)
    log = read_event_log(good[:at] + bad[at : at + 34] + good[at + 34 :])
    assert check_preimage(log.events[1], log.banks).outcome == "not hashed"


@pytest.mark.parametrize(
    ("type_", "data", "words"),
    [
        (0x4, bytes(4), "separator"),
        (0x4, b"\1\0\0\0", "separator that says: an error occurred before this"),
        (0x8, "v2\0".encode("utf-16-le"), 'version of the S-CRTM: "v2"'),
        (0xD, b"grub_cmd: set a=\x1b[2J\0", "grub command: set a=\\x1b[2J"),
        (0xD, b"kernel_cmdline: quiet\0", "kernel command line: quiet"),
        (0xD, ".linux\0".encode("utf-16-le"), "section .linux of a unified kernel image"),
        (0x80000007, b"Exit Boot Services Invocation", "Exit Boot Services Invocation"),
        (0x80000001, variable(EFI_GLOBAL, "SecureBoot", b"\1"), "variable SecureBoot (EFI global): on"),
        (0x80000001, variable(EFI_GLOBAL, "SecureBoot", b""), "variable SecureBoot (EFI global): not set"),
        (0x80000002, variable(EFI_GLOBAL, "BootOrder", b"\1\0\x0a\0"), "variable BootOrder (EFI global): 0001, 000A"),
        (0x80000002, variable(EFI_GLOBAL, "Boot0001", struct.pack("<IH", 0, 4) + "Disk\0".encode("utf-16-le") + bytes.fromhex("7fff0400") + b"xy"), 'variable Boot0001 (EFI global): "Disk", not active, 2 bytes of options'),
        (0x80000003, struct.pack("<QQQQ", 0x1000, 9, 0, 16) + bytes.fromhex("02010c00d041030a000000007fff0400"), "PE image of 9 bytes at 0x1000, loaded from PciRoot(0x0)"),
        (0x80000008, struct.pack("<QQ", 0xFFC00000, 8), "firmware blob of 8 bytes at 0xffc00000"),
        (0x80000006, b"EFI PART", "8 bytes of data, not of the form of its type"),
        (0x80000009, struct.pack("<Q", 1 << 60), "8 bytes of data, not of the form of its type"),
        (0x80000001, b"short", "EFI variable, 5 bytes of data: not of the form of one"),
        (0x80000001, EFI_GLOBAL + struct.pack("<QQ", 1 << 63, 1 << 63), "EFI variable, 32 bytes of data: not of the form of one"),
        (0x6, struct.pack("<II", 0x8F3B22ED, 4) + b"opts", 'load options of the kernel (its command line): tagged 0x8f3b22ed "opts"'),
        (0xA, b"ACPI DATA", "ACPI tables from the VMM (table-loader, rsdp, tables: the data do not say which)"),
        (0x99, b"\x01\x02", "2 bytes of data"),
    ],
)  # fmt: skip
def test_events_are_said_in_words(type_: int, data: bytes, words: str) -> None:
    log = boot([Entry(4, type_, data)])
    assert in_words(log.events[1], "tpm") == words


def test_words_are_one_line_of_bounded_length() -> None:
    log = boot([Entry(8, 0xD, b"grub_cmd: " + b"a\nb\x1b" * 100_000)])
    words = in_words(log.events[1], "tpm")
    assert len(words) <= 4096
    assert words.isprintable()


def test_measurement_logs_say_each_event_and_fold_to_the_value() -> None:
    made = {(one.register, one.algorithm): one for one in measurement_logs(boot(banks=("sha256", "sha384")))}
    log = made["pcr4", "sha384"]
    assert log.tee == "tpm"
    assert log.value == folded(BOOT, "sha384", 4).hex()
    assert [one.op for one in log.events] == ["EV_EFI_ACTION", "EV_SEPARATOR"]


@pytest.mark.parametrize(
    "text",
    [
        '{"pcrs": {"sha256": {"0": "H"}}}',
        '{"pcrs": {"0": "H"}}',
        '{"pcrs": ["H"]}',
        '{"sha256:0": "H"}',
        '{"tpm_quote": {"pcrs": ["H"]}}',
        '{"schema": "rvp/measurements/v1", "measurements": [{"tee": "tpm", "claims": {"pcr0": "H"}}]}',
        "  sha256:\n    0 : 0xH\n",
        "sha256 :\n  0  : H\n",
        "pcrs:\n  sha1:\n  sha256:\n    0 : 0xH\n",
        "PCR-00: H\n",
        "sha256:0=H\n",
        "0: H\n",
    ],
)
def test_pcr_values_are_read_from_where_people_have_them(text: str) -> None:
    found = read_register_values(text.replace("H", "Ab" * 32).encode())
    assert found.values == {Register("pcr0", "sha256"): b"\xab" * 32}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"pcrs": {"0": "zz"}}', "bytes of value"),
        ('{"pcrs": {"24": "' + "00" * 32 + '"}}', "no PCR 24"),
        ('{"pcrs": {"sha1": {"0": "' + "00" * 32 + '"}}}', "sha1 has 20"),
        ('{"pcrs": {"0": 7}}', "must be hex text"),
        ('{"pcrs": 7}', "must be an object"),
        ('{"name": "x"}', '"name" names no PCR'),
        ("{}", "no register values"),
        ("hello\n", "neither a bank nor a PCR"),
        ("sha256:\n 0 : 0x00\n", "sha256 has 32"),
        ("0: " + "00" * 32 + "\n0: " + "11" * 32 + "\n", "has two values"),
        ('{"schema": "rvp/measurements/v1", "measurements": []}', "no measurement in it"),
        ('{"quote": "!"}', "neither hex nor base64"),
    ],
)
def test_values_that_are_none_are_refused(text: str, words: str) -> None:
    from provenance.errors import UsageError

    with pytest.raises(UsageError, match=re.escape(words)):
        read_register_values(text.encode(), name="pcrs.txt")


def test_a_quote_is_read_raw_and_as_text() -> None:
    import base64

    quote = tdx_quote((b"a" * 48, b"b" * 48, b"c" * 48, b"d" * 48))
    for form in (
        quote,
        quote.hex().encode(),
        base64.b64encode(quote),
        json.dumps({"quote": quote.hex()}).encode(),
    ):
        assert read_register_values(form).values[Register("rtmr3", "sha384")] == b"d" * 48


def test_a_quote_that_is_cut_anywhere_is_refused() -> None:
    from verifier.evidence.tdx_quote import QuoteDamaged, read_registers

    for version in (4, 5):
        quote = tdx_quote((b"a" * 48,) * 4, version=version)
        for end in range(len(quote)):
            with pytest.raises(QuoteDamaged):
                read_registers(quote[:end])


def test_live_boots_fold_to_their_live_pcrs(vectors: Path) -> None:
    logs = sorted((vectors / "boot").glob("*.tcglog"))
    assert len(logs) >= 6
    for path in logs:
        given = read_register_values(path.with_suffix(".pcrs.json").read_bytes())
        found = replay_log(read_event_log(path.read_bytes()), given)
        assert found.verdict == "equal", path.name
        assert {one.register for one in found.registers if one.compared == "not in the log"} == {"pcr10"}
        assert sum(one.compared == "equal" for one in found.registers) == 30


def test_logs_of_real_machines_fold_to_the_values_that_others_state(vectors: Path) -> None:
    compared = 0
    rows = list(csv.DictReader((vectors / "eventlog" / "INDEX.tsv").open(), delimiter="\t"))
    for row in rows:
        path = vectors / row["file"]
        if path.suffix == ".json" or row["file"].startswith("tdx/") or "event preimages" in row["source"]:
            continue
        found = {
            (one.bank, one.register): one.value
            for one in replay_log(read_event_log(path.read_bytes())).registers
        }
        stated = re.findall(r"(sha\d+):(\d+)=([0-9a-f]+)", row["expected"])
        if stated:
            assert {(bank, f"pcr{n}"): value for bank, n, value in stated}.items() <= found.items(), path.name
            compared += len(stated)
        else:
            rtmrs = re.findall(r"\b[0-9a-f]{96}\b", row["expected"])
            assert rtmrs
            assert [found["sha384", f"rtmr{n}"] for n in range(len(rtmrs))] == rtmrs, path.name
            compared += len(rtmrs)
    assert compared >= 110


def test_data_of_real_machines_are_what_was_hashed_wherever_the_type_says_so(vectors: Path) -> None:
    commands, odd = 0, []
    for path in sorted((*vectors.glob("eventlog/goel_*"), *vectors.glob("eventlog/trustee_CCEL*"))):
        for event in replay_log(read_event_log(path.read_bytes())).events:
            commands += event.words.startswith("grub command") and event.preimage.outcome == "matches"
            if event.preimage.outcome == "not hashed":
                odd.append((path.name, event.number))
    assert odd == [("goel_tpm_debian-10.bin", 23)]  # a shim that hashed something else for its authority
    assert commands > 90


def test_real_quotes_agree_with_their_logs(vectors: Path) -> None:
    both = read_json_log((vectors / "eventlog" / "dstack_quote-report.json").read_bytes())
    found = replay_log(both.log, values_of_quote(both.quote))
    assert [one.compared for one in found.registers] == ["equal"] * 4
    assert {one.preimage.outcome for one in found.events if one.register == "rtmr3"} == {"matches"}
    log = read_event_log((vectors / "eventlog" / "goel_cos-113-intel-tdx.bin").read_bytes())
    quote = (vectors / "evidence" / "tdx" / "google-cos113-ccel-v4.quote").read_bytes()
    assert [one.compared for one in replay_log(log, values_of_quote(quote)).registers] == ["equal"] * 4


def test_the_quotes_of_other_parsers_are_read(vectors: Path) -> None:
    from verifier.evidence.tdx_quote import read_registers

    for row in csv.DictReader((vectors / "eventlog" / "INDEX.tsv").open(), delimiter="\t"):
        if row["file"].startswith("tdx/"):
            mrtd = read_registers((vectors / row["file"]).read_bytes()).registers["mrtd"]
            assert row["expected"] == f"mrtd {mrtd.hex()}"


def test_a_log_of_sha1_alone_folds() -> None:
    found = replay_log(read_event_log(sha1_log(BOOT)))
    assert found.registers[0].value == folded(BOOT, "sha1", 0).hex()
