"""Reference values as a person reads them: sources, artifacts, sets."""

from __future__ import annotations

from provenance.predicates.core import Core


def core_lines(core: Core) -> list[str]:
    """Write a core, a line each: sources, artifacts, sets with their constraints and what stays open."""
    lines = []
    for source in core.sources:
        where = " ".join(part for part in (source.repository, source.ref) if part) or "no repository"
        state = " (with changes that are in no commit)" if source.dirty else ""
        lines.append(f"source    {source.name}: {where}{state}")
        if source.commit:
            lines.append(f"            commit {source.commit}")
        lines.append(f"            tree   sha256:{source.tree_digest.sha256}")
    for subject in core.subjects:
        lines += [f"artifact  {subject.name}", f"            sha256:{subject.digest.sha256}"]
    for one in core.sets:
        lines.append(f"set       {one.id}  ({one.layer.name}, {one.layer.provider})")
        if one.inside:
            lines.append(f"            in the image {one.inside.manifest}")
            lines.append(f"            {one.inside.path}  sha256:{one.inside.digest.sha256}")
        width = max(len(name) for name in one.claims)
        lines += [
            f"            {name:<{width}}  {claim.words()}" for name, claim in sorted(one.claims.items())
        ]
        lines += [
            f"            open: {event.register} {event.event} ({event.reason})" for event in one.unpredicted
        ]
        if one.policy_inputs:
            lines.append(f"            for the policy: {', '.join(one.policy_inputs)}")
    return lines
