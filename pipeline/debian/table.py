"""The table: what maintainer scripts would have made, supplied without running any.

`docs/reference/debian-base.md` shows it to users. A change here changes root filesystems: raise
`TABLE_VERSION` with it, which is a part of every lock.
"""

from __future__ import annotations

from typing import Final

from pipeline.debian.ldcache import make_cache
from pipeline.debian.rootfs import ALIASES, Control, Image, Node

TABLE_VERSION: Final = 1
BUILDER_ID: Final = 1000

# (generic path, name, what it is, priority): the highest priority that is there wins, as in
# update-alternatives(1); the numbers are those of the packages' scripts.
ALTERNATIVES: Final[tuple[tuple[str, str, str, int], ...]] = (
    ("/usr/bin/cc", "cc", "/usr/bin/gcc", 20),
    ("/usr/bin/cc", "cc", "/usr/bin/clang", 10),
    ("/usr/bin/c++", "c++", "/usr/bin/g++", 20),
    ("/usr/bin/c++", "c++", "/usr/bin/clang++", 10),
    ("/usr/bin/c89", "c89", "/usr/bin/c89-gcc", 20),
    ("/usr/bin/c99", "c99", "/usr/bin/c99-gcc", 20),
    ("/usr/lib/cpp", "cpp", "/usr/bin/cpp", 10),
    ("/usr/bin/awk", "awk", "/usr/bin/gawk", 10),
    ("/usr/bin/awk", "awk", "/usr/bin/mawk", 5),
    ("/usr/bin/nawk", "nawk", "/usr/bin/gawk", 10),
    ("/usr/bin/nawk", "nawk", "/usr/bin/mawk", 5),
    ("/usr/bin/which", "which", "/usr/bin/which.debianutils", 0),
    ("/usr/bin/pager", "pager", "/usr/bin/less", 77),
    ("/usr/bin/pager", "pager", "/usr/bin/more", 50),
    ("/usr/bin/editor", "editor", "/usr/bin/nano", 40),
    ("/usr/bin/editor", "editor", "/usr/bin/vim.basic", 30),
    ("/usr/bin/editor", "editor", "/usr/bin/vim.tiny", 15),
    ("/usr/bin/vi", "vi", "/usr/bin/vim.basic", 30),
    ("/usr/bin/vi", "vi", "/usr/bin/vim.tiny", 15),
    ("/usr/bin/vim", "vim", "/usr/bin/vim.basic", 30),
    ("/usr/bin/ex", "ex", "/usr/bin/vim.basic", 30),
    ("/usr/bin/ex", "ex", "/usr/bin/vim.tiny", 15),
    ("/usr/bin/yacc", "yacc", "/usr/bin/bison.yacc", 90),
    ("/usr/bin/yacc", "yacc", "/usr/bin/byacc", 80),
    ("/usr/bin/fakeroot", "fakeroot", "/usr/bin/fakeroot-sysv", 50),
    ("/usr/bin/fakeroot", "fakeroot", "/usr/bin/fakeroot-tcp", 30),
    ("/usr/bin/faked", "faked", "/usr/bin/faked-sysv", 50),
    ("/usr/bin/faked", "faked", "/usr/bin/faked-tcp", 30),
    ("/usr/bin/lzma", "lzma", "/usr/bin/xz", 20),
    ("/usr/bin/unlzma", "unlzma", "/usr/bin/unxz", 20),
    ("/usr/bin/lzcat", "lzcat", "/usr/bin/xzcat", 20),
    ("/usr/bin/lzmore", "lzmore", "/usr/bin/xzmore", 20),
    ("/usr/bin/lzless", "lzless", "/usr/bin/xzless", 20),
    ("/usr/bin/lzdiff", "lzdiff", "/usr/bin/xzdiff", 20),
    ("/usr/bin/lzcmp", "lzcmp", "/usr/bin/xzcmp", 20),
    ("/usr/bin/lzgrep", "lzgrep", "/usr/bin/xzgrep", 20),
    ("/usr/bin/lzegrep", "lzegrep", "/usr/bin/xzegrep", 20),
    ("/usr/bin/lzfgrep", "lzfgrep", "/usr/bin/xzfgrep", 20),
    ("/usr/bin/w", "w", "/usr/bin/w.procps", 50),
    ("/usr/sbin/rmt", "rmt", "/usr/sbin/rmt-tar", 50),
    ("/usr/bin/rename", "rename", "/usr/bin/file-rename", 70),
    ("/usr/bin/nc", "nc", "/usr/bin/nc.openbsd", 50),
    ("/usr/bin/nc", "nc", "/usr/bin/nc.traditional", 10),
    ("/usr/bin/automake", "automake", "/usr/bin/automake-1.17", 117),
    ("/usr/bin/automake", "automake", "/usr/bin/automake-1.16", 116),
    ("/usr/bin/aclocal", "aclocal", "/usr/bin/aclocal-1.17", 117),
    ("/usr/bin/aclocal", "aclocal", "/usr/bin/aclocal-1.16", 116),
    ("/usr/bin/java", "java", "/usr/lib/jvm/java-21-openjdk-amd64/bin/java", 2111),
    ("/usr/bin/java", "java", "/usr/lib/jvm/java-17-openjdk-amd64/bin/java", 1711),
    ("/usr/bin/javac", "javac", "/usr/lib/jvm/java-21-openjdk-amd64/bin/javac", 2111),
    ("/usr/bin/javac", "javac", "/usr/lib/jvm/java-17-openjdk-amd64/bin/javac", 1711),
    ("/usr/bin/jar", "jar", "/usr/lib/jvm/java-21-openjdk-amd64/bin/jar", 2111),
    ("/usr/bin/jar", "jar", "/usr/lib/jvm/java-17-openjdk-amd64/bin/jar", 1711),
    *(
        (
            f"/usr/lib/x86_64-linux-gnu/lib{name}.so{version}",
            f"lib{name}.so{version}-x86_64-linux-gnu",
            f"/usr/lib/x86_64-linux-gnu/{variant}/lib{name}.so{version}",
            priority,
        )
        for name, stem in (("blas", "blas"), ("lapack", "lapack"))
        for version in (".3", "")
        for variant, priority in ((stem, 10), ("openblas-pthread", 100))
    ),
)

# (copy of a package, place that the script gives it)
COPIES: Final = (
    ("usr/share/base-files/dot.profile", "root/.profile"),
    ("usr/share/base-files/dot.bashrc", "root/.bashrc"),
    ("usr/share/base-files/profile", "etc/profile"),
    ("usr/share/base-files/motd", "etc/motd"),
    ("usr/share/base-files/info.dir", "usr/share/info/dir"),
    ("usr/share/libc-bin/nsswitch.conf", "etc/nsswitch.conf"),
    ("usr/share/debianutils/shells", "etc/shells"),
)

# (folder, mode, group)
FOLDERS: Final = (
    ("boot", 0o755, 0),
    ("dev", 0o755, 0),
    ("etc/alternatives", 0o755, 0),
    ("etc/opt", 0o755, 0),
    ("home", 0o755, 0),
    ("media", 0o755, 0),
    ("mnt", 0o755, 0),
    ("opt", 0o755, 0),
    ("proc", 0o755, 0),
    ("root", 0o700, 0),
    ("run", 0o755, 0),
    ("run/lock", 0o1777, 0),
    ("srv", 0o755, 0),
    ("sys", 0o755, 0),
    ("tmp", 0o1777, 0),
    ("usr/local/bin", 0o755, 0),
    ("usr/local/etc", 0o755, 0),
    ("usr/local/games", 0o755, 0),
    ("usr/local/include", 0o755, 0),
    ("usr/local/lib", 0o755, 0),
    ("usr/local/sbin", 0o755, 0),
    ("usr/local/share/man", 0o755, 0),
    ("usr/local/src", 0o755, 0),
    ("var/lib/dpkg/info", 0o755, 0),
    ("var/lib/dpkg/alternatives", 0o755, 0),
    ("var/lib/dpkg/updates", 0o755, 0),
    ("var/mail", 0o2775, 8),
    ("var/opt", 0o755, 0),
    ("var/tmp", 0o1777, 0),
)

LINKS: Final = (
    ("etc/dpkg/origins/default", "debian"),
    ("usr/local/man", "share/man"),
    ("var/spool/mail", "../mail"),
)


def finish(image: Image) -> None:
    """Supply everything that the table has."""
    _merged_usr(image)
    for folder, mode, gid in FOLDERS:
        image.put_folder(folder, mode, gid=gid)
    for source, target in COPIES:
        if image.find(source) and not image.find(target):
            image.put_file(target, image.content(source))
    for link, target in LINKS:
        image.put_link(link, target)
    _accounts(image)
    _shells(image)
    _alternatives(image)
    _certificates(image)
    _timezone(image)
    _dpkg(image)
    image.put_file("etc/ld.so.cache", make_cache(image))


def _merged_usr(image: Image) -> None:
    for old, new in ALIASES.items():
        if old in {"bin", "sbin", "lib"}:
            image.put_folder(new)
        present = old.startswith("var/") or any(path.startswith(new + "/") for path in image.nodes)
        if present or new in image.nodes:
            image.nodes.pop(old, None)
            parent = old.rpartition("/")[0]
            if parent:
                image.put_folder(parent)
            image.nodes[old] = _link(old, f"/{new}" if parent else new)


def _link(path: str, target: str) -> Node:
    return Node(path=path, kind="symlink", mode=0o777, mtime=-1, target=target)


def _accounts(image: Image) -> None:
    """Make passwd and group from base-passwd's masters, and the user that steps may run as."""
    passwd = image.content("usr/share/base-passwd/passwd.master") or b"root:*:0:0:root:/root:/bin/sh\n"
    group = image.content("usr/share/base-passwd/group.master") or b"root:*:0:\n"
    passwd += b"builder:*:%d:%d:builder:/home/builder:/bin/sh\n" % (BUILDER_ID, BUILDER_ID)
    group += b"builder:*:%d:\n" % BUILDER_ID
    image.put_file("etc/passwd", passwd)
    image.put_file("etc/group", group)
    image.put_folder("home/builder", 0o755, uid=BUILDER_ID, gid=BUILDER_ID)


def _shells(image: Image) -> None:
    """Add the shells that packages register."""
    known = image.content("etc/shells").decode().splitlines() or ["# /etc/shells: valid login shells"]
    for path in sorted(image.nodes):
        if path.startswith("usr/share/debianutils/shells.d/") and image.nodes[path].kind == "file":
            for shell in image.content(path).decode().splitlines():
                twin = "/usr" + shell if not shell.startswith("/usr/") else shell.removeprefix("/usr")
                known += [one for one in (shell, twin) if one.startswith("/") and one not in known]
    image.put_file("etc/shells", "".join(f"{line}\n" for line in known).encode())


def _alternatives(image: Image) -> None:
    best: dict[str, tuple[int, str, str]] = {}
    for generic, name, target, priority in ALTERNATIVES:
        if image.find(target) and (generic not in best or priority > best[generic][0]):
            best[generic] = (priority, name, target)
    for generic, (_, name, target) in sorted(best.items()):
        if image.resolve(generic) not in image.nodes:
            image.put_link(generic, f"/etc/alternatives/{name}")
            image.put_link(f"etc/alternatives/{name}", target)


def _certificates(image: Image) -> None:
    """Make the one file of certificate authorities that OpenSSL, GnuTLS and Python look for."""
    folder = "usr/share/ca-certificates/"
    names = [path.removeprefix(folder) for path in sorted(image.nodes) if path.startswith(folder)]
    names = [name for name in names if name.endswith(".crt")]
    if not names:
        return
    image.put_file("etc/ca-certificates.conf", "".join(f"{name}\n" for name in names).encode())
    contents = [image.content(folder + name) for name in names]
    bundle = b"".join(data if data.endswith(b"\n") else data + b"\n" for data in contents)
    image.put_file("etc/ssl/certs/ca-certificates.crt", bundle)
    for name in names:
        stem = name.rpartition("/")[2].removesuffix(".crt")
        image.put_link(f"etc/ssl/certs/{stem}.pem", f"/{folder}{name}")


def _timezone(image: Image) -> None:
    if image.find("usr/share/zoneinfo/Etc/UTC"):
        image.put_link("etc/localtime", "/usr/share/zoneinfo/Etc/UTC")
        image.put_file("etc/timezone", b"Etc/UTC\n")


def _dpkg(image: Image) -> None:
    """Write dpkg's database, so that `dpkg -l`, `dpkg -S` and dpkg-shlibdeps know what is there."""
    controls = sorted(image.controls, key=lambda control: control.name)
    status = "".join(f"{_installed(control)}\n\n" for control in controls)
    image.put_file("var/lib/dpkg/status", status.encode())
    for name in ("available", "diversions", "statoverride", "lock", "lock-frontend"):
        image.put_file(f"var/lib/dpkg/{name}", b"")
    image.put_file("var/lib/dpkg/info/format", b"1\n")
    for control in controls:
        stem = f"var/lib/dpkg/info/{control.name}"
        image.put_file(f"{stem}.list", "".join(f"{path}\n" for path in control.paths).encode())
        for name, data in sorted(control.files.items()):
            image.put_file(f"{stem}.{name}", data)


def _installed(control: Control) -> str:
    first, _, rest = control.paragraph.partition("\n")
    return f"{first}\nStatus: install ok installed\n{rest}"
