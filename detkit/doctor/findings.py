"""The doctor's findings, one entry per kind."""
from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

LEVELS = ('fault', 'warning', 'note')    # breaks or falsifies a run; probably does; good to know
MAX_NAMES = 12                           # classes in a line
MOST_PLACES = 200                        # stored per finding; all are counted


@dataclass
class Finding:
    level: str
    kind: str                 # train, val, test; '' for the whole config
    split: str                # train, val, test; '' for the config as a whole
    remedy: str
    count: int = 0
    places: list[str] = field(default_factory=list)     # file, entry, line, and the error
    pictures: list[dict[str, Any]] = field(default_factory=list)   # path, and boxes xyxy to draw, for the page

    def line(self) -> str:
        where = f'{self.split}: ' if self.split else ''
        times = f' ({self.count})' if self.count > 1 else ''
        return f'{self.level.upper():8}{where}{self.kind}{times}'


@dataclass
class Report:
    """All findings of a run of the doctor. ``findings``: worst first after ``sort``; ``facts``: counts by split and measurements.

    ``sources``: one entry per annotation file: split, annotations, images, num_images, num_objects, classes.
    """

    config: str = ''
    sources: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)   # images with their boxes, for the page

    def add(self, level: str, kind: str, split: str, place: str, remedy: str, picture: dict | None = None) -> None:
        """Add one occurrence; occurrences with the same kind, split and remedy form one finding."""
        found = next((f for f in self.findings if (f.level, f.kind, f.split, f.remedy) == (level, kind, split, remedy)), None)
        if found is None:
            found = Finding(level, kind, split, remedy)
            self.findings.append(found)
        found.count += 1
        if place and len(found.places) < MOST_PLACES:
            found.places.append(place)
        if picture and len(found.pictures) < 6:
            found.pictures.append(picture)

    def kinds(self, *levels: str) -> set[str]:
        """Return the kinds found, of these levels or of all."""
        return {f.kind for f in self.findings if not levels or f.level in levels}

    def sort(self) -> None:
        self.findings.sort(key=lambda f: LEVELS.index(f.level))

    @property
    def worst(self) -> str | None:
        return min((f.level for f in self.findings), key=LEVELS.index, default=None)

    def as_dict(self) -> dict[str, Any]:
        return dict(config=self.config, sources=self.sources,
                    findings=[{k: v for k, v in asdict(f).items() if k != 'pictures'} for f in self.findings],
                    facts=self.facts)

    def text(self, places: int = 3, levels: tuple[str, ...] = LEVELS) -> str:
        """Return the report for a terminal: sources, findings of ``levels``, and counts of all levels."""
        lines = [source_line(source) for source in self.sources]
        for f in self.findings:
            if f.level not in levels:
                continue
            lines.append(f.line())
            lines += [f'          {p[:300]}' for p in f.places[:places]]
            if f.count > places and f.places:
                lines.append(f'          and {f.count - min(places, len(f.places))} more')
            lines.append(f'          -> {f.remedy}')
        counts = ', '.join(f'{sum(f.level == level for f in self.findings)} {level}s' for level in LEVELS)
        return '\n'.join([*lines, f'{counts}.' if self.findings else 'Nothing found.'])


def source_line(source: dict[str, Any]) -> str:
    """``train: a.json (images in b): 20 images, 50 objects, classes cat, dog``."""
    names = source['classes']
    more = f' and {len(names) - MAX_NAMES} more' if len(names) > MAX_NAMES else ''
    return (f"{source['split']}: {source['annotations']} (images in {source['images'] or 'no folder'}): {source['num_images']} images, "
            f"{source['num_objects']} objects, {len(names)} class{'' if len(names) == 1 else 'es'}: {', '.join(names[:MAX_NAMES])}{more}")
