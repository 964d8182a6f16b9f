"""What can be wrong with a spec beyond its types."""

from __future__ import annotations

from provenance.errors import SpecError


class ExactlyOne(SpecError):
    """A base or a source that says none, or more than one, of the ways to get it.

    Cure: a base has exactly one of `debian`, `image`, `tar`; a source exactly one of `path`, `git`, `url`,
    `debian-source`.
    """

    code = "RVP-1111"


class DuplicateName(SpecError):
    """Two parts of one kind have the same id.

    Cure: rename one of them.
    """

    code = "RVP-1112"


class UnknownPart(SpecError):
    """A reference to a part that the spec does not have.

    Cure: the message proposes the nearest name; parts are called base.NAME, source.NAME, fetch.NAME,
    step.ID, pack.ID.
    """

    code = "RVP-1113"


class Cycle(SpecError):
    """Parts of the spec need each other in a circle, so that none can be the first.

    Cure: the message prints the circle; remove one of its arrows.
    """

    code = "RVP-1114"


class NoOutputs(SpecError):
    """A step that declares no outputs: nothing would leave it.

    Cure: list what it writes below {out}.
    """

    code = "RVP-1115"


class PathOutside(SpecError):
    """A path that is absolute, or climbs out of its folder with `..`.

    Cure: write a path relative to the spec's folder, or for an output relative to {out}.
    """

    code = "RVP-1116"


class UnknownVariation(SpecError):
    """`vary` or `fixed` names a variation that does not exist.

    Cure: docs/reference/spec.md lists them.
    """

    code = "RVP-1117"


class UnknownPlaceholder(SpecError):
    """A placeholder names something that is not among the step's `needs`.

    Cure: add it to `needs`; {out} and {work} are always there.
    """

    code = "RVP-1118"


class BadValue(SpecError):
    """A value that the key cannot have: an empty list, a bad name, a number out of range, not a digest.

    Cure: the message says what is allowed.
    """

    code = "RVP-1119"
