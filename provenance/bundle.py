"""The bundle: one OCI image layout that holds what was said, and what is needed to say it again.

    statement   one manifest each: a Sigstore bundle v0.3 around one DSSE envelope, annotated as cosign does
    logs        one manifest: measurement logs, each a layer with a title
    recipe      one manifest: the recipe's folder as a canonical tar
    inputs      one manifest: optional source trees and packages, each a layer with a title

Equal contents give equal bytes, whatever the order in which they came, and a bundle in another form is
refused. The annotations are there for people and registries: nothing is decided by them. Artifacts of other
types are kept and not understood.

Example:
    >>> bundle = Bundle(recipe=pack_files({"rvp.toml": b"x = 1"}))
    >>> unpack_files(bundle.recipe)
    {'rvp.toml': b'x = 1'}
"""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec

from provenance.errors import MachineRefused, SignatureFailure, UsageError
from provenance.oci import (
    TITLE,
    Blob,
    Layout,
    Manifest,
    NotALayout,
    blob_of,
    layout_of,
    write_layout,
)
from provenance.oci_reader import Limits, read_layout
from provenance.strict import NotReadable, parse_json
from provenance.ustar import TooLarge, Truncated, tar_chunks, tar_members

STATEMENT: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
RECIPE: Final = "application/vnd.rvp.recipe.v1"
LOGS: Final = "application/vnd.rvp.measurement-logs.v1"
INPUTS: Final = "application/vnd.rvp.inputs.v1"
_TAR: Final = "application/vnd.rvp.recipe.v1.tar"
_LOG: Final = "application/vnd.rvp.measurement-log.v1+json"
_INPUT: Final = "application/octet-stream"
CONTENT_ANNOTATION: Final = "dev.sigstore.bundle.content"
PREDICATE_ANNOTATION: Final = "dev.sigstore.bundle.predicateType"

MAX_STATEMENT_BYTES: Final = 16 << 20
MAX_STATEMENTS: Final = 1000
MAX_STATEMENTS_BYTES: Final = 256 << 20  # of all together: they are held in the memory
MAX_INPUTS: Final = 20_000
MAX_RECIPE_BYTES: Final = 64 << 20


class NotABundle(SignatureFailure):
    """An OCI image layout is sound but is not a bundle of rvp: a statement is no Sigstore bundle, say.

    Cure: `rvp show` prints what it holds; `rvp publish` writes a bundle.
    """

    code = "RVP-6210"


class RecipeDiffers(UsageError):
    """Statements about another recipe cannot be added to a bundle.

    Cure: rebuild from the bundle's own recipe (`rvp rebuild`), or publish to another place.
    """

    code = "RVP-6211"


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle holds.

    Attributes:
        statements: Sigstore bundles, exact bytes.
        logs: measurement logs, titled.
        recipe: the canonical tar of the recipe's folder.
        inputs: source trees and packages, titled.
        others: artifacts of types that this version does not know.
        digest: SHA-256 of `index.json`; it covers everything. Empty before the bundle is laid out.
    """

    statements: tuple[bytes, ...] = ()
    logs: tuple[Blob, ...] = ()
    recipe: Blob | None = None
    inputs: tuple[Blob, ...] = ()
    others: tuple[Manifest, ...] = ()
    digest: bytes = b""


def read_bundle(path: Path, limits: Limits | None = None) -> Bundle:
    """Read a bundle: a folder or an uncompressed tar archive. Every digest and size is checked.

    Raises:
        NotReadable: RVP-1010: nothing is there.
        SignatureFailure: RVP-6201 to RVP-6210.
    """
    layout = read_layout(path, limits)
    found: dict[str, list[Manifest]] = {}
    for manifest in layout.manifests:
        kind = manifest.artifact_type if manifest.artifact_type in {STATEMENT, RECIPE, LOGS, INPUTS} else ""
        found.setdefault(kind, []).append(manifest)
    for kind in (RECIPE, LOGS, INPUTS):
        if len(found.get(kind, ())) > 1:
            raise NotABundle(f"{len(found[kind])} manifests of type {kind}, one is allowed", place=str(path))
    total_bytes = sum(layer.size_bytes for one in found.get(STATEMENT, ()) for layer in one.layers)
    if len(found.get(STATEMENT, ())) > MAX_STATEMENTS or total_bytes > MAX_STATEMENTS_BYTES:
        raise TooLarge(
            f"{len(found[STATEMENT])} statements of {total_bytes} bytes; "
            f"{MAX_STATEMENTS} of {MAX_STATEMENTS_BYTES} bytes are allowed",
            place=str(path),
        )
    recipe = found.get(RECIPE, [None])[0]
    for manifest in (*found.get(STATEMENT, ()), *found.get(RECIPE, ())):
        if len(manifest.layers) != 1:
            raise NotABundle(
                f"the manifest sha256:{manifest.digest.hex()} has {len(manifest.layers)} layers, not one",
                place=str(path),
            )
    inputs = found[INPUTS][0].layers if INPUTS in found else ()
    titles = [title_of(blob) for blob in inputs]
    if len(titles) > MAX_INPUTS or len(set(titles)) != len(titles):
        raise NotABundle(
            f"{len(titles)} inputs with {len(set(titles))} titles, {MAX_INPUTS} are allowed",
            place=str(path),
        )
    bundle = Bundle(
        statements=tuple(
            manifest.layers[0].read(limit_bytes=MAX_STATEMENT_BYTES) for manifest in found.get(STATEMENT, ())
        ),
        logs=found[LOGS][0].layers if LOGS in found else (),
        recipe=recipe.layers[0] if recipe else None,
        inputs=inputs,
        others=tuple(found.get("", ())),
        digest=layout.digest,
    )
    if lay_out(bundle).digest != layout.digest:
        raise NotABundle(
            "the index or a manifest is not the one that its content has: an annotation or the order changed",
            place=str(path),
            hint="get the bundle again from its publisher; copy it byte by byte",
        )
    return bundle


def lay_out(bundle: Bundle) -> Layout:
    """Put a bundle into its one layout.

    Raises:
        NotABundle: RVP-6210: a statement is no Sigstore bundle with a DSSE envelope.
    """
    manifests = list(bundle.others)
    for data in bundle.statements:
        annotations = {CONTENT_ANNOTATION: "dsse-envelope", PREDICATE_ANNOTATION: predicate_type_of(data)}
        manifests.append(
            Manifest(artifact_type=STATEMENT, layers=(blob_of(data, STATEMENT),), annotations=annotations)
        )
    if bundle.recipe:
        manifests.append(Manifest(artifact_type=RECIPE, layers=(_typed(bundle.recipe, _TAR),)))
    for kind, media_type, blobs in ((LOGS, _LOG, bundle.logs), (INPUTS, _INPUT, bundle.inputs)):
        layers = {(title_of(blob), blob.digest): _typed(blob, media_type) for blob in blobs}
        if layers:
            manifests.append(
                Manifest(artifact_type=kind, layers=tuple(layers[key] for key in sorted(layers)))
            )
    try:
        return layout_of(manifests)
    except ValueError as error:  # half of a surrogate pair
        raise NotABundle(f"a title or a predicate type is not Unicode text: {error}") from error


def write_bundle(path: Path, bundle: Bundle) -> Bundle:
    """Write a bundle, whole or not at all: an archive when the name ends in `.tar`, else a folder.

    Returns:
        The bundle with its digest.

    Raises:
        NotABundle: RVP-6210. MachineRefused: RVP-1004: the place cannot be written.
    """
    layout = lay_out(bundle)
    write_layout(path, layout)
    return msgspec.structs.replace(bundle, digest=layout.digest)


def merge(first: Bundle, second: Bundle) -> Bundle:
    """Add what a second operator said to a bundle; of two inputs with one title the first stays.

    Raises:
        RecipeDiffers: RVP-6211: the two were made from different recipes.
    """
    if first.recipe and second.recipe and first.recipe.digest != second.recipe.digest:
        raise RecipeDiffers(
            f"the bundle has the recipe tar\n  sha256:{first.recipe.digest.hex()}\nwhat is added has\n"
            f"  sha256:{second.recipe.digest.hex()}",
            hint="rebuild from the bundle's own recipe (rvp rebuild), or publish to another place",
        )
    return Bundle(
        statements=tuple(sorted({*first.statements, *second.statements})),
        logs=first.logs + second.logs,
        recipe=first.recipe or second.recipe,
        inputs=tuple({title_of(blob): blob for blob in (*second.inputs, *first.inputs)}.values()),
        others=first.others + second.others,
    )


def predicate_type_of(statement: bytes) -> str:
    """Read the predicate type out of a Sigstore bundle; nothing is verified.

    Raises:
        NotABundle: RVP-6210.
    """
    kind = peek_statement(statement).get("predicateType")
    if not isinstance(kind, str):
        raise NotABundle("the statement has no predicateType", hint="in-toto Statement v1 is expected")
    return kind


def peek_statement(statement: bytes) -> dict[str, Any]:
    """Return the in-toto statement inside a Sigstore bundle; nothing is verified.

    Raises:
        NotABundle: RVP-6210.
    """
    try:
        document = parse_json(statement, name="statement", limit_bytes=MAX_STATEMENT_BYTES)
    except UsageError as error:
        raise NotABundle(error.message, place=error.place) from error
    envelope = document.get("dsseEnvelope") if isinstance(document, dict) else None
    payload = envelope.get("payload") if isinstance(envelope, dict) else None
    try:
        if not isinstance(payload, str):
            raise NotABundle("not a Sigstore bundle with a DSSE envelope")
        inner = parse_json(base64.b64decode(payload, validate=True), name="payload")
    except (binascii.Error, ValueError) as error:
        raise NotABundle(f"the payload is not base64: {error}") from error
    except UsageError as error:
        raise NotABundle(error.message, place=error.place) from error
    if not isinstance(inner, dict):
        raise NotABundle("the payload is not an in-toto statement")
    return inner


def title_of(blob: Blob) -> str:
    """Return the name that a layer was given, or its digest."""
    return blob.annotations.get(TITLE, blob.digest.hex())


def _typed(blob: Blob, media_type: str) -> Blob:
    kept = {TITLE: blob.annotations[TITLE]} if TITLE in blob.annotations else {}
    return msgspec.structs.replace(blob, media_type=media_type, annotations=kept)


# ---- the recipe: a folder as a canonical tar ---------------------------------------------------------


def pack_files(files: Mapping[str, bytes]) -> Blob:
    """Pack named contents as a canonical tar.

    Raises:
        NotABundle: RVP-6210: a name does not fit.
    """
    try:
        data = b"".join(tar_chunks((name, len(files[name]), (files[name],)) for name in sorted(files)))
    except ValueError as error:
        raise NotABundle(str(error), hint="give the file a shorter name") from error
    return blob_of(data, _TAR)


def pack_folder(folder: Path) -> Blob:
    """Pack the regular files of a folder as a canonical tar; a link or a device is refused.

    Raises:
        NotReadable: RVP-1010. NotABundle: RVP-6210.
    """
    files: dict[str, bytes] = {}
    try:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise NotABundle(
                    "neither a file nor a folder", place=str(path), hint="a recipe has files alone"
                )
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = path.read_bytes()
    except OSError as error:
        raise NotReadable(f"cannot read: {error.strerror}", place=str(error.filename)) from error
    return pack_files(files)


def unpack_files(tar: Blob, *, limit_bytes: int = MAX_RECIPE_BYTES) -> dict[str, bytes]:
    """Return the files of a tar by name, in the memory.

    Raises:
        SignatureFailure: RVP-6202, RVP-6204 to RVP-6206, RVP-6208.
    """
    data = tar.read(limit_bytes=limit_bytes)
    files: dict[str, bytes] = {}
    for name, size_bytes, offset in tar_members(io.BytesIO(data), len(data), "recipe"):
        if size_bytes > len(data) - offset:
            raise Truncated(f"{name} is cut", place="recipe")
        if name in files or not name or PurePosixPath(name).as_posix() != name:
            raise NotALayout(f"the name {name!r} stands twice or is not plain", place="recipe")
        files[name] = data[offset : offset + size_bytes]
    return files


def extract_recipe(bundle: Bundle, folder: Path) -> None:
    """Write the recipe's files into a folder that is empty or does not exist.

    Raises:
        NotABundle: RVP-6210: the bundle has no recipe.
        NotReadable: RVP-1010: a file is there already.
        MachineRefused: RVP-1004: the folder cannot be written.
    """
    if bundle.recipe is None:
        raise NotABundle("the bundle has no recipe", hint="its publisher left it out: ask for it")
    for name, data in unpack_files(bundle.recipe).items():
        _write(folder / name, iter((data,)))


def extract_inputs(bundle: Bundle, folder: Path) -> tuple[Path, ...]:
    """Write the inputs into a folder by their titles; return the paths.

    Raises:
        TooLarge: RVP-6206. DigestMismatch: RVP-6204. NotABundle: RVP-6210: a title leads out of the folder.
        MachineRefused: RVP-1004: the folder cannot be written.
    """
    written = []
    for blob in bundle.inputs:
        title = title_of(blob)
        path = PurePosixPath(title)
        if (
            path.is_absolute()
            or ".." in path.parts
            or "\\" in title
            or "\0" in title
            or path.as_posix() in {"", "."}
        ):
            raise NotABundle(f"the title {title!r} leads out of the folder", hint="do not use this bundle")
        _write(folder / path, blob.chunks())
        written.append(folder / path)
    return tuple(written)


def _write(path: Path, chunks: Iterator[bytes]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "wb") as stream:
            for chunk in chunks:
                stream.write(chunk)
    except FileExistsError as error:
        raise NotReadable("there is a file already", place=str(path), hint="name a new folder") from error
    except OSError as error:
        raise MachineRefused(f"cannot write: {error.strerror}", place=str(path)) from error
