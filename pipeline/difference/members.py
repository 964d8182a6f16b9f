"""Ordered members with attributes and content: what tar, ar, zip and cpio have in common.

Each of those formats reads its members; missing and extra ones, order, attributes and content are compared
here, once for all of them.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from pipeline.difference.causes import cause_of_attribute, causes_of_texts
from pipeline.difference.content import Content
from pipeline.difference.look import Found, Look
from pipeline.difference.model import Cause, Difference


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One member of an archive.

    Attributes:
        name: as the archive has it.
        attributes: name to value, in the order in which they are shown.
        content: the bytes as they lie in the archive; None for a member without content.
    """

    name: str
    attributes: dict[str, str]
    content: Content | None = None


MemberComparer = Callable[[str, Member, Member, Look], Difference | None]


def compare_content(path: str, left: Member, right: Member, look: Look) -> Difference | None:
    """Look inside the content of two members that have it as it is."""
    if left.content is None or right.content is None:
        return None
    return look.inside(path, left.content, right.content)


def compare_members(
    path: str,
    left: Sequence[Member],
    right: Sequence[Member],
    look: Look,
    *,
    content: MemberComparer = compare_content,
) -> Found:
    """Compare two archives' members: missing, extra, order, attributes, content."""
    details: list[Difference] = []
    comments: list[str] = []
    ones, others = _keyed(left), _keyed(right)
    missing = [key for key in ones if key not in others]
    extra = [key for key in others if key not in ones]
    details += [
        Difference(path=path, kind=kind, where=f"member {name}", left=held[0], right=held[1])
        for kind, keys, held in (
            ("missing", missing, ("there", "not there")),
            ("extra", extra, ("not there", "there")),
        )
        for name, _ in keys[: look.limits.details]
    ]
    for word, keys in (("missing", missing), ("extra", extra)):
        if len(keys) > look.limits.details:
            comments.append(f"{len(keys) - look.limits.details} more {word} members")
    common = [key for key in ones if key in others]
    details += _order(path, common, [key for key in others if key in ones])
    changed = unlisted = 0
    for key in common:
        if look.is_late():
            comments.append("the time limit ended the look here; later members were not compared")
            break
        found = _compare_pair(path, ones[key], others[key], look, content)
        changed += bool(found)
        if changed > look.limits.details:
            unlisted += bool(found)
        else:
            details += found
    if unlisted:
        comments.append(f"{unlisted} more members differ")
    return Found(details=tuple(details), comments=tuple(comments))


def _keyed(members: Sequence[Member]) -> dict[tuple[str, int], Member]:
    seen: Counter[str] = Counter()
    keyed = {}
    for member in members:
        keyed[member.name, seen[member.name]] = member
        seen[member.name] += 1
    return keyed


def _order(path: str, left: list[tuple[str, int]], right: list[tuple[str, int]]) -> list[Difference]:
    for index, (one, other) in enumerate(zip(left, right, strict=True)):
        if one != other:
            return [
                Difference(
                    path=path,
                    kind="order",
                    where=f"order of members, from member {index + 1} on",
                    left=one[0],
                    right=other[0],
                    causes=(Cause.FILE_ORDER,),
                )
            ]
    return []


def _compare_pair(
    path: str, left: Member, right: Member, look: Look, content: MemberComparer
) -> list[Difference]:
    inner = f"{path}/{left.name}"
    details = compare_attributes(inner, left.attributes, right.attributes)
    found = content(inner, left, right, look)
    return [*details, found] if found else details


def compare_attributes(path: str, left: dict[str, str], right: dict[str, str]) -> list[Difference]:
    """Compare named values; the name may give the cause away."""
    return [
        Difference(
            path=path,
            kind="attribute",
            where=name,
            left=left.get(name, "(none)"),
            right=right.get(name, "(none)"),
            causes=cause_of_attribute(name) or causes_of_texts(left.get(name, ""), right.get(name, "")),
        )
        for name in [*left, *(name for name in right if name not in left)]
        if left.get(name) != right.get(name)
    ]


def moment(seconds: int) -> str:
    """Show Unix seconds with their date.

    Example:
        >>> moment(1700000000)
        '1700000000 (2023-11-14 22:13:20 UTC)'
    """
    try:
        date = dt.datetime.fromtimestamp(seconds, tz=dt.UTC)
    except (ValueError, OverflowError, OSError):
        return str(seconds)
    return f"{seconds} ({date:%Y-%m-%d %H:%M:%S} UTC)"
