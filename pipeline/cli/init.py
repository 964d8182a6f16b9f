"""`rvp init`: write a commented spec, from nothing or from what there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from provenance.errors import UsageError
from verifier.cli.terminal import Settings, styled, write_file

if TYPE_CHECKING:
    from pipeline.starter import Kind


class SpecExists(UsageError):
    """There is a spec already; `rvp init` never overwrites one by itself.

    Cure: `--force` replaces it.
    """

    code = "RVP-1120"


@click.command(
    epilog="""\b
Examples:
  rvp init                              an SGX enclave built with make
  rvp init --tee tdx                    a confidential VM
  rvp init --from Dockerfile            translate what can be translated
  rvp init --from Enclave.config.xml    an SGX SDK enclave
"""
)
@click.option(
    "--tee",
    type=click.Choice(["sgx", "tdx", "snp"]),
    default="sgx",
    show_default=True,
    help="What is built: an enclave (sgx) or a confidential VM (tdx, snp).",
)
@click.option(
    "--from", "origin", metavar="FILE", help="A Dockerfile, or an SGX enclave configuration (XML, TOML)."
)
@click.option("--name", metavar="NAME", help="The project's name; default: the folder's.")
@click.option("--force", is_flag=True, help="Replace an rvp.toml that exists.")
@click.pass_obj
def init(settings: Settings, tee: Kind, origin: str | None, name: str | None, *, force: bool) -> None:
    """Write a commented rvp.toml into this folder."""
    from pipeline.measure.formats import FORMATS
    from pipeline.spec_machine import FROM_FIRMWARE, VIRTUAL_MACHINES
    from pipeline.starter import project_name, starter_spec

    target = Path("rvp.toml")
    if target.exists() and not force:
        raise SpecExists("there is an rvp.toml already", hint="--force replaces it", place=str(target))
    named = name or project_name(Path.cwd())
    source = "src" if Path("src").is_dir() or not any(Path().glob("[Mm]akefile")) else "."
    text = starter_spec(named, tee, source=source) if origin is None else _translated(named, origin, source)
    write_file(target, text.encode())
    untranslated = text.partition("# Not translated:")[2]
    if untranslated:
        settings.warn(
            f"{untranslated.count('#   line ')} lines were not translated; they stand at the end of {target}"
        )
    known = {one.tee for one in FORMATS} - (VIRTUAL_MACHINES - FROM_FIRMWARE)
    if origin is None and tee not in known:
        settings.warn(
            f"this version measures {', '.join(sorted(known))}: [[measure]] of {tee} is not known yet "
            "(RVP-2211); leave it out to build and compare"
        )
    settings.say(f"{styled('passed', '✓')} wrote {target}; next: read it, then `rvp lock`")
    if 'path = "src"' in text and not Path("src").exists():
        settings.say("  the source is to be in src/, which is not there yet: make it, or change [source.app]")


def _translated(name: str, origin: str, source: str) -> str:
    from pipeline.starter import from_dockerfile, from_enclave_config
    from provenance.strict import read_file

    path = _found(origin)
    data = read_file(path, limit_bytes=1 << 20)
    if path.suffix in {".xml", ".toml"} or data.lstrip().startswith(b"<"):
        from pipeline.measure.sgx.freestanding.config import read_config

        read_config(data, name=str(path))
        if path.is_absolute() or ".." in path.parts:
            raise UsageError("the configuration must lie in this folder: the spec names it", place=str(path))
        return from_enclave_config(name, path.as_posix(), source=source)
    return from_dockerfile(name, data.decode("utf-8", "replace"))


def _found(origin: str) -> Path:
    """`--from enclave-config` and `--from dockerfile` look for the usual names."""
    usual = {
        "enclave-config": (
            "Enclave.config.xml",
            "enclave.config.xml",
            "Enclave/Enclave.config.xml",
            "enclave.toml",
        ),
        "dockerfile": ("Dockerfile", "Containerfile"),
    }
    names = () if Path(origin).exists() else usual.get(origin.lower(), ())
    return next((Path(name) for name in names if Path(name).is_file()), Path(origin))
