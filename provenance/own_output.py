"""Sign a statement, and verify what was signed from its bytes, as a stranger would, before it leaves."""

from __future__ import annotations

from provenance.dsse import SignsBytes
from provenance.errors import InternalError, RvpError
from provenance.predicates import read_predicate
from provenance.sigstore_bundle import read_bundle, sign_statement, verify_envelope
from provenance.statement import Statement


class OwnOutputRefused(InternalError):
    """What rvp itself signed does not verify or breaks a rule; nothing was written.

    Cure: report it with the message.
    """

    code = "RVP-6135"


def sign_and_check(statement: Statement, signer: SignsBytes) -> bytes:
    """Sign a statement and verify the result.

    Returns:
        The bytes of the Sigstore bundle.

    Raises:
        OwnOutputRefused: RVP-6135. What the signer raises: RVP-60nn.
    """
    data = sign_statement(statement, signer).to_json()
    check_own_output(data, statement, signer)
    return data


def check_own_output(data: bytes, statement: Statement, signer: SignsBytes) -> None:
    """Verify a bundle that was just made, from its bytes.

    Raises:
        OwnOutputRefused: RVP-6135.
    """
    try:
        verified = verify_envelope(read_bundle(data), [signer.public_key])
        read_predicate(verified.statement)
    except RvpError as error:
        raise OwnOutputRefused(f"own output refused: [{error.code}] {error}") from error
    if verified.statement != statement:
        raise OwnOutputRefused("own output reads back as another statement")
