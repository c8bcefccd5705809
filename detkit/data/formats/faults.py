"""A fault of an annotation file: what, where, and what to do."""
from __future__ import annotations

from dataclasses import dataclass

LARGEST = 10**7     # pixels; a coordinate beyond it is a fault


class BrokenAnnotations(ValueError):
    """An annotation file that cannot be used; the message says where and what to do."""


@dataclass(frozen=True)
class Fault:
    kind: str       # a few words, the same for all faults of this kind
    place: str      # entry, line; '' for the file as a whole
    what: str       # completes the sentence that begins with the place
    remedy: str

    def __str__(self) -> str:
        return f'{self.place} {self.what}. {self.remedy}'.strip()

    def error(self, path: object) -> BrokenAnnotations:
        return BrokenAnnotations(f'{path}: {self}')
