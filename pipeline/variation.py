"""What a step sees of its surroundings: fixed, unless a rebuild varies it.

Every variation changes one thing that must not reach an output. How much it changes depends on the number
of the run alone, so that a rebuild can be repeated. What cannot take effect in a step (its base has no
setarch, the machine has one processor …) is recorded as not exercised, with the reason.

Example:
    >>> "hostname" in VARIATIONS
    True
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from pipeline.rootfs import RootfsFacts
from pipeline.step_run import NotExercised, StepRun
from pipeline.tree import Tree

BUILD_ROOT: Final = "/build"
TOOLS: Final = "/rvp-variation"
HOSTNAME: Final = "rvp"
USER: Final = "builder"
USER_ID: Final = 1000
HOME: Final = "/home/builder"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UMASK: Final = 0o022


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine and the client can do for variations; empty text: it can.

    Attributes:
        cpus: processors that a step can get at most.
        no_file_order: why inputs cannot be mounted in another order.
    """

    cpus: int = 1
    no_file_order: str = ""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of a step's surroundings that rvp decides.

    Attributes:
        build_root: the folder of {out}, {work} and the inputs.
        hostname, user, user_id, home: as named.
        cpus: how many processors.
        variables: environment variables, the step's own not yet among them.
        wrapper: what stands before the step's argv.
        reversed_order: folders of inputs list their entries in reversed order.
        tools: mount the variation tools of the base at TOOLS.
    """

    build_root: str = BUILD_ROOT
    hostname: str = HOSTNAME
    user: str = USER
    user_id: int = USER_ID
    home: str = HOME
    cpus: int = 1
    variables: dict[str, str] = {}
    wrapper: tuple[str, ...] = ()
    reversed_order: bool = False
    tools: bool = False
    exercised: tuple[str, ...] = ()
    not_exercised: tuple[NotExercised, ...] = ()


class _Draft:
    """An environment in the making."""

    def __init__(self, run: StepRun, facts: RootfsFacts, around: Surroundings) -> None:
        self.run, self.facts, self.around = run, facts, around
        self.turn = max(run.run - 1, 1)  # 1 for the first rebuild
        self.build_root, self.hostname = BUILD_ROOT, HOSTNAME
        self.user, self.user_id, self.home = USER, USER_ID, HOME
        self.cpus = run.limits.cpus
        self.umask = UMASK
        self.zone, self.locale = "UTC", "C.UTF-8"
        self.more: dict[str, str] = {}
        self.setarch: tuple[str, ...] = ()
        self.reversed_order = self.tools = False
        self.tool_paths = {entry.path for entry in run.rootfs.variation_tools.entries}


def environment_for(run: StepRun, facts: RootfsFacts, around: Surroundings | None = None) -> Environment:
    """Decide a step's surroundings: the fixed ones, with the variations of this run.

    Args:
        run: the step; `run.variations` are applied, but for those in `run.fixed`.
        facts: what its root filesystem holds.
        around: what engine and client can do.
    """
    draft = _Draft(run, facts, around or Surroundings())
    exercised: list[str] = []
    missing: list[NotExercised] = []
    for name in sorted(run.variations, key=_order):
        if name in run.fixed:
            reason = "the step declares that it cannot bear it"
        elif name not in _TABLE:
            reason = "this version of rvp does not know it"
        elif own := sorted(_CARRIED_BY.get(name, frozenset()) & run.environment.keys()):
            reason = f"the step sets {' and '.join(own)} itself"
        else:
            reason = _TABLE[name](draft)
        if reason:
            missing.append(NotExercised(variation=name, reason=reason))
        else:
            exercised.append(name)
    return Environment(
        build_root=draft.build_root,
        hostname=draft.hostname,
        user=draft.user,
        user_id=draft.user_id,
        home=draft.home,
        cpus=draft.cpus,
        variables=_variables(draft),
        wrapper=_wrapper(draft),
        reversed_order=draft.reversed_order,
        tools=draft.tools,
        exercised=tuple(exercised),
        not_exercised=tuple(missing),
    )


def _variables(draft: _Draft) -> dict[str, str]:
    return {
        "SOURCE_DATE_EPOCH": str(draft.run.epoch),
        "TZ": draft.zone,
        "LANG": draft.locale,
        "LC_ALL": draft.locale,
        "HOME": draft.home,
        "PATH": PATH,
        "USER": draft.user,
        "LOGNAME": draft.user,
        "HOSTNAME": draft.hostname,
        **draft.more,
    }


def _wrapper(draft: _Draft) -> tuple[str, ...]:
    """Set the umask, which an engine cannot, and join stderr to stdout, so that a log keeps their order.

    The shell stands there in every run, varied or not: it leaves traces in the environment (PWD, SHLVL).
    """
    if not draft.facts.shell:
        return draft.setarch
    return (draft.facts.shell, "-c", f'umask {draft.umask:04o}; exec "$@" 2>&1', "sh", *draft.setarch)


def _pick(draft: _Draft, *choices: str) -> str:
    return choices[(draft.turn - 1) % len(choices)]


def _time(draft: _Draft) -> str:
    """A clock far in the future, relative, so that it goes on; file times stay true.

    Source: libfaketime 0.9.10, README: FAKETIME with "+", NO_FAKE_STAT, DONT_FAKE_MONOTONIC.
    """
    if "libfaketime.so.1" in draft.tool_paths:
        library, draft.tools = f"{TOOLS}/libfaketime.so.1", True
    else:
        library = draft.facts.faketime
    if not library:
        return "the base has no libfaketime"
    draft.more |= {
        "LD_PRELOAD": library,
        "FAKETIME": f"+{398 * draft.turn + 5}d",
        "NO_FAKE_STAT": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    return ""


def _timezone(draft: _Draft) -> str:
    """POSIX time zones that need no files, more than half a day away."""
    draft.zone = _pick(draft, "<+1245>-12:45", "<-1130>+11:30", "<+0545>-05:45")
    return ""


def _hostname(draft: _Draft) -> str:
    draft.hostname = f"i-capture-the-hostname-{draft.run.run}"
    return ""


def _locale(draft: _Draft) -> str:
    names = sorted({path.split("/")[1] for path in draft.tool_paths if path.startswith("locale/")})
    if names:
        draft.locale, draft.tools = names[(draft.turn - 1) % len(names)], True
        draft.more["LOCPATH"] = f"{TOOLS}/locale"
    elif draft.facts.locale:
        draft.locale = draft.facts.locale
        draft.more["LOCPATH"] = draft.facts.locale_path
    else:
        return "the base has no locale but C and POSIX"
    return ""


def _umask(draft: _Draft) -> str:
    if not draft.facts.shell:
        return "the base has no /bin/sh to set it with"
    draft.umask = (0o002, 0o077, 0o027)[(draft.turn - 1) % 3]
    return ""


def _user(draft: _Draft) -> str:
    draft.user, draft.user_id = f"rebuilder{draft.run.run}", 2000 + draft.run.run
    return ""


def _home(draft: _Draft) -> str:
    draft.home = f"/nowhere/home-of-run-{draft.run.run}"
    return ""


def _environment(draft: _Draft) -> str:
    draft.more |= {"CAPTURE_ENVIRONMENT": f"i-capture-the-environment-{draft.run.run}", "TERM": "dumb"}
    return ""


def _build_path(draft: _Draft) -> str:
    draft.build_root = f"/build-of-run-{draft.run.run}/" + "deeper/" * draft.turn + "inside"
    return ""


def _cpus(draft: _Draft) -> str:
    most = draft.around.cpus
    if most < 2:
        return "the engine has one processor"
    wanted = draft.run.limits.cpus
    others = [count for count in range(1, most + 1) if count != draft.cpus]
    draft.cpus = min(others, key=lambda count: (abs(count - wanted - draft.turn), count))
    return ""


def _file_order(draft: _Draft) -> str:
    if not any(_has_choice(one.tree) for one in draft.run.inputs):
        return "no input has a folder with two entries"
    if draft.around.no_file_order:
        return draft.around.no_file_order
    draft.reversed_order = True
    return ""


def _has_choice(tree: Tree) -> bool:
    """Tell whether some folder of a tree has two entries."""
    first: dict[str, str] = {}
    for entry in tree.entries:
        folder = ""
        for part in entry.path.split("/"):
            if first.setdefault(folder, part) != part:
                return True
            folder += f"{part}/"
    return False


def _kernel_release(draft: _Draft) -> str:
    """Report a 2.6 kernel to uname(2); /proc/version stays.

    Source: personality(2), UNAME26; setarch(8), --uname-2.6.
    """
    if not draft.facts.setarch:
        return "the base has no setarch"
    draft.setarch = (draft.facts.setarch, "--uname-2.6")
    return ""


_TABLE: Final[dict[str, Callable[[_Draft], str]]] = {
    "time": _time,
    "timezone": _timezone,
    "hostname": _hostname,
    "locale": _locale,
    "umask": _umask,
    "user": _user,
    "home": _home,
    "environment": _environment,
    "build-path": _build_path,
    "cpus": _cpus,
    "file-order": _file_order,
    "kernel-release": _kernel_release,
}

# The variables that a variation consists of: a step that sets one itself is not varied.
_CARRIED_BY: Final = {
    "time": frozenset({"LD_PRELOAD", "FAKETIME", "NO_FAKE_STAT", "DONT_FAKE_MONOTONIC"}),
    "timezone": frozenset({"TZ"}),
    "locale": frozenset({"LC_ALL", "LOCPATH"}),
    "home": frozenset({"HOME"}),
    "environment": frozenset({"CAPTURE_ENVIRONMENT"}),
}

VARIATIONS: Final[tuple[str, ...]] = tuple(_TABLE)


def _order(name: str) -> tuple[int, str]:
    return (VARIATIONS.index(name) if name in _TABLE else len(VARIATIONS), name)
