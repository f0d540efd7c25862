"""`--only KEY=VALUE`: which of a manifest's jobs a command is about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchgen.errors import CommandError
from batchgen.jobs import PARAMETER_NAMES
from batchgen.manifest import wildcards
from batchgen.manifest.diagnostics import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchgen.jobs import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What `--only KEY=VALUE` selects: a job for which, under every key given, one of the values matches."""

    wanted: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Sequence[str], labels_known: Sequence[str]) -> Selection:
        """Read `--only` options. Raises CommandError for a key that no job has."""
        wanted: dict[str, tuple[str, ...]] = {}
        known = [*PARAMETER_NAMES, "prompt", "prompt_id", "job_id", *labels_known]
        for text in texts:
            key, found, value = text.partition("=")
            key = key.removeprefix("label.").removeprefix("parameter.")  # as `--where` has it
            if not found or key not in known:
                near = nearest(key, known)
                meant = f" Did you mean {near}?" if near else ""
                raise CommandError(
                    f"--only {text}: write KEY=VALUE with one of the keys {', '.join(sorted(known))}.{meant}"
                )
            wanted[key] = (*wanted.get(key, ()), value)
        return cls(wanted=wanted)

    def __str__(self) -> str:
        """As on the command line."""
        return " ".join(f"--only {key}={value}" for key, values in self.wanted.items() for value in values)

    def takes(self, job: Job) -> bool:
        """Whether the job is selected. `*` and `?` in a value are wildcards."""
        return all(
            any(wildcards.matches(value, job.text_of(key)) for value in values) for key, values in self.wanted.items()
        )
