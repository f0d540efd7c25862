"""What `--only KEY=VALUE` leaves of a manifest's jobs."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from batchgen.errors import CommandError
from batchgen.jobs import PARAMETER_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchgen.jobs import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What `--only KEY=VALUE` leaves: a job is in when, for every key given, one of its values matches."""

    wishes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Sequence[str], vars_known: Sequence[str]) -> Selection:
        """Read `--only` options. Raises CommandError for a key that no job has."""
        wishes: dict[str, tuple[str, ...]] = {}
        known = [*PARAMETER_NAMES, "prompt", "prompt_id", "job_id", *vars_known]
        for text in texts:
            key, found, value = text.partition("=")
            if not found or key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                meant = f" Did you mean {near[0]}?" if near else ""
                raise CommandError(
                    f"--only {text}: write KEY=VALUE with one of the keys {', '.join(sorted(known))}.{meant}"
                )
            wishes[key] = (*wishes.get(key, ()), value)
        return cls(wishes=wishes)

    def takes(self, job: Job) -> bool:
        """Whether the job is in. `*`, `?` and `[…]` in a value are wildcards."""
        return all(
            any(fnmatchcase(_value_of(job, key), wish) for wish in wishes) for key, wishes in self.wishes.items()
        )


def _value_of(job: Job, key: str) -> str:
    if key in job.labels:
        return job.labels[key]
    if key == "job_id":
        return job.id
    if key in {"prompt", "prompt_id"}:
        return str(getattr(job, key))
    if key == "image":
        image = job.parameters.image
        return "" if image is None else str(image.url or image.path)
    value = getattr(job.parameters, key, None)
    return "" if value is None else str(value)
