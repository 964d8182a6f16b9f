"""A Dockerfile, read as far as it can be translated into bases and steps; the rest is named, not guessed.

What carries over: `FROM` of a Debian release with `apt-get install` becomes a base of packages, any other
`FROM` a base by image; `COPY`, `WORKDIR`, `ENV`, `ARG` and `RUN` become one step a stage. What does not:
commands that reach the network, and everything that describes a running container.

The step works in `{work}/root`, which stands for `/`: a step may not write elsewhere.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import Final

import msgspec

from provenance.errors import UsageError

_RELEASES: Final = {
    "bullseye": "bullseye", "11": "bullseye", "bookworm": "bookworm", "12": "bookworm",
    "trixie": "trixie", "13": "trixie",
}  # fmt: skip
_NETWORK: Final = re.compile(
    r"\b(curl|wget|git\s+clone|pip3?\s+(install|download)|npm\s+(ci|install|i)\b|yarn|pnpm|go\s+(mod\s+download|get)|"
    r"cargo\s+(fetch|install)|gem\s+install|apk\s+add|yum|dnf|conda|add-apt-repository)\b"
)
_APT_NOISE: Final = re.compile(
    r"apt(-get)?\s+(-\S+\s+)*(update|upgrade|clean|autoremove|autoclean)\b|rm\s+-rf?\s+/var/(lib/apt|cache)"
)
_APT_INSTALL: Final = re.compile(r"apt(-get)?\s+(-\S+\s+)*install\b(?P<rest>.*)", re.DOTALL)
_KNOWN: Final = frozenset(
    [
        "ADD",
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "MAINTAINER",
        "ONBUILD",
        "RUN",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ]
)


class NotADockerfile(UsageError):
    """The file has no FROM, or an instruction that Dockerfiles do not have.

    Cure: name the Dockerfile: `rvp init --from path/to/Dockerfile`.
    """

    code = "RVP-1121"


class Instruction(msgspec.Struct, frozen=True):
    """One instruction: its line, its name in capitals, the rest of it with continuations joined."""

    line: int
    name: str
    rest: str


class Left(msgspec.Struct, frozen=True):
    """Something that was not translated, and why."""

    line: int
    text: str
    why: str


class Stage(msgspec.Struct, kw_only=True):
    """One stage: where it starts from, and what it does.

    Attributes:
        name: for the spec.
        image: what FROM names; empty when it starts from another stage.
        parent: the stage that it starts from, or empty.
        suite: the Debian release, when the image is one.
        packages: that apt-get installs.
        environment: ENV, and ARG with a default.
        script: shell lines.
        needs: other stages that COPY --from names.
        entrypoint: ENTRYPOINT and CMD, when they are lists.
        sources: whether COPY takes something from the context.
    """

    name: str
    image: str = ""
    parent: str = ""
    suite: str = ""
    packages: list[str] = msgspec.field(default_factory=list)
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    script: list[str] = msgspec.field(default_factory=list)
    needs: list[str] = msgspec.field(default_factory=list)
    entrypoint: list[str] = msgspec.field(default_factory=list)
    sources: bool = False


class Dockerfile(msgspec.Struct, kw_only=True):
    """The stages, and what was left."""

    stages: list[Stage]
    left: list[Left]


def parse_instructions(text: str) -> list[Instruction]:
    """Split a Dockerfile into instructions.

    Raises:
        NotADockerfile: RVP-1121.
    """
    found: list[Instruction] = []
    pending, started = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        started = started if pending else number
        if line.endswith("\\"):
            pending += line[:-1].rstrip() + " "
            continue
        found.append(_instruction(started, pending + line))
        pending = ""
    if pending:
        found.append(_instruction(started, pending))
    if not any(instruction.name == "FROM" for instruction in found):
        raise NotADockerfile("the file has no FROM")
    return found


def _instruction(line: int, text: str) -> Instruction:
    name, _, rest = text.strip().partition(" ")
    if name.upper() not in _KNOWN:
        raise NotADockerfile(f'"{name[:40]}" is no instruction of a Dockerfile (line {line})')
    return Instruction(line, name.upper(), rest.strip())


def read_dockerfile(text: str) -> Dockerfile:
    """Read a Dockerfile into stages.

    Raises:
        NotADockerfile: RVP-1121.
    """
    return _Reader().read(parse_instructions(text))


class _Reader:
    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self.left: list[Left] = []
        self.arguments: dict[str, str] = {}
        self.names: dict[str, str] = {}  # what the Dockerfile calls a stage -> what the spec calls it

    def read(self, instructions: list[Instruction]) -> Dockerfile:
        for instruction in instructions:
            match instruction.name:
                case "FROM":
                    self.start(instruction)
                case "ARG" if not self.stages:
                    name, _, value = instruction.rest.partition("=")
                    self.arguments[name] = _unquoted(value)
                case _ if "<<" in instruction.rest and instruction.name in {"RUN", "COPY"}:
                    self.leave(instruction, "here-documents are not translated")
                case "RUN":
                    self.run(instruction)
                case "COPY":
                    self.copy(instruction)
                case "WORKDIR":
                    place = _below_root(instruction.rest)
                    self.stage.script.append(f"mkdir -p {place} && cd {place}")
                case "ENV" | "ARG":
                    self.environment(instruction)
                case "ENTRYPOINT" | "CMD":
                    self.entrypoint(instruction)
                case "ADD":
                    self.leave(instruction, "make it a [source.NAME] with url and sha256, or use COPY")
                case _:
                    self.leave(instruction, "it describes the running container, not what is built")
        return Dockerfile(stages=self.stages, left=self.left)

    @property
    def stage(self) -> Stage:
        return self.stages[-1]

    def leave(self, instruction: Instruction, why: str, text: str = "") -> None:
        self.left.append(Left(instruction.line, text or f"{instruction.name} {instruction.rest}", why))

    def start(self, instruction: Instruction) -> None:
        words = [word for word in instruction.rest.split() if not word.startswith("--")]
        image = re.sub(r"\$\{?(\w+)\}?", lambda match: self.arguments.get(match[1], match[0]), words[0])
        called = words[2] if len(words) == 3 and words[1].upper() == "AS" else ""
        name = _name(called or f"stage{len(self.stages) + 1}")
        parent = self.names.get(image.lower(), "")
        self.names[str(len(self.stages))] = name
        if called:
            self.names[called.lower()] = name
        stage = Stage(name=name, image="" if parent else image, parent=parent)
        repository, _, tag = image.partition(":")
        if repository.rpartition("/")[2] == "debian" and "@" not in image:
            stage.suite = _RELEASES.get(tag.removesuffix("-slim"), "")
        if parent:
            stage.needs.append(parent)
            stage.script.append(f"cp -R {{step.{parent}}}/root/. .")
        self.stages.append(stage)

    def run(self, instruction: Instruction) -> None:
        rest = re.sub(r"^(--\S+\s+)+", "", instruction.rest)
        if rest.startswith("["):
            commands = [shlex.join(_list(rest))]
        else:
            commands = [
                part.strip() for part in re.split(r"\s*(?:&&|;)\s*(?=(?:[^'\"]|'[^']*'|\"[^\"]*\")*$)", rest)
            ]
        for command in filter(None, commands):
            install = _APT_INSTALL.search(command)
            if install:
                words = install["rest"].split()
                self.stage.packages += [
                    word.partition("=")[0] for word in words if re.match(r"[a-z0-9]", word)
                ]
                if not self.stage.suite:
                    self.leave(instruction, "the image of this base must have the packages already", command)
            elif _APT_NOISE.search(command):
                continue
            elif _NETWORK.search(command):
                self.leave(instruction, "it reaches the network: make it a [fetch.NAME]", command)
            else:
                self.stage.script.append(command)

    def copy(self, instruction: Instruction) -> None:
        words = _list(instruction.rest) if instruction.rest.startswith("[") else shlex.split(instruction.rest)
        flags = [word for word in words if word.startswith("--")]
        *sources, target = [word for word in words if not word.startswith("--")] or [""]
        other = next((flag.partition("=")[2] for flag in flags if flag.startswith("--from=")), None)
        if not sources:
            self.leave(instruction, "it has no source")
            return
        if other is not None and other.lower() not in self.names:
            self.leave(instruction, f'"{other}" is an image, not a stage: make it a base of its own')
            return
        if other is None:
            self.stage.sources = True
            root = "{source.context}"
        else:
            name = self.names[other.lower()]
            self.stage.needs += [] if name in self.stage.needs else [name]
            root = f"{{step.{name}}}/root"
        place = _below_root(target)
        many = len(sources) > 1 or target.endswith(("/", ".")) or sources == ["."]
        self.stage.script.append(f"mkdir -p {place if many else f'$(dirname {place})'}")
        for source in sources:
            path = source.lstrip("/").removeprefix("./")
            inner = f"{root}/{path}" if path not in {"", "."} else f"{root}/."
            self.stage.script.append(f"cp -R {inner} {place}")

    def environment(self, instruction: Instruction) -> None:
        pairs = [word.partition("=") for word in shlex.split(instruction.rest) if "=" in word]
        if not pairs and instruction.name == "ENV":
            name, _, value = instruction.rest.partition(" ")
            pairs = [(name, "=", value.strip())]
        if not pairs:
            self.leave(instruction, "an argument without a default")
        for name, _, value in pairs:
            if "$" in value:
                self.stage.script.append(f'export {name}="{value}"')
            else:
                self.stage.environment[name] = value

    def entrypoint(self, instruction: Instruction) -> None:
        if instruction.rest.startswith("["):
            self.stage.entrypoint += _list(instruction.rest)
        else:
            self.leave(instruction, "write it as a list in the entrypoint of a [[pack]]")


def _below_root(path: str) -> str:
    """Turn a path of the container into one below the folder that stands for `/`."""
    return f'"$root"/{path.lstrip("/")}' if path.startswith("/") else path


def _list(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except ValueError:
        return shlex.split(text)
    return [str(word) for word in found] if isinstance(found, list) else [str(found)]


def _unquoted(text: str) -> str:
    return text.strip().strip("\"'")


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", text).strip("-_") or "stage"
