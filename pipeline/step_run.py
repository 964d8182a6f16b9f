"""What one run of a step is made of: its root filesystem, inputs, command, limits; and what it gave."""

from __future__ import annotations

import msgspec

from pipeline.tree import Tree


class Rootfs(msgspec.Struct, frozen=True, kw_only=True):
    """A root filesystem that a container can be made of.

    Attributes:
        digest: what a step's key has: the SHA-256 of the uncompressed tar (a base of packages or a tar),
            or of the canonical list of layer diff ids (a container image); never an engine's image id.
        tar: the store object with the uncompressed tar; empty for a container image.
        image: the reference by digest to pull, `name@sha256:…`; empty otherwise.
        variation_tools: libfaketime and a compiled locale for the variations, when there are any:
            `libfaketime.so.1` and `locale/NAME/…`.
    """

    digest: bytes
    tar: bytes = b""
    image: str = ""
    variation_tools: Tree = Tree()


class StepInput(msgspec.Struct, frozen=True, kw_only=True):
    """An input of a step: the name that its argv uses (`source.app`), and the tree."""

    name: str
    tree: Tree


class NotExercised(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A variation that could not take effect in a step, and why."""

    variation: str
    reason: str


class SandboxLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in base units.

    Attributes:
        cpus: how many processors the step sees; which ones is the engine's business.
        memory_bytes: memory and swap together.
        disk_bytes: everything it writes, and the largest file it may write.
        output_bytes: everything that leaves, holes of sparse files counted in full.
        log_bytes: everything it prints.
        time_s: wall time.
        pids: processes and threads at one time.
    """

    cpus: int = 1
    memory_bytes: int = 2 << 30
    disk_bytes: int = 8 << 30
    output_bytes: int = 4 << 30
    log_bytes: int = 256 << 20
    time_s: float = 3600.0
    pids: int = 1024


class StepRun(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one run of a step depends on.

    Attributes:
        node: the node's name, `step.enclave`.
        rootfs: the root filesystem.
        argv: the command, with placeholders: {out}, {work}, {<input name>}.
        inputs: the trees that the command reads.
        outputs: paths below {out}: files or folders.
        environment: the step's own environment variables (placeholders allowed).
        epoch: SOURCE_DATE_EPOCH, Unix seconds.
        limits: what it may use.
        variations: names of the variations that this run is under; empty in the first build.
        fixed: variations that the step cannot bear.
        run: 1 for the first build, 2, 3, … for rebuilds: different runs vary by different amounts.
    """

    node: str
    rootfs: Rootfs
    argv: tuple[str, ...]
    inputs: tuple[StepInput, ...] = ()
    outputs: tuple[str, ...]
    environment: dict[str, str] = {}
    epoch: int
    limits: SandboxLimits = SandboxLimits()
    variations: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    run: int = 1


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of a step gave.

    Attributes:
        outputs: the tree of the declared outputs, its content in the store.
        log: SHA-256 of the full log (stdout and stderr as they came), in the store.
        duration_s: how long the command ran.
        exercised: the variations that took effect.
        not_exercised: those that did not, with reasons (a step's `fixed` ones included).
    """

    outputs: Tree
    log: bytes
    duration_s: float
    exercised: tuple[str, ...] = ()
    not_exercised: tuple[NotExercised, ...] = ()
