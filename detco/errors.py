"""Errors that are written for the user, and the wording that refusals share. Imports nothing heavy."""
import difflib
from collections.abc import Iterable, Sequence


class UserError(ValueError):
    """What the user can mend: what, where and what to do, in one line. Anything else is a fault of the suite."""


def nearest(kind: str, name: str, known: Iterable[str]) -> str:
    """One line that refuses `name` and offers the nearest of the `known` names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
    return f"unknown {kind} '{name}': {hint}"


def several(items: Sequence, noun: str) -> str:
    """'3 images (a, b, c)', the first five named."""
    named = ", ".join(map(str, items[:5])) + (", ..." if len(items) > 5 else "")
    many = noun if len(items) == 1 else noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{len(items)} {many} ({named})"
