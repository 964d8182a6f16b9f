"""SLSA provenance v1: how the artifacts were built, in the words that others read.

The predicate type belongs to SLSA: unknown fields are ignored when reading. What rvp puts into it is the
build type `rebuild/v1` (docs/reference/predicates/slsa-provenance.md): the recipe and its sources as external
parameters, runs and variations as internal ones, everything that was pinned as resolved dependencies, logs
as byproducts.

Source: SLSA specification v1.2, provenance (predicate https://slsa.dev/provenance/v1).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from provenance.canonical import canonical_json
from provenance.digest import sha256
from provenance.predicates import type_uri
from provenance.predicates.shapes import PredicateTypeUnexpected
from provenance.statement import ResourceDescriptor, Statement, make_statement
from provenance.strict import convert

TYPE: Final = type_uri.SLSA_PROVENANCE
BUILD_TYPE: Final = type_uri.REBUILD_BUILD_TYPE


class _Lenient(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    pass


class BuildDefinition(_Lenient, frozen=True, kw_only=True):
    """What was asked for, and what went in."""

    build_type: str
    external_parameters: dict[str, Any]
    internal_parameters: dict[str, Any] = {}
    resolved_dependencies: tuple[ResourceDescriptor, ...] = ()


class BuilderIdentity(_Lenient, frozen=True, kw_only=True):
    """Who built, and with which versions."""

    id: str
    version: dict[str, str] = {}


class BuildMetadata(_Lenient, frozen=True, kw_only=True):
    """Which invocation, and when; times are what the caller says."""

    invocation_id: str = ""
    started_on: str = ""
    finished_on: str = ""


class RunDetails(_Lenient, frozen=True, kw_only=True):
    """How this run went."""

    builder: BuilderIdentity
    metadata: BuildMetadata | None = None
    byproducts: tuple[ResourceDescriptor, ...] = ()


class SlsaProvenance(_Lenient, frozen=True, kw_only=True):
    """The predicate."""

    build_definition: BuildDefinition
    run_details: RunDetails


def make_provenance(predicate: SlsaProvenance, subjects: Iterable[ResourceDescriptor]) -> Statement:
    """Make the statement of a predicate.

    Raises:
        StatementUnfit: RVP-6111.
    """
    return make_statement(subjects, TYPE, predicate)


def read_provenance(statement: Statement, *, name: str = "") -> SlsaProvenance:
    """Read the predicate of a statement; unknown fields are ignored, as SLSA asks.

    Raises:
        PredicateTypeUnexpected: RVP-6120. WrongType: RVP-1014.
    """
    if statement.predicate_type != TYPE:
        raise PredicateTypeUnexpected(f"the type is {statement.predicate_type}, expected {TYPE}", place=name)
    return convert(statement.predicate, SlsaProvenance, name=name)


def invocation_id(definition: BuildDefinition, builder_id: str) -> str:
    """Name an invocation by what it did: the same build by the same builder has the same name.

    Raises:
        TypeError: a parameter that has no canonical form.
    """
    return "urn:sha256:" + sha256(canonical_json([builder_id, msgspec.to_builtins(definition)])).hex()


def package(
    kind: str, name: str, version: str, sha256_hex: str, *, architecture: str = ""
) -> ResourceDescriptor:
    """Describe a pinned package by its package URL.

    Args:
        kind: package-URL type with namespace: `deb/debian`.
        name: the package.
        version: its version.
        sha256_hex: of the package file.
        architecture: when the package has one.

    Example:
        >>> package("deb/debian", "gcc", "4:12.2.0-3", "00" * 32, architecture="amd64").uri
        'pkg:deb/debian/gcc@4%3A12.2.0-3?arch=amd64'
    """
    from urllib.parse import quote

    qualifier = f"?arch={quote(architecture, safe='')}" if architecture else ""
    uri = f"pkg:{kind}/{quote(name, safe='')}@{quote(version, safe='.-_~')}{qualifier}"
    return ResourceDescriptor(name=name, uri=uri, digest={"sha256": sha256_hex})


def git_source(name: str, repository: str, ref: str, commit: str, tree_sha256: str) -> ResourceDescriptor:
    """Describe a source: the commit that it is said to be, and the digest of the tree that was built."""
    uri = (f"git+{repository}" + (f"@{ref}" if ref else "")) if repository else ""
    digest = {"gitCommit": commit} if commit else {"sha256": tree_sha256}
    return ResourceDescriptor(
        name=f"source.{name}", uri=uri, digest=digest, annotations={"treeSha256": tree_sha256}
    )
