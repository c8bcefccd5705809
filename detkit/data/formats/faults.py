"""Faults of annotation files (what, where, and what to do) and of pictures."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

LARGEST = 10**7     # pixels; a coordinate beyond it is a fault


class BrokenAnnotations(ValueError):
    """An annotation file, or an entry of one, that cannot be used; the message says where and what to do. ``kind``: as of Fault."""

    kind = 'annotation unusable'


class UnreadablePicture(ValueError):
    """No picture, or one without a readable header; the message is the reason alone."""


OnFault = Callable[[BrokenAnnotations], None]      # called for an entry that cannot be used; if it returns, the entry is left out


def stop(error: BrokenAnnotations) -> None:
    """The usual OnFault: the first fault ends the reading."""
    raise error


@dataclass(frozen=True)
class Fault:
    kind: str       # a few words, the same for all faults of this kind
    place: str      # entry, line; '' for the file as a whole
    what: str       # completes the sentence that begins with the place
    remedy: str

    def __str__(self) -> str:
        return f'{self.place} {self.what}. {self.remedy}'.strip()

    def error(self, path: object) -> BrokenAnnotations:
        found = BrokenAnnotations(f'{path}: {self}' if path else str(self))
        found.kind = self.kind
        return found
