"""`rvp show`: print any of our files readably. Nothing is verified here, and the output says so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from provenance.bundle import Bundle, peek_statement, read_bundle, title_of, unpack_files
from provenance.digest import sha256
from provenance.errors import RvpError, UsageError
from provenance.oci import Blob
from provenance.plain_text import one_line
from provenance.predicates.type_uri import REFERENCE_VALUES, RELEASE
from provenance.sigstore_bundle import SigstoreBundle
from provenance.sigstore_bundle import read_bundle as read_sigstore
from provenance.strict import convert, parse_json, read_file, read_toml
from verifier.cli.documents import Shown
from verifier.cli.terminal import Settings, format_option

if TYPE_CHECKING:
    from provenance.policy import FurtherSource, SourcePolicy

UNVERIFIED: Final = "unverified: nothing here was checked against a policy (rvp verify does)"
VIEWS: Final = ("statement", "predicate", "values", "log", "recipe")
MAX_SHOWN_BYTES: Final = 32 << 20
_SIGSTRUCT_START: Final = bytes.fromhex("06000000e100000000000100")  # Intel SDM vol. 3D, SIGSTRUCT.HEADER
_MAX_NAMED: Final = 20  # inputs that stand in a line each without -v


class NotOurs(UsageError):
    """A file is of no kind that rvp writes or reads, or does not have the view that was asked for.

    Cure: `rvp measure FILE` looks into enclaves and images; `--as` takes the views that the message names.
    """

    code = "RVP-6441"


@click.command(
    epilog="""\b
Examples:
  rvp show keyservice.bundle
  rvp show keyservice.bundle --as values
  rvp show policy.toml
  rvp show enclave.signed.so
"""
)
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE|BUNDLE")
@click.option("--as", "view", type=click.Choice(VIEWS), help="One view of a bundle or a statement.")
@format_option()
@click.pass_obj
def show(settings: Settings, path: Path, view: str | None, output_format: str) -> None:
    """Print FILE readably: a bundle, statement, policy, spec, lock, result, key or measurement log.

    An enclave, a SIGSTRUCT or a container image is measured, where `rvp measure` is installed.
    """
    if not view and _states_an_enclave(path, output_format):
        return
    try:
        kind, document, lines = look(path, view, verbose=settings.verbose > 0)
    except NotOurs:
        if view or not _measured(path, output_format):
            raise
        if output_format == "text":
            settings.out(f"\n{UNVERIFIED}")
        return
    if output_format == "json":
        settings.out_json(Shown(kind=kind, content=document))
        return
    for line in lines:
        settings.out(one_line(line))


Looked = tuple[str, Any, list[str]]  # kind, plain document, lines of text


def _states_an_enclave(path: Path, output_format: str) -> bool:
    """Let `rvp sgx show` print a SIGSTRUCT, or the bytes that become one, where it is installed."""
    try:
        with path.open("rb") as stream:
            if stream.read(len(_SIGSTRUCT_START)) != _SIGSTRUCT_START:
                return False
    except OSError:
        return False
    context = click.get_current_context()
    front = context.find_root()
    group = front.command.get_command(front, "sgx") if isinstance(front.command, click.Group) else None
    command = group.get_command(context, "show") if isinstance(group, click.Group) else None
    if command is None:
        return False
    context.invoke(command, file=path, output_format=output_format)
    return True


def _measured(path: Path, output_format: str) -> bool:
    """Let `rvp measure` look at a file; tell whether it is there and knows what the file is."""
    context = click.get_current_context()
    front = context.find_root()
    command = front.command.get_command(front, "measure") if isinstance(front.command, click.Group) else None
    if command is None or "what" not in {parameter.name for parameter in command.params}:
        return False
    try:
        context.invoke(command, what=(str(path),), sigstruct=None, log_file=None, output_format=output_format)
    except RvpError as error:
        if error.code == "RVP-5000":
            return False
        raise
    return True


def look(path: Path, view: str | None, *, verbose: bool = False) -> Looked:
    """Find out what a file is, and take it apart.

    Args:
        path: a file, or the folder of a bundle.
        view: one view of a bundle or a statement.
        verbose: list every input of a bundle.

    Raises:
        NotOurs: RVP-6441. Errors of the format.
    """
    if path.is_dir() or _is_tar(path):
        return _bundle(read_bundle(path), path, view, verbose=verbose)
    data = read_file(path, limit_bytes=MAX_SHOWN_BYTES)
    if data.lstrip()[:1] in {b"{", b"["}:
        return _json(data, path, view)
    if b"-----BEGIN PUBLIC KEY-----" in data or b"PRIVATE KEY-----" in data:
        return _key(data, path)
    if re.search(rb"^[^#]*\b(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp\d+) AAAA", data, flags=re.MULTILINE):
        return _ssh_keys(data, path)
    try:
        return _toml(data, path)
    except RvpError as error:
        raise NotOurs(
            "not a file that rvp writes", place=str(path), hint="rvp measure looks into enclaves and images"
        ) from error


def _is_tar(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(262)[257:262] == b"ustar"
    except OSError:
        return False


# ---- bundles and statements ----------------------------------------------------------------------------


def _bundle(bundle: Bundle, path: Path, view: str | None, *, verbose: bool) -> Looked:
    if view == "recipe":
        return _recipe(bundle, path)
    if view == "log":
        return _logs(bundle)
    shown = [_statement(data, view) for data in bundle.statements]
    if view:
        kept = [one for one in shown if one[2]]
        lines = [line for one in kept for line in (*one[2], "")]
        return view, [one[1] for one in kept], [*lines, UNVERIFIED]
    document = {
        "digest": {"sha256": bundle.digest.hex()},
        "statements": [one[1] for one in shown],
        "logs": [_blob(blob) for blob in bundle.logs],
        "recipe": _blob(bundle.recipe) if bundle.recipe else None,
        "inputs": [_blob(blob) for blob in bundle.inputs],
        "others": [manifest.artifact_type for manifest in bundle.others],
    }
    lines = [f"bundle     {path}", f"           sha256:{bundle.digest.hex()}"]
    lines += _statement_lines(bundle)
    lines += [f"log        {title_of(blob)}  {_size(blob.size_bytes)}" for blob in bundle.logs]
    if bundle.recipe:
        names = ", ".join(unpack_files(bundle.recipe))
        lines.append(f"recipe     {names}")
    lines += _input_lines(bundle.inputs, verbose=verbose)
    lines += [f"other      {manifest.artifact_type}" for manifest in bundle.others]
    return "bundle", document, [*lines, "", UNVERIFIED]


def _statement_lines(bundle: Bundle) -> list[str]:
    """Write the statements: those that say the same values stand together, their values once."""
    together: dict[str, tuple[Any, list[str]]] = {}
    lines: list[str] = []
    for data in bundle.statements:
        statement, envelope = peek_statement(data), read_sigstore(data)
        kind, predicate = str(statement.get("predicateType", "")), statement.get("predicate")
        predicate = predicate if isinstance(predicate, dict) else {}
        if kind != REFERENCE_VALUES:
            lines += _summary(kind, statement, predicate, envelope, data)
            continue
        core = predicate.get("core", {})
        key = json.dumps(core, sort_keys=True)
        builder = predicate.get("builder")
        who = builder.get("id") if isinstance(builder, dict) else ""
        said = [
            f"           by {_signer(envelope)}, {predicate.get('level')}, {who}",
            f"              file sha256:{sha256(data).hex()}",
        ]
        together.setdefault(key, (core, []))[1].extend(said)
    for core, said in together.values():
        lines += [
            f"values     {REFERENCE_VALUES}",
            f"           said by {len(said) // 2}, unverified:",
            *said,
        ]
        lines += [f"           {line}" for line in _values_lines(core)]
    return lines


def _input_lines(inputs: tuple[Blob, ...], *, verbose: bool) -> list[str]:
    """Write the inputs: all of them, or the named ones and a line for the rest."""
    named = [blob for blob in inputs if verbose or not title_of(blob).startswith("object/")]
    rest = [blob for blob in inputs if blob not in named]
    if len(named) > _MAX_NAMED and not verbose:
        named, rest = [], list(inputs)
    lines = [f"input      {title_of(blob)}  {_size(blob.size_bytes)}" for blob in named]
    if rest:
        total = _size(sum(blob.size_bytes for blob in rest))
        more = "s" if len(rest) > 1 else ""
        lines.append(
            f"inputs     {len(rest)} file{more} of sources and packages, {total} (rvp -v show lists them)"
        )
    return lines


def _size(size_bytes: int) -> str:
    """Write a size as people read it.

    Example:
        >>> _size(812), _size(48 << 20)
        ('812 bytes', '48.0 MiB')
    """
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size_bytes >= 1 << shift:
            return f"{size_bytes / (1 << shift):.1f} {unit}"
    return f"{size_bytes} byte{'' if size_bytes == 1 else 's'}"


def _blob(blob: Any) -> dict[str, Any]:
    return {"name": title_of(blob), "digest": {"sha256": blob.digest.hex()}, "size": blob.size_bytes}


def _statement(data: bytes, view: str | None) -> Looked:
    statement = peek_statement(data)
    envelope = read_sigstore(data)
    predicate = statement.get("predicate")
    predicate = predicate if isinstance(predicate, dict) else {}
    kind = str(statement.get("predicateType", ""))
    match view:
        case "statement":
            return "statement", statement, _indented(statement)
        case "predicate":
            return "predicate", predicate, _indented(predicate)
        case "values":
            if kind != REFERENCE_VALUES:
                return "values", None, []
            core = predicate.get("core", {})
            return "values", core, [f"by the key {_signer(envelope)}, unverified", *_values_lines(core)]
        case None:
            document = {"signer": _signer(envelope), "statement": statement}
            return "statement", document, _summary(kind, statement, predicate, envelope, data)
        case _:
            raise NotOurs(f'a statement has no view "{view}"', hint="statement, predicate, values")


def _signer(envelope: SigstoreBundle) -> str:
    import base64
    import binascii

    if envelope.certificate is not None:
        return "certificate sha256:" + sha256(envelope.certificate).hex()
    try:
        return base64.b64decode(envelope.hint, validate=True).hex()
    except binascii.Error:
        return envelope.hint


def _summary(
    kind: str, statement: dict[str, Any], predicate: dict[str, Any], envelope: SigstoreBundle, data: bytes
) -> list[str]:
    lines = [f"statement  {kind}", f"           file sha256:{sha256(data).hex()}"]
    lines.append(f"           signer (unverified) {_signer(envelope)}")
    subjects = statement.get("subject")
    for subject in filter(_is_object, subjects if isinstance(subjects, list) else ()):
        digest = subject.get("digest")
        digest = digest if isinstance(digest, dict) else {}
        lines.append(f"           about {subject.get('name', '')}  sha256:{digest.get('sha256', '')}")
    if kind == REFERENCE_VALUES:
        lines.append(f"           level {predicate.get('level')}")
        lines += [f"           {line}" for line in _values_lines(predicate.get("core", {}))]
    elif kind == RELEASE:
        validity, core = predicate.get("validity"), predicate.get("coreDigest")
        validity, core = (one if isinstance(one, dict) else {} for one in (validity, core))
        lines.append(
            f"           {predicate.get('product')} {predicate.get('series')} {predicate.get('sequence')} "
            f"({predicate.get('version')}), {validity.get('notBefore')} to {validity.get('notAfter')}"
        )
        lines.append(f"           core sha256:{core.get('sha256')}")
    return lines


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _values_lines(core: Any) -> list[str]:
    """Write a core in words; when it is not well-formed, as JSON."""
    from provenance.canonical import canonical_json
    from provenance.predicates.core import Core
    from verifier.cli.values import core_lines

    try:
        parsed = convert(core, Core)
        digest = sha256(canonical_json(parsed)).hex()
    except (UsageError, ValueError) as error:  # ValueError: text that is no Unicode
        return [f"malformed: {error}", *_indented(core)]
    return [f"core      sha256:{digest}", *core_lines(parsed)]


def _recipe(bundle: Bundle, path: Path) -> Looked:
    if bundle.recipe is None:
        raise NotOurs("the bundle has no recipe", place=str(path))
    files = unpack_files(bundle.recipe)
    document = {name: data.decode("utf-8", "backslashreplace") for name, data in files.items()}
    lines = []
    for name, text in document.items():
        lines += [f"==> {name}", *text.splitlines(), ""]
    return "recipe", document, [*lines, UNVERIFIED]


def _logs(bundle: Bundle) -> Looked:
    documents = {}
    lines = []
    for blob in bundle.logs:
        document = parse_json(blob.read(limit_bytes=MAX_SHOWN_BYTES), name=title_of(blob))
        documents[title_of(blob)] = document
        lines += [f"==> {title_of(blob)}", *_log_lines(document), ""]
    return "log", documents, [*lines, UNVERIFIED]


def _log_lines(document: Any) -> list[str]:
    from provenance.measurement_log import MeasurementLog

    try:
        log = convert(document, MeasurementLog)
    except UsageError:
        return _indented(document)
    lines = [f"{log.tee} {log.register} {log.algorithm}:{log.value}"]
    for event in log.events:
        times = f" x {event.count} every 0x{event.stride:x}" if event.count > 1 else ""
        what = f"{event.op:<10} 0x{event.address:012x} +0x{event.length:x} flags 0x{event.flags:x}"
        lines.append(f"  {what}{times}  {event.label}")
    return lines


# ---- single files --------------------------------------------------------------------------------------


def _json(data: bytes, path: Path, view: str | None) -> Looked:
    document = parse_json(data, name=str(path))
    if isinstance(document, dict) and "dsseEnvelope" in document:
        kind, found, lines = _statement(data, view)
        if view and not lines:
            raise NotOurs(f'the statement has no view "{view}"', place=str(path))
        return kind, found, [*lines, "", UNVERIFIED]
    if view:
        raise NotOurs(
            f'the file has no view "{view}"', place=str(path), hint="--as is for bundles and statements"
        )
    schema = str(document.get("schema", "")) if isinstance(document, dict) else ""
    if schema == "rvp/measurement-log/v1":
        return "measurement log", document, [*_log_lines(document), "", UNVERIFIED]
    return schema or "JSON", document, [*_indented(document), "", UNVERIFIED]


def _key(data: bytes, path: Path) -> Looked:
    from provenance.public_key import KeyTypeUnsupported, read_public_key

    if b"PRIVATE KEY-----" in data:
        return "private key", {"private": True}, ["a private key; its content is not shown (rvp key show)"]
    try:
        key = read_public_key(data, name=str(path))
    except KeyTypeUnsupported:
        return _owner_key(data)
    document = {"type": key.type.value, "sha256": key.fingerprint.hex(), "hint": key.hint}
    return "public key", document, [
        f"public key  {key.type.value}",
        f"            sha256:{key.fingerprint.hex()}",
    ]  # fmt: skip


def _owner_key(data: bytes) -> Looked:
    """Show an RSA key, such as the owner of an enclave has; rvp makes no statements with it."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    key = load_pem_public_key(data)
    if not isinstance(key, rsa.RSAPublicKey):
        raise NotOurs("a key of a type that rvp does not use", hint="rvp key new makes one")
    numbers = key.public_numbers()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    document = {"type": f"rsa{key.key_size}", "exponent": numbers.e, "sha256": sha256(der).hex()}
    lines = [f"public key  RSA-{key.key_size}, e = {numbers.e}", f"            sha256:{document['sha256']}"]
    if key.key_size == 3072:
        document["mrsigner"] = sha256(numbers.n.to_bytes(384, "little")).hex()
        lines.append(f"            mrsigner {document['mrsigner']}, when it signs an enclave")
    return "public key", document, lines


def _ssh_keys(data: bytes, path: Path) -> Looked:
    import base64

    from provenance.policy import read_ssh_keys

    keys = [line.split(" ") for line in read_ssh_keys(data, str(path))]
    prints = [base64.b64encode(sha256(base64.b64decode(key))).decode().rstrip("=") for _, key in keys]
    document = [{"type": kind, "sha256": text} for (kind, _), text in zip(keys, prints, strict=True)]
    return (
        "SSH public keys",
        document,
        [f"SSH key  {one['type']}  SHA256:{one['sha256']}" for one in document],
    )


def _toml(data: bytes, path: Path) -> Looked:
    document = read_toml(data, dict[str, Any], name=str(path))
    schema = str(document.get("schema", ""))
    readers: dict[str, Callable[[bytes, Path], Looked]] = {"rvp/policy/v1": _policy}
    if schema in readers:
        return readers[schema](data, path)
    if not schema.startswith("rvp/"):
        raise NotOurs("no schema that rvp knows", place=str(path))
    return schema, document, [f"# {schema}", *data.decode().splitlines()]


def _policy(data: bytes, path: Path) -> Looked:
    from provenance.policy import parse_policy, source_paths

    policy = parse_policy(data, name=str(path))
    quorum, product = policy.quorum, policy.product
    minority = " (minority quorum)" if quorum.minority_quorum else ""
    fresh = f"minimum release {product.minimum_release}, max age {product.max_age or 'none'}"
    lines = [
        f"policy     {path}  sha256:{sha256(data).hex()}",
        f"product    {product.name}, series {product.series or 'any'}, {fresh}",
        *(line for _, one in source_paths(policy) for line in _source_lines(one)),
        f"quorum     {quorum.n} of {len(policy.operator)}, {quorum.level}{minority}",
    ]
    lines += [
        f"operator   {one.name}  {one.key or f'{one.identity} at {one.issuer}'}" for one in policy.operator
    ]
    if policy.release:
        lines.append(f"release    {policy.release.threshold} of {', '.join(policy.release.signed_by)}")
    lines += [
        f"require    {one.predicate_type} by {one.threshold} of {', '.join(one.signed_by)}"
        for one in policy.require
    ]
    return "policy", read_toml(data, dict[str, Any]), lines


def _source_lines(rule: SourcePolicy | FurtherSource) -> tuple[str, str]:
    return (
        f"source     {rule.repository} {', '.join(rule.refs) or 'any ref'}",
        f"           signed by {', '.join(rule.signed_by) or 'nobody'}",
    )


def _indented(document: Any) -> list[str]:
    return json.dumps(document, indent=2, ensure_ascii=False).splitlines()
