"""A small signed Debian archive, made by the tests themselves: an honest fake of what a mirror serves."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pysequoia

DATE = "Sat, 11 Jul 2026 10:16:37 UTC"


def make_key(name: str = "Test Archive <archive@example.org>") -> Any:
    """Make a signing key."""
    return pysequoia.Tsk.generate(name)


def keyring_of(*keys: Any, armour: bool = False) -> bytes:
    """Make a keyring file of keys."""
    certificates = [key.extract_certificate() for key in keys]
    return b"".join(str(one).encode() if armour else bytes(one) for one in certificates)


def make_tar(files: dict[str, bytes | str], *, modes: dict[str, int] | None = None) -> bytes:
    """Make a tar: bytes are files, text "-> target" a link, "= path" a hard link, "dir" a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(f"./{path}")
            info.mtime = 1_700_000_000
            info.mode = (modes or {}).get(path, 0o755 if content == "dir" else 0o644)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
                continue
            if content == "dir":
                info.type = tarfile.DIRTYPE
            elif content.startswith("-> "):
                info.type, info.linkname = tarfile.SYMTYPE, content[3:]
            elif content == "device":
                info.type = tarfile.CHRTYPE
            else:
                info.type, info.linkname = tarfile.LNKTYPE, f"./{content[2:]}"
            tar.addfile(info)
    return buffer.getvalue()


def ar(members: dict[str, bytes]) -> bytes:
    """Write an ar archive."""
    out = b"!<arch>\n"
    for name, data in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data
        out += b"\n" * (len(data) % 2)
    return out


def make_deb(control: str, files: dict[str, bytes | str], **more: Any) -> bytes:
    """Make a package file."""
    scripts = more.pop("scripts", {})
    return ar(
        {
            "debian-binary": b"2.0\n",
            "control.tar.xz": lzma.compress(make_tar({"control": control.encode(), **scripts})),
            "data.tar.xz": lzma.compress(make_tar(files, **more)),
        }
    )


class FakeArchive:
    """An archive in a folder: add packages, then sign."""

    def __init__(self, folder: Path, *, suite: str = "bookworm", origin: str = "Debian") -> None:
        self.folder, self.suite, self.origin = folder, suite, origin
        self.paragraphs: list[str] = []
        self.extra = ""

    def add(self, fields: str, files: dict[str, bytes | str] | None = None, **more: Any) -> bytes:
        """Add a package: `fields` are its control paragraph; Architecture and Version have defaults."""
        for line in ("Architecture: amd64", "Version: 1.0"):
            if line.partition(":")[0] not in fields:
                fields += f"\n{line}"
        values = dict(line.split(": ", 1) for line in fields.splitlines())
        deb = make_deb(fields + "\n", files or {f"usr/share/{values['Package']}": b"x"}, **more)
        path = f"pool/{values['Package']}_{values['Version']}_{values['Architecture']}.deb"
        (self.folder / "pool").mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_bytes(deb)
        digest = hashlib.sha256(deb).hexdigest()
        self.paragraphs.append(f"{fields}\nFilename: {path}\nSize: {len(deb)}\nSHA256: {digest}\n")
        return deb

    def publish(self, *keys: Any, detached: bool = False) -> None:
        """Write and sign the Release."""
        index = "\n".join(self.paragraphs).encode()
        packed = lzma.compress(index)
        room = self.folder / "dists" / self.suite
        (room / "main/binary-amd64").mkdir(parents=True, exist_ok=True)
        (room / "main/binary-amd64/Packages.xz").write_bytes(packed)
        listed = [("main/binary-amd64/Packages", index), ("main/binary-amd64/Packages.xz", packed)]
        release = (
            f"Origin: {self.origin}\nSuite: oldstable\nCodename: {self.suite}\nDate: {DATE}\n{self.extra}"
            "Architectures: amd64\nComponents: main\nSHA256:\n"
        )
        release += "".join(
            f" {hashlib.sha256(data).hexdigest()} {len(data)} {path}\n" for path, data in listed
        )
        text = release.encode()
        for name in ("InRelease", "Release", "Release.gpg"):
            (room / name).unlink(missing_ok=True)
        if detached:
            (room / "Release").write_bytes(text)
            signatures = [
                pysequoia.sign(key.signer(), text, mode=pysequoia.SignatureMode.DETACHED) for key in keys
            ]
            (room / "Release.gpg").write_bytes(b"".join(signatures))
        else:
            signed = pysequoia.sign(keys[0].signer(), text, mode=pysequoia.SignatureMode.CLEAR)
            (room / "InRelease").write_bytes(signed)
