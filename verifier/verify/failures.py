"""What a failing check means: one error class each, whose family gives the exit code.

They are not raised: a verdict collects them. Their docstrings are entries of docs/reference/errors.md.
"""

from __future__ import annotations

from provenance.errors import MeasurementMismatch, PolicyFailure, SignatureFailure


class BundleBroken(SignatureFailure):
    """The bundle is not whole: a digest, a size, a path or a document in it is wrong.

    Cure: get the bundle again from its publisher; the message names what differs.
    """

    code = "RVP-6401"


class StatementForged(SignatureFailure):
    """A statement claims a key of the policy and that key did not sign it, or what it signed is malformed.

    Cure: get the bundle again; if it is as published, ask the signer whether the statement is theirs.
    """

    code = "RVP-6402"


class NoKnownOperator(SignatureFailure):
    """No statement in the bundle is signed by an operator of the policy.

    Cure: compare the fingerprints of `rvp show BUNDLE` with those of the policy's keys (`rvp key show`).
    """

    code = "RVP-6403"


class OtherProduct(PolicyFailure):
    """The values are of another product than the policy expects.

    Cure: give the bundle of the expected product, or the policy of this one.
    """

    code = "RVP-6404"


class OtherRepository(PolicyFailure):
    """The operators built a source that the policy does not expect, however honestly.

    Cure: use the bundle of the expected repository; a further source is allowed by `[source] also`.
    """

    code = "RVP-6405"


class OtherRef(PolicyFailure):
    """The source is at a ref that the policy does not expect, or has changes that are in no commit.

    Cure: use a bundle that was built from an expected tag.
    """

    code = "RVP-6406"


class SourceUnsigned(PolicyFailure):
    """No maintainer of the policy has signed the tag or the commit, as far as the bundle shows.

    Cure: sign the tag (`git tag -s` with an SSH key), build and publish again.
    """

    code = "RVP-6407"


class OtherRecipe(PolicyFailure):
    """The recipe in the bundle is not the one that the operators signed, or not one that the policy accepts.

    Cure: get the bundle again; `[source] recipes` lists what the policy accepts.
    """

    code = "RVP-6408"


class NoQuorum(PolicyFailure):
    """Fewer operators agree than the policy asks for.

    Cure: let a further operator rebuild (`rvp rebuild`) and add its statement (`rvp publish --add`); where
    they disagree, `rvp show` prints what each said.
    """

    code = "RVP-6409"


class Conflict(PolicyFailure):
    """Two different sets of values both reach the quorum: which of them is right cannot be known.

    Cure: raise n over half of the operators, and find out why they disagree.
    """

    code = "RVP-6410"


class LevelTooLow(PolicyFailure):
    """Enough operators agree, but too few of them rebuilt: some only measured an artifact from elsewhere.

    Cure: let them rebuild; `[quorum] level = "measured"` accepts it, and is weaker.
    """

    code = "RVP-6411"


class ArtifactUnknown(MeasurementMismatch):
    """A file is not one that the agreed statements are about: its digests are others.

    Cure: the file is not what was built from the source. Get it again, or find out who changed it.
    """

    code = "RVP-6412"


class LogContradicts(MeasurementMismatch):
    """A measurement log that the operators named states another value than they agreed on, or is malformed.

    Cure: one of log and value is wrong: measure the artifact (`rvp measure FILE --log LOG`) and compare.
    """

    code = "RVP-6420"


class NotReleased(PolicyFailure):
    """Too few release signers of the policy have released these values.

    Cure: `rvp release` by the missing signers, then publish again.
    """

    code = "RVP-6413"


class Withdrawn(PolicyFailure):
    """The release is older than the policy accepts, or of another series.

    Cure: use the newest release.
    """

    code = "RVP-6414"


class NotValidNow(PolicyFailure):
    """The release is not valid at the time that was asked about.

    Cure: use the newest release; check the clock, or the time given with `--at`.
    """

    code = "RVP-6415"


class Stale(PolicyFailure):
    """What vouches for the release is older than `max_age`.

    Cure: use a newer release, or have its signers sign it again.
    """

    code = "RVP-6416"


class HoleTooWide(PolicyFailure):
    """An event cannot be predicted, and the policy does not allow it to be unknown.

    Cure: `[evidence.TEE] allow_unpredicted` names the events that may be unknown.
    """

    code = "RVP-6417"


class RequiredMissing(PolicyFailure):
    """A statement that the policy requires is missing, or too few of its signers signed it.

    Cure: ask for it; it must be about every artifact that was agreed on.
    """

    code = "RVP-6418"


class RecipeNotCommitted(PolicyFailure):
    """Nothing shows that spec and lock are the ones of the revision that a maintainer signed.

    The spec says which commands run: who replaces it decides what is built, whatever the source is.

    Cure: commit rvp.toml and rvp.lock, tag and sign, build and publish from that clone. Or read the recipe
    (`rvp show BUNDLE --as recipe`) and accept its digest: `[source] recipes`.
    """

    code = "RVP-6419"
