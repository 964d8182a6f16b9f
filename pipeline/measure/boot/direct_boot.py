"""Direct boot (`-kernel`, `-initrd`, `-append`): the PCRs that the firmware and the kernel's EFI stub extend.

What the image decides: PCR 4 (kernel, the boot manager's action, separator), PCR 5 (separator, exit of the
boot services) and PCR 9 (load options, initrd). On a TD the same events extend RTMR1 and RTMR2.

| event | register | digest of |
|---|---|---|
| EV_EFI_BOOT_SERVICES_APPLICATION | PCR 4, RTMR1 | the kernel, Authenticode, as QEMU hands it over |
| EV_EFI_ACTION | PCR 4, RTMR1 | "Calling EFI Application from Boot Option" |
| EV_SEPARATOR | PCR 4 and 5; RTMR1 (EDK II 202411 on) | 00000000 |
| EV_EFI_ACTION | PCR 5, RTMR1 | "Exit Boot Services Invocation", "… Returned with Success" |
| EV_EVENT_TAG | PCR 9, RTMR2 | load options: UTF-16, with the terminating NUL |
| EV_EVENT_TAG | PCR 9, RTMR2 | the initrd, when there is one |

The firmware appends ` initrd=initrd` to the command line when there is an initrd (EDK II from 202508 on:
`initrd=initrd ` before it). The kernel's EFI stub measures load options and initrd from 5.18 on with a TPM,
from 6.9 on in a TD.

Source: EDK II `QemuKernelLoaderFsDxe`, `GenericQemuLoadImageLib.c`, `DxeTpm2MeasureBootLib.c`,
`Tcg2Dxe.c`/`TdTcg2Dxe.c`; Linux `drivers/firmware/efi/libstub/efi-stub-helper.c`. Compared with live boots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from pipeline.measure.boot.bzimage import KernelHeader, qemu_patched, read_header
from pipeline.measure.boot.pe import Pe
from pipeline.measure.boot.register import BANKS, BootEvent, check_banks, event, log_of
from pipeline.measure.measured import Measured, subject_of
from provenance.claims import ClaimValue, Measurement, Subject, Unpredicted
from provenance.errors import UsageError

CALLING: Final = b"Calling EFI Application from Boot Option"
EXIT_INVOKED: Final = b"Exit Boot Services Invocation"
EXIT_RETURNED: Final = b"Exit Boot Services Returned with Success"
InitrdName = Literal["suffix", "prefix"]
_MEASURES_WITH_TPM: Final = (5, 18)
_MEASURES_IN_A_TD: Final = (6, 9)


class BadCommandLine(UsageError):
    """A kernel command line that firmware cannot hand over: it has a NUL byte, or is not ASCII.

    Cure: the firmware widens each byte to UTF-16; write the command line in ASCII.
    """

    code = "RVP-5422"


class DirectBoot(msgspec.Struct, frozen=True, kw_only=True):
    """What is booted, and by what.

    Attributes:
        kernel: the file.
        initrd: its bytes; empty without one.
        cmdline: as given with `-append`.
        memory_bytes: of the machine; only a patched kernel depends on it.
        header_patch: whether QEMU patches the setup header (up to 9.x; not for SEV guests).
        initrd_name: where the firmware writes `initrd=initrd`: EDK II `suffix` up to 202505, then `prefix`.
        separator_in_rtmr1: EDK II 202411 on.
    """

    kernel: bytes | memoryview
    initrd: bytes | memoryview = b""
    cmdline: bytes = b""
    memory_bytes: int = 2 << 30
    header_patch: bool = True
    initrd_name: InitrdName = "suffix"
    separator_in_rtmr1: bool = True


def separator(banks: Sequence[str]) -> BootEvent:
    """Make the event that ends the firmware's own measurements of a register."""
    return event("EV_SEPARATOR", "separator", bytes(4), banks=banks)


def calling(banks: Sequence[str]) -> BootEvent:
    """Make the event of the boot manager before it starts a boot option."""
    return event("EV_EFI_ACTION", CALLING.decode(), CALLING, banks=banks)


def exits(banks: Sequence[str]) -> tuple[BootEvent, BootEvent]:
    """Make the two events of the end of the boot services."""
    first, second = (
        event("EV_EFI_ACTION", one.decode(), one, banks=banks) for one in (EXIT_INVOKED, EXIT_RETURNED)
    )
    return first, second


def application(label: str, pe: Pe, banks: Sequence[str]) -> BootEvent:
    """Make the event of a PE file that firmware loads."""
    return BootEvent(
        op="EV_EFI_BOOT_SERVICES_APPLICATION",
        label=label,
        length=len(pe.data),
        digests={bank: pe.authenticode(bank) for bank in banks},
    )


def load_options(cmdline: bytes, *, with_initrd: bool, initrd_name: InitrdName) -> bytes:
    """Write the load options as the firmware makes them of a command line: UTF-16 with its NUL.

    Raises:
        BadCommandLine: RVP-5422.
    """
    if b"\0" in cmdline or not cmdline.isascii():
        raise BadCommandLine(f"the command line {cmdline[:64]!r} has a NUL, or bytes that are not ASCII")
    text = cmdline.decode("ascii")
    if with_initrd:
        text = f"{text} initrd=initrd" if initrd_name == "suffix" else f"initrd=initrd {text}"
    return (text + "\0").encode("utf-16-le") if text else b""


def stub_events(
    options: bytes, initrd: Sequence[bytes | memoryview], banks: Sequence[str]
) -> tuple[BootEvent, ...]:
    """Make the events of the kernel's EFI stub: load options, initrd; neither when it is empty."""
    made = []
    if options:
        made.append(event("EV_EVENT_TAG", "LOADED_IMAGE::LoadOptions", options, banks=banks))
    if any(len(one) for one in initrd):
        made.append(event("EV_EVENT_TAG", "Linux initrd", *initrd, banks=banks))
    return tuple(made)


def stub_measures(header: KernelHeader | None, *, td: bool) -> bool:
    """Tell whether the kernel's EFI stub measures; a kernel that does not say its version is a new one."""
    release = None if header is None else header.release
    return release is None or release >= (_MEASURES_IN_A_TD if td else _MEASURES_WITH_TPM)


def direct_events(
    boot: DirectBoot, *, banks: Sequence[str] = BANKS, name: str = ""
) -> dict[str, tuple[BootEvent, ...]]:
    """Give the events of each register, in order: pcr4, pcr5, pcr9; and rtmr1, rtmr2.

    Args:
        boot: what is booted.
        banks: which digests; RTMRs need `sha384`.
        name: of the kernel, for messages.

    Raises:
        BadPe: RVP-5420. BadKernel: RVP-5421. BadCommandLine: RVP-5422. UnknownBank: RVP-5429.

    Cost: one pass over kernel and initrd for each bank; the kernel is copied once when it is patched.
    """
    check_banks(banks)
    header = read_header(boot.kernel, name=name)
    data = memoryview(boot.kernel)
    if boot.header_patch and header is not None:
        data = memoryview(
            b"".join(
                qemu_patched(
                    boot.kernel,
                    cmdline=boot.cmdline,
                    initrd_size=len(boot.initrd),
                    memory_bytes=boot.memory_bytes,
                    name=name,
                )
            )
        )
    kernel = application("kernel", Pe(data, name=name), banks)
    options = load_options(boot.cmdline, with_initrd=bool(len(boot.initrd)), initrd_name=boot.initrd_name)
    by_stub = stub_events(options, (boot.initrd,), banks)
    between = (separator(banks),) if boot.separator_in_rtmr1 else ()
    return {
        "pcr4": (kernel, calling(banks), separator(banks)),
        "pcr5": (separator(banks), *exits(banks)),
        "pcr9": by_stub if stub_measures(header, td=False) else (),
        "rtmr1": (kernel, calling(banks), *between, *exits(banks)),
        "rtmr2": by_stub if stub_measures(header, td=True) else (),
    }


def measure_direct_boot(boot: DirectBoot, *, name: str, banks: Sequence[str] = BANKS) -> Measured:
    """Measure a direct boot: PCR 4, 5 and 9 of each bank, with their logs.

    Raises:
        BadPe: RVP-5420. BadKernel: RVP-5421. BadCommandLine: RVP-5422. UnknownBank: RVP-5429.
    """
    events = direct_events(boot, banks=banks, name=name)
    pcrs = {register: made for register, made in events.items() if register.startswith("pcr")}
    return measured_pcrs(subject_of(memoryview(boot.kernel), name), pcrs, {"boot": "direct"}, banks)


def measured_pcrs(
    subject: Subject,
    registers: dict[str, tuple[BootEvent, ...]],
    variant: dict[str, str | int],
    banks: Sequence[str],
    unpredicted: tuple[Unpredicted, ...] = (),
) -> Measured:
    """Write the PCRs of one variant, a measurement for each bank."""
    measurements, logs = [], []
    for bank in banks:
        made = [log_of("tpm", register, events, bank) for register, events in registers.items()]
        claims: dict[str, ClaimValue] = {one.register: one.value for one in made}
        measurements.append(
            Measurement(
                tee="tpm",
                subject=subject,
                variant={"bank": bank, **variant},
                claims=claims,
                unpredicted=unpredicted,
            )
        )
        logs += made
    return Measured(measurements=tuple(measurements), logs=tuple(logs))
