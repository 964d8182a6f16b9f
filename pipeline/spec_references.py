"""Which part of a spec reads which other part, and which files beside it.

The graph of `pipeline/graph.py`, the check for cycles and the lock all ask here.

Example:
    >>> from pipeline.spec import parse_spec
    >>> spec = parse_spec(b'''
    ... schema = "rvp/spec/v1"
    ... [project]
    ... name = "hello"
    ... version = "1"
    ... [base.t]
    ... debian = { suites = ["bookworm"], packages = ["gcc"] }
    ... [[step]]
    ... id = "hello"
    ... base = "t"
    ... run = ["touch", "{out}/hello"]
    ... outputs = ["hello"]
    ... ''')
    >>> dependencies(spec)
    {'base.t': (), 'step.hello': ('base.t',)}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipeline.spec import DebianBase, Measure, Pack, Spec, inside, parse_reference


def dependencies(spec: Spec) -> dict[str, tuple[str, ...]]:
    """Tell which nodes each node reads, both in the order of the spec."""
    found: dict[str, tuple[str, ...]] = {}
    for name in spec.base:
        found[f"base.{name}"] = ()
    for name in spec.source:
        found[f"source.{name}"] = ()
    for name, fetch in spec.fetch.items():
        found[f"fetch.{name}"] = _nodes((f"base.{fetch.base}", *fetch.needs))
    for step in spec.step:
        found[f"step.{step.id}"] = _nodes((f"base.{step.base}", *step.needs))
    for pack in spec.pack:
        found[f"pack.{pack.id}"] = _nodes(text for _, text in pack_references(pack))
    for measure in spec.measure:
        found[f"measure.{measure.id}"] = _nodes(text for _, text in measure_references(measure))
    return found


def local_files(spec: Spec) -> tuple[str, ...]:
    """Name the files beside the spec that it reads: the lock pins them, the recipe carries them."""
    texts = [base.tar for base in spec.base.values() if base.tar]
    for base in spec.base.values():
        if base.debian:
            keyrings = keyrings_of(base.debian)
            texts += [keyring for keyring in keyrings if keyring and not keyring.startswith("/")]
    files = {inside(text) for text in texts}
    pairs = [pair for pack in spec.pack for pair in pack_references(pack)]
    pairs += [pair for measure in spec.measure for pair in measure_references(measure)]
    references = [parse_reference(text) for _, text in pairs]
    files |= {reference.path for reference in references if reference.kind == "file"}
    return tuple(sorted(files))


def pack_references(pack: Pack) -> Iterator[tuple[str, str]]:
    """Name the references of a pack: key and text."""
    for key in ("image", "config", "sigstruct", "base"):
        if text := getattr(pack, key):
            yield key, text
    for path, text in pack.files.items():
        yield f'files."{path}"', text


def measure_references(measure: Measure) -> Iterator[tuple[str, str]]:
    """Name the references of a measurement: key and text."""
    for key in (
        "image",
        "sigstruct",
        "config",
        "libpal",
        "firmware",
        "kernel",
        "initrd",
        "id_block",
        "id_auth",
    ):
        if text := getattr(measure, key):
            yield key, text


def _nodes(texts: Iterable[str]) -> tuple[str, ...]:
    references = (parse_reference(text) for text in texts)
    return tuple(dict.fromkeys(reference.node for reference in references if reference.node))


def keyrings_of(base: DebianBase) -> tuple[str, ...]:
    """Name the keyrings of a base and its further archives; empty text is the default keyring."""
    return (base.keyring, *(archive.keyring for archive in base.archives))
