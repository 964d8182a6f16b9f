"""Headers of a tar that somebody else wrote: long names and pax records are bounded, in size and in a row.

Python's tarfile reads such an extension whole into memory, whatever size its header names, and calls itself
for the header behind it: a small compressed file could ask for gigabytes, or for a stack without end.

    tarfile.open(fileobj=stream, tarinfo=BoundedHeader)
"""

from __future__ import annotations

import tarfile
from typing import Any, Final, Self

MOST_BYTES: Final = 1 << 20  # PATH_MAX is 4096; extended attributes have at most 64 KiB each
MOST_IN_A_ROW: Final = 8
_EXTENSIONS: Final = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class BoundedHeader(tarfile.TarInfo):
    """A header that refuses extensions beyond the bounds, as tarfile refuses what is broken."""

    def _proc_member(self, archive: Any) -> Self:
        process: Any = super()._proc_member  # type: ignore[misc]  # typeshed leaves it out
        if self.type not in _EXTENSIONS:
            return process(archive)  # type: ignore[no-any-return]  # as above
        if self.size > MOST_BYTES:
            raise tarfile.ReadError(f"a header extension of {self.size} bytes")
        deep = getattr(archive, "extensions_in_a_row", 0) + 1
        if deep > MOST_IN_A_ROW:
            raise tarfile.ReadError(f"more than {MOST_IN_A_ROW} header extensions in a row")
        archive.extensions_in_a_row = deep
        try:
            return process(archive)  # type: ignore[no-any-return]  # as above
        finally:
            archive.extensions_in_a_row = deep - 1
