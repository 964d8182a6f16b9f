"""The one error tree: what went wrong, where, what to do, and the exit code that says so.

An error is raised in the room that finds it. Each kind of failure is a class with a unique code;
its docstring is its documentation entry (the first line is the title, the rest says why and how to cure it).
`rvp explain CODE` and `docs/reference/errors.md` show the same text.

    RvpError
      InternalError       exit 1    a bug in rvp
      UsageError          exit 2    the command line, or a file that is not what the command needs
      SpecError           exit 3    the spec or the lock
      EnvironmentFailure  exit 4    no engine, no disk, no permission
      StepFailure         exit 5    a build step failed
      SignatureFailure    exit 10   signature, identity, or bytes that are not the ones that were signed
      Divergence          exit 11   two rebuilds gave different outputs
      MeasurementMismatch exit 12   a value is not the expected one
      PolicyFailure       exit 13   source, quorum, freshness, rollback, release
      EvidenceFailure     exit 14   evidence or endorsement not genuine, or refused
      Inconclusive        exit 20   nothing could be decided

Example:
    >>> class CupEmpty(UsageError):
    ...     '''The cup is empty.
    ...
    ...     Cure: fill it.
    ...     '''
    ...     code = "RVP-9998"
    >>> error = CupEmpty("the cup holds 0 ml", hint="fill it", place="table.toml:3")
    >>> error.exit_code, str(error)
    (2, 'table.toml:3: the cup holds 0 ml')
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

_CODE: Final = re.compile(r"RVP-\d{4}\Z")


class RvpError(Exception):
    """Anything that rvp says went wrong.

    Attributes:
        message: what happened, with the values.
        hint: what to do about it; empty when there is nothing to say.
        place: `file`, `file:line` or `file:line:column`, or a path inside a document.
        code: `RVP-nnnn`, unique to the class.
        exit_code: the exit status of the command that ends with this error.
    """

    code: ClassVar[str] = ""
    exit_code: ClassVar[int] = 1
    registry: ClassVar[dict[str, type[RvpError]]] = {}

    def __init__(self, message: str, *, hint: str = "", place: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.place = place

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "code" not in cls.__dict__:
            return
        if not _CODE.match(cls.code):
            raise TypeError(f"{cls.__name__}: {cls.code!r} is not of the form RVP-nnnn")
        known = RvpError.registry.setdefault(cls.code, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"{cls.code} belongs to {known.__name__} and to {cls.__name__}")

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class InternalError(RvpError):
    """A bug in rvp itself.

    Cure: run the command again with `-v` and report what it printed.
    """

    code = "RVP-1000"
    exit_code = 1


class UsageError(RvpError):
    """The command cannot do this with what it was given."""

    exit_code = 2


class SpecError(RvpError):
    """The spec or the lock is wrong."""

    exit_code = 3


class EnvironmentFailure(RvpError):
    """The machine lacks something: an engine, space, a permission, a tool."""

    exit_code = 4


class StepFailure(RvpError):
    """A build step failed."""

    exit_code = 5


class SignatureFailure(RvpError):
    """A signature, an identity, or bytes that are not the ones that were signed."""

    exit_code = 10


class Divergence(RvpError):
    """Two rebuilds gave different outputs."""

    exit_code = 11


class MeasurementMismatch(RvpError):
    """A value is not the expected one."""

    exit_code = 12


class PolicyFailure(RvpError):
    """The policy refuses: source, quorum, freshness, rollback, release."""

    exit_code = 13


class EvidenceFailure(RvpError):
    """Evidence or endorsement is not genuine, or the policy refuses it."""

    exit_code = 14


class Inconclusive(RvpError):
    """Nothing could be decided."""

    exit_code = 20


class MissingExtra(UsageError):
    """A command needs packages that this installation lacks.

    The base installation is the verifier alone. Cure: install the extra that the message names,
    for example `pip install 'reference-value-pipeline[pipeline]'`.
    """

    code = "RVP-1001"


class Interrupted(RvpError):
    """The command was interrupted.

    What had been finished is kept. Cure: the same command goes on from there.
    """

    code = "RVP-1002"
    exit_code = 130


class CommandLine(UsageError):
    """The command line is not one that rvp has: a command, option or value is missing, unknown or misplaced.

    Cure: `--help` after the command prints its options and examples.
    """

    code = "RVP-1003"


class MachineRefused(EnvironmentFailure):
    """The operating system refused to read or write a file: permissions, a read-only or full disk.

    The message has the path and the reason.
    Cure: free space, change the permissions, or work in another folder.
    """

    code = "RVP-1004"
