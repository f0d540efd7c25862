"""The columns of the views after the fixed ones, where the output has any: parameters, labels, marks and scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchgen.jobs import Job, JsonValue
    from batchgen.ledger.reader import LedgerReader
    from batchgen.ledger.records import IndexRow

_OF_DATASET = ("file_name", "prompt", "negative_prompt", "model", "aspect_ratio", "resolution", "prompt_id", "job_id")
_TAKEN = frozenset({*_OF_DATASET, "image", "label", "mark", "note"})  # `image` and `label` are Hugging Face's


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnColumns:
    """What an output has beside what every output has: parameters, labels, marks, scores by check and name."""

    parameters: tuple[str, ...]  # beyond batchgen's own
    labels: tuple[str, ...]
    marks: tuple[str, ...]
    scores: tuple[str, ...]

    @classmethod
    def of(cls, ledger: LedgerReader) -> OwnColumns:
        """Those of an output as it is now, in an order that follows from their names."""
        return cls(
            parameters=tuple(ledger.parameter_names()),
            labels=tuple(ledger.label_names()),
            marks=("mark", "note") if ledger.has_marks() else (),
            scores=tuple(ledger.score_names()),
        )

    @property
    def of_jobs(self) -> tuple[str, ...]:
        """The names of the columns of failures.csv."""
        return (*(f"parameter.{name}" for name in self.parameters), *(f"label.{name}" for name in self.labels))

    @property
    def of_images(self) -> tuple[str, ...]:
        """The names of the columns of index.csv."""
        return (*self.of_jobs, *self.marks, *(f"score.{name}" for name in self.scores))

    def job_cells(self, job: Job) -> list[object]:
        """The cells of a job; empty where it lacks the parameter or the label."""
        given = further_cells(job)
        return [
            *(given.get(f"parameter.{name}", "") for name in self.parameters),
            *(job.labels.get(name, "") for name in self.labels),
        ]

    def image_cells(self, row: IndexRow) -> list[object]:
        """The cells of an image."""
        marks = [row.mark.value, row.note] if self.marks else []
        return [*self.job_cells(row.job), *marks, *(row.scores.get(name, "") for name in self.scores)]

    @property
    def of_dataset(self) -> tuple[str, ...]:
        """The names of the columns of metadata.csv: labels are plain, unless another column has their name."""
        first = len(self.parameters)
        labels = (f"label.{name}" if name in _TAKEN else name for name in self.labels)
        return (*_OF_DATASET, *self.of_images[:first], *labels, *self.of_images[first + len(self.labels) :])

    def dataset_cells(self, row: IndexRow) -> list[object]:
        """The cells of metadata.csv."""
        job, asked = row.job, row.job.parameters
        request = [asked.negative_prompt or "", asked.model, asked.aspect_ratio, asked.resolution]
        return [row.path, job.prompt, *request, job.prompt_id, job.id, *self.image_cells(row)]


def further_cells(job: Job) -> dict[str, object]:
    """The job's parameters beyond batchgen's own by their columns; texts, numbers, and JSON for all else."""
    return {f"parameter.{name}": cell_of(given) for name, given in job.parameters.further}


def cell_of(given: JsonValue) -> str | float:
    """A value as a cell has it."""
    value = given.value
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(given)
