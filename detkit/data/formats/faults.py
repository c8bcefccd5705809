"""Errors in annotation files (what, where, and what to do) and in image files."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

LARGEST = 10**7     # pixels; a coordinate beyond it is an error


class BrokenAnnotations(ValueError):
    """An annotation file or one of its entries cannot be used; the message says where and what to do. ``kind``: as in Fault."""

    kind = 'annotation unusable'


class UnreadablePicture(ValueError):
    """Not an image, or an image without a readable header; the message is only the reason."""


OnFault = Callable[[BrokenAnnotations], None]      # called for an unusable entry; if it returns, the entry is left out


def stop(error: BrokenAnnotations) -> None:
    """Raise the error: the default OnFault."""
    raise error


@dataclass(frozen=True)
class Fault:
    kind: str       # a few words, the same for all faults of this kind
    place: str      # entry or line; '' for the whole file
    what: str       # completes the sentence that starts with the place
    remedy: str

    def __str__(self) -> str:
        return f'{self.place} {self.what}. {self.remedy}'.strip()

    def error(self, path: object) -> BrokenAnnotations:
        found = BrokenAnnotations(f'{path}: {self}' if path else str(self))
        found.kind = self.kind
        return found
