"""What types cannot say about a spec: names, references, paths, cycles; each error with its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, get_args

from pipeline.spec import (
    VARIATION_NAMES,
    BadReference,
    BadSize,
    Base,
    Reference,
    Spec,
    inside,
    parse_reference,
    placeholders,
    seconds,
    size_bytes,
)
from pipeline.spec_errors import (
    BadValue,
    Cycle,
    DuplicateName,
    ExactlyOne,
    NoOutputs,
    PathOutside,
    UnknownPart,
    UnknownPlaceholder,
    UnknownVariation,
)
from pipeline.spec_references import (
    dependencies,
    keyrings_of,
    local_files,
    measure_references,
    pack_references,
)
from provenance.claims import Tee
from provenance.errors import SpecError
from provenance.strict import line_in_toml

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_DIGEST_REFERENCE: Final = re.compile(r"\S+@sha256:[0-9a-f]{64}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_TIMES: Final = 100
_MOST_BYTES: Final = 1 << 60
_MOST_SECONDS: Final = 366 * 86400
_MOST_CPUS: Final = 4096
_MOST_PIDS: Final = 1 << 22  # of a 64-bit kernel: PID_MAX_LIMIT
# Beside the spec, and never inputs: what lies there decides what a build gives.
WORKING_NAMES: Final = (".rvp", ".git")
_FEATURES: Final = re.compile(r"0x[0-9a-fA-F]{1,16}")
_LAYERS: Final = ("platform", "firmware", "image", "workload")


def check_spec(spec: Spec, *, text: str = "", name: str = "rvp.toml") -> None:
    """Check everything that types cannot say.

    Args:
        spec: the models.
        text: what they were read from, to tell the line.
        name: the file, to tell the place.

    Raises:
        SpecError: RVP-11nn; the first one found, in the order of the spec.
    """
    _Checker(spec, text, name).check()


class _Checker:
    def __init__(self, spec: Spec, text: str, name: str) -> None:
        self.spec = spec
        self.text = text
        self.name = name
        self.nodes: tuple[str, ...] = (
            *(f"base.{name}" for name in spec.base),
            *(f"source.{name}" for name in spec.source),
            *(f"fetch.{name}" for name in spec.fetch),
            *(f"step.{step.id}" for step in spec.step),
            *(f"pack.{pack.id}" for pack in spec.pack),
            *(f"measure.{measure.id}" for measure in spec.measure),
        )

    def check(self) -> None:
        self.names()
        for name, base in self.spec.base.items():
            self.base(f"$.base.{name}", base)
        self.sources()
        self.fetches()
        self.steps()
        self.packs()
        self.measures()
        self.cycles()
        self.rebuild()
        for path in local_files(self.spec):
            if path.split("/", 1)[0] in WORKING_NAMES:
                message = f'"{path}" lies in a folder that belongs to rvp or git'
                raise self.fail(PathOutside, "$", message, "put the file beside the spec")

    def place(self, path: str) -> str:
        line = line_in_toml(self.text, path) if self.text else None
        where = f"{self.name}:{line}" if line else self.name
        return f"{where}: {path}"

    def fail(self, kind: type[SpecError], path: str, message: str, hint: str = "") -> SpecError:
        return kind(message, place=self.place(path), hint=hint)

    def names(self) -> None:
        project = self.spec.project
        for key in ("name", "version"):
            value = getattr(project, key)
            if not value or not value.isprintable():
                raise self.fail(BadValue, f"$.project.{key}", f"{value!r} is not a {key}", "one line of text")
        epoch = project.source_date_epoch
        if isinstance(epoch, int) and not 0 <= epoch < 1 << 33:
            raise self.fail(BadValue, "$.project.source_date_epoch", f"{epoch} is not a time in Unix seconds")
        tables: dict[str, list[tuple[str, str]]] = {
            "base": [(name, f"$.base.{name}") for name in self.spec.base],
            "source": [(name, f"$.source.{name}") for name in self.spec.source],
            "fetch": [(name, f"$.fetch.{name}") for name in self.spec.fetch],
            "step": [(step.id, f"$.step[{at}].id") for at, step in enumerate(self.spec.step)],
            "pack": [(pack.id, f"$.pack[{at}].id") for at, pack in enumerate(self.spec.pack)],
            "measure": [(measure.id, f"$.measure[{at}].id") for at, measure in enumerate(self.spec.measure)],
        }
        for kind, found in tables.items():
            seen: set[str] = set()
            for name, path in found:
                if not _NAME.fullmatch(name):
                    hint = "letters, digits, - and _, at most 63, beginning with a letter or a digit"
                    raise self.fail(BadValue, path, f'"{name}" is not a name', hint)
                if name in seen:
                    raise self.fail(DuplicateName, path, f'there are two parts "{kind}.{name}"')
                seen.add(name)

    def base(self, path: str, base: Base) -> None:
        self.exactly_one(path, {"debian": base.debian, "image": base.image, "tar": base.tar})
        if base.debian is not None:
            self.not_empty(f"{path}.debian", "suites", base.debian.suites)
            self.not_empty(f"{path}.debian", "packages", base.debian.packages)
            for keyring in keyrings_of(base.debian):
                if keyring and not keyring.startswith("/"):
                    self.path_inside(f"{path}.debian", keyring)
        if base.tar is not None:
            self.path_inside(f"{path}.tar", base.tar)
        if base.image is not None and (not base.image or any(c.isspace() for c in base.image)):
            raise self.fail(BadValue, f"{path}.image", f'"{base.image}" is not an image reference')
        if base.sha256 is not None:
            if base.tar is None:
                raise self.fail(
                    BadValue, f"{path}.sha256", "sha256 belongs to tar", 'write image = "name@sha256:…"'
                )
            self.sha256(f"{path}.sha256", base.sha256)

    def sources(self) -> None:
        for name, source in self.spec.source.items():
            path = f"$.source.{name}"
            ways = {
                "path": source.path,
                "git": source.git,
                "url": source.url,
                "debian-source": source.debian_source,
            }
            self.exactly_one(path, ways)
            if source.path is not None and source.path != ".":
                self.path_inside(f"{path}.path", source.path)
            if (source.git is None) != (source.rev is None):
                raise self.fail(BadValue, path, "git and rev belong together", 'rev = "v1.0" or a commit')
            if source.git is not None and not re.match(r"(https|ssh|file)://", source.git):
                message = f'"{source.git}" is not an https://, ssh:// or file:// address'
                raise self.fail(BadValue, f"{path}.git", message)
            if source.url is not None and not re.match(r"(https|file)://", source.url):
                raise self.fail(BadValue, f"{path}.url", f'"{source.url}" is not an https:// or file:// URL')
            if source.sha256 is not None:
                if source.url is None:
                    raise self.fail(BadValue, f"{path}.sha256", "sha256 belongs to url")
                self.sha256(f"{path}.sha256", source.sha256)
            for key, chosen in (("include", source.include), ("exclude", source.exclude)):
                if chosen and source.path is None and source.git is None:
                    raise self.fail(BadValue, f"{path}.{key}", f"{key} belongs to path and git")
                for item in chosen:
                    self.path_inside(f"{path}.{key}", item)

    def fetches(self) -> None:
        for name, fetch in self.spec.fetch.items():
            path = f"$.fetch.{name}"
            self.known_base(path, fetch.base)
            self.not_empty(path, "run", fetch.run)
            self.needs(path, fetch.needs, ("source", "fetch"))
            self.placeholders(path, fetch.run, fetch.environment, fetch.needs)

    def steps(self) -> None:
        for at, step in enumerate(self.spec.step):
            path = f"$.step[{at}]"
            self.known_base(path, step.base)
            self.not_empty(path, "run", step.run)
            if not step.outputs:
                hint = 'for example outputs = ["program"], written by the command to {out}/program'
                raise self.fail(NoOutputs, f"{path}.outputs", f'the step "{step.id}" has no outputs', hint)
            for output in step.outputs:
                self.path_inside(f"{path}.outputs", output)
            self.needs(path, step.needs, ("source", "fetch", "step", "pack"))
            self.placeholders(path, step.run, step.environment, step.needs)
            self.variations(f"{path}.fixed", step.fixed)
            limits = step.limits
            for key in ("memory", "disk", "output"):
                self.measured(f"{path}.limits.{key}", getattr(limits, key), size_bytes)
            self.measured(f"{path}.limits.time", limits.time, seconds, _MOST_SECONDS)
            for key, most in (("cpus", _MOST_CPUS), ("pids", _MOST_PIDS)):
                if not 1 <= getattr(limits, key) <= most:
                    message = f"{key} is {getattr(limits, key)}, 1 to {most} are allowed"
                    raise self.fail(BadValue, f"{path}.limits.{key}", message)

    def packs(self) -> None:
        for at, pack in enumerate(self.spec.pack):
            path = f"$.pack[{at}]"
            self.path_inside(f"{path}.output", pack.output)
            if pack.kind == "sgx" and not pack.image:
                raise self.fail(
                    BadValue, path, f'the pack "{pack.id}" names no image', 'image = "step.ID:enclave.so"'
                )
            if pack.kind == "oci" and not pack.files:
                raise self.fail(
                    BadValue, path, f'the pack "{pack.id}" has no files', 'files = { "/bin/x" = "step.ID:x" }'
                )
            for inner in pack.files:
                if not inner.startswith("/") or ".." in inner.split("/"):
                    raise self.fail(
                        PathOutside, f"{path}.files", f'"{inner}" is not an absolute path in the image'
                    )
            for key, text in pack_references(pack):
                self.reference(f"{path}.{key}", text)

    def measures(self) -> None:
        for at, measure in enumerate(self.spec.measure):
            path = f"$.measure[{at}]"
            tees = (measure.tee,) if isinstance(measure.tee, str) else measure.tee
            for tee in tees:
                if tee not in get_args(Tee):
                    raise self.fail(
                        BadValue, f"{path}.tee", f'there is no TEE "{tee}"{near(tee, get_args(Tee))}'
                    )
            if not tees or not any(True for _ in measure_references(measure)):
                hint = 'image = "step.ID:FILE", or firmware, kernel, initrd'
                raise self.fail(BadValue, path, f'"{measure.id}" measures nothing', hint)
            if measure.path and not (measure.image and "sgx" in tees):
                raise self.fail(
                    BadValue,
                    f"{path}.path",
                    "a path is of an enclave in an image",
                    'tee = "sgx", image = "…"',
                )
            if measure.path and (not measure.path.startswith("/") or ".." in measure.path.split("/")):
                message = f'"{measure.path}" is not an absolute path in the image'
                raise self.fail(PathOutside, f"{path}.path", message)
            if measure.layer not in _LAYERS:
                message = f'there is no layer "{measure.layer}"{near(measure.layer, _LAYERS)}'
                raise self.fail(BadValue, f"{path}.layer", message, f"known: {', '.join(_LAYERS)}")
            if measure.host_data and not re.fullmatch(r"[0-9a-f]{64}", measure.host_data):
                message = f'"{measure.host_data}" are no host data'
                raise self.fail(BadValue, f"{path}.host_data", message, "64 hex digits, lowercase")
            if measure.policy and not _FEATURES.fullmatch(measure.policy):
                message = f'"{measure.policy}" is no guest policy'
                raise self.fail(BadValue, f"{path}.policy", message, 'a number in hex: "0x30000"')
            features = measure.guest_features
            for feature in (features,) if isinstance(features, str) else features:
                if not _FEATURES.fullmatch(feature):
                    message = f'"{feature}" are no guest features'
                    raise self.fail(BadValue, f"{path}.guest_features", message, 'a number in hex: "0x1"')
            for memory in (measure.memory,) if isinstance(measure.memory, str) else measure.memory:
                self.measured(f"{path}.memory", memory, size_bytes)
            for vcpus in (measure.vcpus,) if isinstance(measure.vcpus, int) else measure.vcpus:
                if vcpus < 1:
                    raise self.fail(BadValue, f"{path}.vcpus", f"{vcpus} is not a number of processors")
            for key, text in measure_references(measure):
                self.reference(f"{path}.{key}", text)

    def cycles(self) -> None:
        graph = dependencies(self.spec)
        done: set[str] = set()
        for start in graph:
            trail: list[str] = []
            waiting: list[tuple[str, Iterator[str]]] = [(start, iter(graph[start]))]
            while waiting and start not in done:
                node, following = waiting[-1]
                if not trail or trail[-1] != node:
                    trail.append(node)
                after = next((item for item in following if item not in done), None)
                if after is None:
                    done.add(node)
                    trail.pop()
                    waiting.pop()
                elif after in trail:
                    circle = [*trail[trail.index(after) :], after]
                    kind, _, name = after.partition(".")
                    raise self.fail(Cycle, self.path_of(kind, name), "a cycle: " + " → ".join(circle))
                else:
                    waiting.append((after, iter(graph[after])))

    def rebuild(self) -> None:
        if not 1 <= self.spec.rebuild.times <= _MAX_TIMES:
            message = f"times is {self.spec.rebuild.times}, 1 to {_MAX_TIMES} are allowed"
            raise self.fail(BadValue, "$.rebuild.times", message)
        self.variations("$.rebuild.vary", self.spec.rebuild.vary)

    # What several parts share.

    def path_of(self, kind: str, name: str) -> str:
        parts: tuple[Any, ...] = getattr(self.spec, kind) if kind in {"step", "pack", "measure"} else ()
        at = next((at for at, part in enumerate(parts) if part.id == name), None)
        return f"$.{kind}.{name}" if at is None else f"$.{kind}[{at}]"

    def exactly_one(self, path: str, ways: Mapping[str, object]) -> None:
        said = [key for key, value in ways.items() if value is not None]
        if len(said) != 1:
            found = " and ".join(said) or "none"
            raise self.fail(ExactlyOne, path, f"exactly one of {', '.join(ways)} is needed, found {found}")

    def not_empty(self, path: str, key: str, values: tuple[str, ...]) -> None:
        if not values or not all(values):
            raise self.fail(BadValue, f"{path}.{key}", f"{key} is empty, or has an empty item")

    def sha256(self, path: str, text: str) -> None:
        if not _SHA256.fullmatch(text):
            raise self.fail(BadValue, path, f'"{text}" is not a SHA-256', "64 lowercase hex digits")

    def path_inside(self, path: str, text: str) -> None:
        try:
            inside(text)
        except BadReference as error:
            raise self.fail(PathOutside, path, error.message, error.hint) from error

    def measured(self, path: str, text: str, read: Callable[[str], int], most: int = _MOST_BYTES) -> None:
        try:
            value = read(text)
        except BadSize as error:
            raise self.fail(BadSize, path, error.message, error.hint) from error
        if value == 0:
            raise self.fail(BadSize, path, f'"{text}" is nothing')
        if value > most:
            raise self.fail(BadSize, path, f'"{text}" is more than any machine has')

    def known_base(self, path: str, name: str) -> None:
        if name not in self.spec.base:
            message = f'there is no base "{name}"{near(name, self.spec.base)}'
            raise self.fail(
                UnknownPart, f"{path}.base", message, f"known: {', '.join(self.spec.base) or 'none'}"
            )

    def needs(self, path: str, needs: tuple[str, ...], kinds: tuple[str, ...]) -> None:
        for text in needs:
            reference = self.reference(f"{path}.needs", text)
            if reference.kind not in kinds or reference.path:
                allowed = ", ".join(f"{kind}.NAME" for kind in kinds)
                raise self.fail(
                    UnknownPart, f"{path}.needs", f'"{text}" cannot be needed here', f"allowed: {allowed}"
                )

    def reference(self, path: str, text: str) -> Reference:
        try:
            found = parse_reference(text)
        except BadReference as error:
            raise self.fail(PathOutside, path, error.message, error.hint) from error
        if found.node and found.node not in self.nodes:
            message = f'there is no "{found.node}"{near(found.node, self.nodes)}'
            hint = f"./{text} if a file of that name is meant" if ":" not in text else ""
            raise self.fail(UnknownPart, path, message, hint)
        return found

    def placeholders(
        self, path: str, run: tuple[str, ...], environment: dict[str, str], needs: tuple[str, ...]
    ) -> None:
        for key in environment:
            if not _VARIABLE.fullmatch(key):
                raise self.fail(BadValue, f"{path}.environment", f"{key!r} is not the name of a variable")
        if any("\0" in text for text in (*run, *environment.values())):
            raise self.fail(BadValue, path, "a command and its environment cannot have a NUL character")
        known = ("out", "work", *needs)
        texts = [(f"{path}.run", text) for text in run]
        texts += [(f"{path}.environment.{key}", value) for key, value in environment.items()]
        for where, text in texts:
            for found in placeholders(text):
                if found not in known:
                    message = f"{{{found}}} is not among the needs{near(found, known)}"
                    raise self.fail(UnknownPlaceholder, where, message, f'add "{found}" to needs')

    def variations(self, path: str, names: tuple[str, ...]) -> None:
        for name in names:
            if name not in VARIATION_NAMES:
                message = f'there is no variation "{name}"{near(name, VARIATION_NAMES)}'
                raise self.fail(UnknownVariation, path, message, f"known: {', '.join(VARIATION_NAMES)}")


def near(name: str, known: Iterable[str]) -> str:
    """Propose the nearest known name, as the end of a message."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f', did you mean "{found[0]}"?' if found else ""
