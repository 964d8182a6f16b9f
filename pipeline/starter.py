"""The first spec: a commented `rvp.toml`, from nothing, from a Dockerfile, or from an SGX configuration.

Every text that comes out of here is read back by `parse_spec` before anybody gets it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final, Literal

from pipeline.dockerfile import Dockerfile, Stage, read_dockerfile
from pipeline.spec import parse_spec

Kind = Literal["sgx", "tdx", "snp"]

_HEAD: Final = """\
# What is built, measured and rebuilt. `rvp lock` pins what it names; `rvp build` builds it.
# docs/reference/spec.md explains every key; `rvp schema spec` prints the schema for editors.
schema = "rvp/spec/v1"

[project]
name = {name}
version = "0.1.0"
source_date_epoch = "commit"        # the time that files get; or Unix seconds
"""

_TOOLCHAIN: Final = """
# A root filesystem for steps. Packages are pinned by `rvp lock`; one frozen suite stays buildable.
[base.toolchain]
debian = {{ suites = ["bookworm"], packages = [{packages}] }}
# or a container image, pinned by digest:   image = "debian:12"
# or a tar beside this file:                tar = "base.tar", sha256 = "..."

[source.app]
path = {path}
# or: git = "https://example.org/app.git", rev = "v1.0"
# or: url = "https://example.org/app-1.0.tar.gz", sha256 = "..."

# The network is reached in [fetch] alone, in `rvp lock`; what comes is pinned by content:
# [fetch.deps]
# base = "toolchain"
# needs = ["source.app"]
# run = ["npm", "ci", "--prefix", "{{out}}"]
# hosts = ["registry.example.org"]
"""

_SGX_STEP: Final = """
# One command in one container without network. Placeholders let the build path be varied.
[[step]]
id = "enclave"
base = "toolchain"
needs = ["source.app"]
run = ["make", "-C", "{source.app}", "OUT={out}"]
outputs = ["enclave.so"]
"""

_SGX_PACK: Final = """
# rvp lays out the enclave itself, the same way every time.
[[pack]]
id = "signed"
kind = "sgx"
image = "step.enclave:enclave.so"
output = "enclave.signed.so"
{config}# sigstruct = "enclave.sig"          # the owner's published signature: see `rvp sgx sign`

[[measure]]
id = "enclave"
tee = "sgx"
image = "pack.signed:enclave.signed.so"
"""

_VM: Final = """
# One command in one container without network. Placeholders let the build path be varied.
[[step]]
id = "initrd"
base = "toolchain"
needs = ["source.app"]
run = ["make", "-C", "{{source.app}}", "OUT={{out}}", "initrd.cpio"]
outputs = ["initrd.cpio"]

[[measure]]
id = "vm"
tee = "{tee}"
layer = "image"
firmware = "base.toolchain:/usr/share/ovmf/OVMF.fd"
# kernel = "base.toolchain:/boot/vmlinuz"
initrd = "step.initrd:initrd.cpio"
cmdline = "console=ttyS0"
vcpus = [1, 2]                      # one set of values for each shape
memory = ["2GiB"]
"""

_REBUILD: Final = """
# Built this often in all, with these things different each time.
[rebuild]
times = 2
vary = [
    "time", "timezone", "hostname", "locale", "umask", "user", "home", "environment",
    "build-path", "cpus", "file-order", "kernel-release",
]
"""


def starter_spec(name: str, tee: Kind, *, source: str = "src") -> str:
    """Write a spec from nothing, for one TEE."""
    packages = ["gcc", "libc6-dev", "make"] if tee == "sgx" else ["cpio", "gcc", "libc6-dev", "make", "ovmf"]
    body = _SGX_STEP + _SGX_PACK.format(config="") if tee == "sgx" else _VM.format(tee=tee)
    return _checked(_head(name) + _toolchain(packages, source) + body + _REBUILD)


def from_enclave_config(name: str, config: str, *, source: str = "src") -> str:
    """Write a spec for an enclave whose configuration file exists.

    Args:
        name: of the project.
        config: path of the configuration, relative to the spec; the file is kept and named.
        source: the folder of the source.
    """
    line = f"config = {_text(config)}\n"
    body = _SGX_STEP + _SGX_PACK.format(config=line)
    return _checked(_head(name) + _toolchain(["gcc", "libc6-dev", "make"], source) + body + _REBUILD)


def from_dockerfile(name: str, text: str) -> str:
    """Translate a Dockerfile; what could not be translated stands as comments at the end.

    Raises:
        NotADockerfile: RVP-1121.
    """
    found = read_dockerfile(text)
    parts = [_head(name)]
    if any(stage.sources for stage in found.stages):
        parts.append('\n# What COPY takes from: the build context.\n[source.context]\npath = "."\n')
        parts.append('exclude = ["rvp.toml", "rvp.lock"]\n')
    parts += [_base(stage, found) for stage in found.stages]
    parts += [_step(stage, found) for stage in found.stages]
    parts += [_oci_hint(found.stages[-1]), _REBUILD, _left(found)]
    return _checked("".join(parts))


def _head(name: str) -> str:
    return _HEAD.format(name=_text(name))


def _toolchain(packages: list[str], source: str) -> str:
    return _TOOLCHAIN.format(packages=", ".join(map(_text, packages)), path=_text(source))


def _base(stage: Stage, found: Dockerfile) -> str:
    if stage.parent:
        return ""
    if stage.suite:
        family = [stage, *(other for other in found.stages if _origin(other, found) is stage)]
        packages = sorted({package for one in family for package in one.packages} | {"dash", "coreutils"})
        listed = ", ".join(map(_text, packages))
        return f'\n[base.{stage.name}]\ndebian = {{ suites = ["{stage.suite}"], packages = [{listed}] }}\n'
    if stage.image == "scratch":
        return (
            f"\n# FROM scratch has no shell for the step; this base lends it one.\n[base.{stage.name}]\n"
            'debian = { suites = ["bookworm"], packages = ["coreutils", "dash"] }\n'
        )
    return f"\n[base.{stage.name}]\nimage = {_text(stage.image)}\n"


def _origin(stage: Stage, found: Dockerfile) -> Stage:
    while stage.parent:
        stage = next(other for other in found.stages if other.name == stage.parent)
    return stage


def _step(stage: Stage, found: Dockerfile) -> str:
    needs = [*(["source.context"] if stage.sources else []), *(f"step.{name}" for name in stage.needs)]
    script = ['root="$PWD/root"', 'mkdir -p "$root" && cd "$root"', *stage.script, 'cp -R "$root" {out}/root']
    lines = [
        "\n# {work}/root stands for / of the stage: look at absolute paths in the script.",
        "[[step]]",
        f"id = {_text(stage.name)}",
        f"base = {_text(_origin(stage, found).name)}",
        f"needs = [{', '.join(map(_text, needs))}]",
        'run = ["sh", "-euc", """',
        *(line.replace("\\", "\\\\").replace('"""', '\\"\\"\\"') for line in script),
        '"""]',
        'outputs = ["root"]',
    ]
    if stage.environment:
        pairs = ", ".join(f"{_text(key)} = {_text(value)}" for key, value in stage.environment.items())
        lines.append(f"environment = {{ {pairs} }}")
    return "\n".join(lines) + "\n"


def _oci_hint(stage: Stage) -> str:
    entrypoint = ", ".join(map(_text, stage.entrypoint or ["/program"]))
    return f"""
# A container image of files of the last stage, written by rvp itself, and its measurement:
# [[pack]]
# id = "image"
# kind = "oci"
# output = "image.tar"
# files = {{ "/program" = "step.{stage.name}:root/program" }}
# entrypoint = [{entrypoint}]
#
# [[measure]]
# id = "image"
# tee = "oci"
# image = "pack.image:image.tar"
"""


def _left(found: Dockerfile) -> str:
    if not found.left:
        return ""
    lines = ["\n# Not translated:"]
    lines += [f"#   line {left.line}: {' '.join(left.text.split())}\n#     {left.why}" for left in found.left]
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def project_name(folder: Path) -> str:
    """Name a project after its folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name).strip("-.") or "project"


def _checked(text: str) -> str:
    parse_spec(text.encode())
    return text
