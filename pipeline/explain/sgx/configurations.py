"""Single changes of an enclave's configuration, for layouts that the enclave itself knows.

A configuration is changed in one key to one of a declared list of values, and the enclave is laid out again
by its own format. Configurations are known by their syntax: the SDK's XML, `KEY=VALUE` of Open Enclave, the
TOML of freestanding enclaves and of Gramine's manifest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

_POWERS: Final = tuple(1 << power for power in range(12, 32))
_COMMON: Final = (0, *sorted({*_POWERS, *(3 * one for one in _POWERS)}))
_STACKS: Final = tuple(one for one in _COMMON if 0 < one <= 1 << 26)
_COUNTS: Final = tuple(range(1, 65))
_FLAG: Final = (0, 1)

# key -> values, in the units of the configuration
_XML: Final[dict[str, tuple[int, ...]]] = {
    "HeapMaxSize": _COMMON[1:],
    "HeapInitSize": _COMMON[1:],
    "HeapMinSize": _COMMON[1:],
    "StackMaxSize": _STACKS,
    "StackMinSize": _STACKS,
    "TCSNum": _COUNTS,
    "TCSMaxNum": _COUNTS,
    "TCSMinPool": _COUNTS,
    "TCSPolicy": _FLAG,
    "ReservedMemMaxSize": _COMMON,
    "ReservedMemInitSize": _COMMON,
    "ReservedMemMinSize": _COMMON,
    "ReservedMemExecutable": _FLAG,
    "UserRegionSize": _COMMON,
    "MiscSelect": _FLAG,
    "EnableAEXNotify": _FLAG,
    "PKRU": (0, 1, 2),
    "AMX": (0, 1, 2),
    "EnableIPPFIPS": _FLAG,
}
_CONF: Final[dict[str, tuple[int, ...]]] = {
    "NumHeapPages": tuple(one >> 12 for one in _COMMON[1:]),
    "NumStackPages": tuple(one >> 12 for one in _STACKS),
    "NumTCS": _COUNTS,
    "Debug": _FLAG,
    "ProductID": tuple(range(17)),
    "SecurityVersion": tuple(range(33)),
    "CapturePFGPExceptions": _FLAG,
    "CreateZeroBaseEnclave": _FLAG,
}
_FREESTANDING: Final[dict[str, tuple[str, ...]]] = {
    "heap": tuple(f'"{one}B"' for one in _COMMON),
    "stack": tuple(f'"{one}B"' for one in _STACKS),
    "threads": tuple(map(str, _COUNTS)),
    "aex_notify": ("true", "false"),
}
_ENCLAVES: Final = tuple(1 << power for power in range(20, 41))
_GRAMINE: Final[dict[str, tuple[str, ...]]] = {
    "enclave_size": (
        *(f'"{one >> 20}M"' for one in _ENCLAVES if one < 1 << 35),
        *(f'"{one >> 30}G"' for one in _ENCLAVES if one >= 1 << 30),
    ),
    "max_threads": tuple(map(str, _COUNTS)),
    "thread_num": tuple(map(str, _COUNTS)),
    "edmm_enable": ("true", "false"),
    "debug": ("true", "false"),
}


class ChangedConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration with one key changed."""

    kind: str
    change: str
    config: bytes


def changed_configurations(config: bytes) -> tuple[Iterator[ChangedConfiguration], ...]:
    r"""Give the declared changes of a configuration, whatever its syntax: one iterator for each key.

    Example:
        >>> first = next(changed_configurations(b'NumTCS=1')[0])
        >>> first.change, first.config
        ('NumHeapPages 1 instead of the default', b'NumTCS=1\nNumHeapPages=1\n')
    """
    text = config.decode("utf-8", "replace")
    if text.lstrip().startswith("<"):
        return tuple(_xml(text, key, values) for key, values in _XML.items())
    if re.search(r'^\s*schema\s*=\s*"rvp/enclave', text, re.MULTILINE):
        return tuple(_toml(text, key, values, "") for key, values in _FREESTANDING.items())
    if re.search(r"^\s*(sgx\.|\[sgx\]|loader\.|libos\.)", text, re.MULTILINE):
        return tuple(_toml(text, key, values, "sgx.") for key, values in _GRAMINE.items())
    return tuple(_conf(text, key, values) for key, values in _CONF.items())


def _made(key: str, value: str, before: str | None, text: str) -> ChangedConfiguration:
    was = "the default" if before is None else before
    return ChangedConfiguration(
        kind=f"configuration: {key}", change=f"{key} {value} instead of {was}", config=text.encode()
    )


def _xml(text: str, key: str, values: tuple[int, ...]) -> Iterator[ChangedConfiguration]:
    end = "</EnclaveConfiguration>"
    found = re.search(rf"<{key}>\s*([^<]*?)\s*</{key}>", text)
    for value in values:
        new = f"<{key}>{value:#x}</{key}>"
        if found is None:
            yield _made(key, f"{value:#x}", None, text.replace(end, f"{new}{end}"))
        elif _number(found[1]) != value:
            yield _made(key, f"{value:#x}", found[1], text[: found.start()] + new + text[found.end() :])


def _conf(text: str, key: str, values: tuple[int, ...]) -> Iterator[ChangedConfiguration]:
    found = re.search(rf"^\s*{key}\s*=\s*(\S+).*$", text, re.MULTILINE)
    for value in values:
        new = f"{key}={value}"
        if found is None:
            yield _made(key, str(value), None, f"{text.rstrip()}\n{new}\n")
        elif _number(found[1]) != value:
            yield _made(key, str(value), found[1], text[: found.start()] + new + text[found.end() :])


def _toml(text: str, key: str, values: tuple[str, ...], prefix: str) -> Iterator[ChangedConfiguration]:
    found = re.search(rf"^\s*(?:{re.escape(prefix)})?{key}\s*=\s*([^#\n]*?)\s*$", text, re.MULTILINE)
    table = re.search(r"^\s*\[sgx\]\s*\n", text, re.MULTILINE) if prefix else None
    for value in values:
        if found is None and table is not None:
            yield _made(key, value, None, f"{text[: table.end()]}{key} = {value}\n{text[table.end() :]}")
        elif found is None:
            yield _made(key, value, None, f"{prefix}{key} = {value}\n{text}")
        elif found[1] != value:
            start, end = found.span(1)
            yield _made(key, value, found[1], text[:start] + value + text[end:])


def _number(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None
