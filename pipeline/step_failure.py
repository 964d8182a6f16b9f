"""How a step fails: each way has a code; all have the last lines and the log."""

from __future__ import annotations

from provenance.errors import StepFailure


class StepFailed(StepFailure):
    """The command of a step ended with a status other than 0.

    Cure: its last lines say why; the full log has everything. `rvp build --debug-shell` opens a shell in its
    sandbox.

    Attributes:
        last_lines: what it printed last.
        log: path of the full log.
        exit_status: of the command.
    """

    code = "RVP-3001"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        place: str = "",
        last_lines: tuple[str, ...] = (),
        log: str = "",
        exit_status: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint, place=place)
        self.last_lines = last_lines
        self.log = log
        self.exit_status = exit_status


class StepTimedOut(StepFailed):
    """A step ran longer than its time limit and was killed.

    Cure: raise `limits.time` of the step, or find out what it waits for.
    """

    code = "RVP-3002"


class StepOutOfMemory(StepFailed):
    """A step needed more memory than its limit.

    Cure: raise `limits.memory` of the step, or have it run fewer jobs at once.
    """

    code = "RVP-3003"


class StepDiskLimit(StepFailed):
    """A step wrote more than its disk limit.

    Cure: raise `limits.disk` of the step.
    """

    code = "RVP-3004"


class StepProcessLimit(StepFailed):
    """A step failed after it could not make another process.

    Cure: raise `limits.pids` of the step, or find out what forks.
    """

    code = "RVP-3005"


class StepLogLimit(StepFailed):
    """A step printed more than a log may hold.

    Cure: have the command print less.
    """

    code = "RVP-3006"


class CommandAbsent(StepFailed):
    """The command of a step is not in its base, or cannot be executed.

    Cure: add the package that has it to the base, or correct `run`.
    """

    code = "RVP-3007"
