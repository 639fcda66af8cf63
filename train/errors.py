"""The one error that a user sees: what, where, value against limit, what to do."""

from __future__ import annotations


class UserError(Exception):
    """Bad input or usage. Commands print it as one line and exit with code 2.

    Args:
        what: what is wrong, with the offending value and the limit it broke.
        where: the file, layer or module path it was found in ("" when there is no place to name).
        hint: what the user can do about it ("" when there is nothing to add).
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what = what
        self.where = where
        self.hint = hint
        place = f"{where}: " if where else ""
        advice = f" ({hint})" if hint else ""
        super().__init__(f"{place}{what}{advice}")


class CheckFailedError(Exception):
    """A check ran to its end and the answer is no. Commands exit with code 1."""
