"""A constraint: what a claim in evidence must be. Exactly one of exact, oneOf, minimum, mask.

Example:
    >>> Constraint(minimum=3).admits(4), Constraint(minimum=3).admits(2)
    (True, False)
    >>> masked = Constraint(mask=Mask(value="0x0000000000000006", mask="0xfffffffffffffffd"))
    >>> masked.admits("0x0000000000000004")
    True
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from provenance.claims import CLAIMS, ClaimValue, Shape, has_shape
from provenance.predicates.shapes import MAX_INTEGER, PredicateRefused, Strict

KINDS: Final = ("exact", "oneOf", "minimum", "mask")
_COUNTED: Final = frozenset({Shape.COUNTER, Shape.COUNTER32, Shape.LEVEL})
_BIT_FIELDS: Final = frozenset({Shape.U32, Shape.U64, Shape.ATTRIBUTES})

Hex0x = Annotated[str, Meta(pattern="^0x([0-9a-f]{2}){1,32}$", max_length=66)]


class Mask(Strict, frozen=True, kw_only=True):
    """Bits that count (`mask`), and what they must be (`value`); both of the claim's own shape."""

    value: Hex0x
    mask: Hex0x


class Constraint(Strict, frozen=True, kw_only=True):
    """What one claim must be.

    Attributes:
        exact: this value.
        one_of: one of these values, sorted.
        minimum: this number or a higher one; for security versions.
        mask: equal to a value in the bits of a mask.
    """

    exact: ClaimValue | None = None
    one_of: Annotated[tuple[ClaimValue, ...], Meta(min_length=1, max_length=1024)] | None = None
    minimum: Annotated[int, Meta(ge=0, le=MAX_INTEGER)] | None = None
    mask: Mask | None = None

    def __post_init__(self) -> None:
        """Check that exactly one kind is given."""
        given = [
            kind
            for kind, value in zip(KINDS, (self.exact, self.one_of, self.minimum, self.mask), strict=True)
            if value is not None
        ]
        if len(given) != 1:
            raise ValueError(f"a constraint has exactly one of {', '.join(KINDS)}, not {given or 'none'}")

    @property
    def kind(self) -> str:
        """Which of the four it is."""
        if self.exact is not None:
            return "exact"
        if self.one_of is not None:
            return "oneOf"
        return "minimum" if self.minimum is not None else "mask"

    def admits(self, value: ClaimValue) -> bool:
        """Tell whether a claim in evidence meets the constraint. A value of another type never does."""
        if self.exact is not None:
            return _same(self.exact, value)
        if self.one_of is not None:
            return any(_same(one, value) for one in self.one_of)
        if self.minimum is not None:
            return isinstance(value, int) and not isinstance(value, bool) and value >= self.minimum
        if self.mask is None or not isinstance(value, str) or len(value) != len(self.mask.value):
            return False
        try:
            got = int(value, 16)
        except ValueError:
            return False
        bits = int(self.mask.mask, 16)
        return got & bits == int(self.mask.value, 16) & bits

    def words(self) -> str:
        """Write the constraint as a person reads it."""
        if self.exact is not None:
            return _words(self.exact)
        if self.one_of is not None:
            return "one of " + ", ".join(_words(one) for one in self.one_of)
        if self.minimum is not None:
            return f"at least {self.minimum}"
        return f"{self.mask.value} in the bits {self.mask.mask}" if self.mask else ""


def check_constraint(tee: str, claim: str, constraint: Constraint) -> None:
    """Check that a constraint fits its claim: name, shape, kind.

    Raises:
        PredicateRefused: RVP-6121.
    """
    shape = CLAIMS.get(tee, {}).get(claim)
    if shape is None:
        raise PredicateRefused(f'{tee} has no claim "{claim}"')
    where = f"{tee} {claim}"
    if constraint.one_of is not None and list(constraint.one_of) != sorted(
        set(constraint.one_of), key=_order
    ):
        raise PredicateRefused(f"{where}: the values of oneOf are not sorted and distinct")
    if constraint.minimum is not None and (shape not in _COUNTED or not has_shape(constraint.minimum, shape)):
        raise PredicateRefused(f"{where}: a minimum of {constraint.minimum} does not fit {shape.value}")
    if constraint.mask is not None and shape not in _BIT_FIELDS:
        raise PredicateRefused(f"{where}: a mask does not fit {shape.value}")
    values: tuple[ClaimValue, ...] = constraint.one_of or ()
    if constraint.exact is not None:
        values = (constraint.exact,)
    if constraint.mask is not None:
        values = (constraint.mask.value, constraint.mask.mask)
    for value in values:
        if not has_shape(value, shape):
            raise PredicateRefused(f"{where} is {value!r}, expected {shape.value}")


def _same(left: ClaimValue, right: object) -> bool:
    if isinstance(left, tuple):
        return isinstance(right, (tuple, list)) and left == tuple(right)
    return type(left) is type(right) and left == right


def _order(value: ClaimValue) -> tuple[int, int, tuple[str, ...]]:
    if isinstance(value, int):
        return (0, value, ())
    return (1, 0, (value,)) if isinstance(value, str) else (2, 0, tuple(value))


def _words(value: ClaimValue) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
