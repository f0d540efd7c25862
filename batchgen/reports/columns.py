"""The columns of the views after the fixed ones: labels, marks and scores, each only where the output has any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchgen.jobs import Job
    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.records import IndexRow

_OF_DATASET = ("file_name", "prompt", "negative_prompt", "model", "aspect_ratio", "resolution", "prompt_id", "job_id")
_TAKEN = frozenset({*_OF_DATASET, "image", "label", "mark", "note"})  # `image` and `label` are Hugging Face's


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnColumns:
    """What an output has beside what every output has: labels by name, marks, scores by check and name."""

    labels: tuple[str, ...]
    marks: tuple[str, ...]
    scores: tuple[str, ...]

    @classmethod
    def of(cls, ledger: LedgerReader) -> OwnColumns:
        """Those of an output as it is now, in an order that follows from their names."""
        return cls(
            labels=tuple(ledger.label_names()),
            marks=("mark", "note") if ledger.has_marks() else (),
            scores=tuple(ledger.score_names()),
        )

    @property
    def of_jobs(self) -> tuple[str, ...]:
        """The names of the columns of failures.csv."""
        return tuple(f"label.{name}" for name in self.labels)

    @property
    def of_images(self) -> tuple[str, ...]:
        """The names of the columns of index.csv."""
        return (*self.of_jobs, *self.marks, *(f"score.{name}" for name in self.scores))

    def job_cells(self, job: Job) -> list[object]:
        """The cells of a job; empty where it lacks the label."""
        return [job.labels.get(name, "") for name in self.labels]

    def image_cells(self, row: IndexRow) -> list[object]:
        """The cells of an image."""
        marks = [row.mark.value, row.note] if self.marks else []
        return [*self.job_cells(row.job), *marks, *(row.scores.get(name, "") for name in self.scores)]

    @property
    def of_dataset(self) -> tuple[str, ...]:
        """The names of the columns of metadata.csv: labels are plain, unless another column has their name."""
        labels = (f"label.{name}" if name in _TAKEN else name for name in self.labels)
        return (*_OF_DATASET, *labels, *self.of_images[len(self.labels) :])

    def dataset_cells(self, row: IndexRow) -> list[object]:
        """The cells of metadata.csv."""
        job, asked = row.job, row.job.parameters
        request = [asked.negative_prompt or "", asked.model, asked.aspect_ratio, asked.resolution]
        return [row.path, job.prompt, *request, job.prompt_id, job.id, *self.image_cells(row)]
