"""`run --metrics FILE`: the state of a run as Prometheus metrics, for the textfile collector of node_exporter.

The file is written whole beside its place and moved there: now and then during a run, and at its end.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from batchgen.cli.progress import Progress
from batchgen.errors import CommandError
from batchgen.jobs import Status
from batchgen.source import document

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from batchgen.engine.counters import Counters

INTERVAL_SECONDS = 15.0  # at least, between two files during a run
_BEGINS = b"# HELP batchgen_run_"
_METRICS = {  # by the key of the summary, or of the counters
    "exit_code": ("exit_code", "Exit code of the last run."),
    "images": ("images", "Images in the index."),
    "started": ("started_attempts", "Attempts that the last run sent."),
    "retired": ("retired_files", "Files that the manifest no longer asks for, moved by the last run."),
    "watermarks_missing": ("watermarks_missing", "Images of the last run without the watermarked copy asked for."),
    "warnings": ("warnings", "Images of the last run that are unusual, and kept as received."),
    "images_wanted": ("images_wanted", "Images that the run is to have, with those that were there."),
    "images_done": ("images_done", "Images that are there."),
    "jobs_failed": ("jobs_failed", "Jobs of the run that ended without all their images."),
    "slots": ("slots", "Slots that the account allows."),
    "slots_in_use": ("slots_in_use", "Slots in use."),
    "refusals": ("refusals", "Answers that refused a create for now: too fast, or too many at once."),
}


class MeteredProgress(Progress):
    """Progress that keeps the file `path` too. `manifest` is the path of the manifest, None where none was named."""

    def __init__(self, path: Path, manifest: Path | None, **options: Any) -> None:  # noqa: ANN401 - of Progress
        super().__init__(**options)
        self._path = path
        self.labels = {"manifest": _name(manifest), "account": ""}
        self._started, self._written_at = time.time(), time.monotonic()
        self._counters: Counters | None = None

    def check(self) -> None:
        """Raise CommandError where the file cannot be written, or the package that writes it is missing."""
        try:
            import prometheus_client  # noqa: F401, PLC0415 - of the extra `metrics`
        except ImportError:
            raise CommandError(
                "--metrics needs the package prometheus_client. Install it with: pip install 'batchgen[metrics]'"
            ) from None
        if self._path.is_dir():
            raise CommandError(f"--metrics {self._path} is a folder. Name a file in it, such as batchgen.prom.")
        with suppress(OSError), self._path.open("rb") as file:  # `run --metrics spring.yaml` lacks a word
            if file.read(len(_BEGINS)) not in {b"", _BEGINS}:
                raise CommandError(f"--metrics {self._path} is another file, and would be replaced. Name a new one.")
        beside = self._path.with_name(f".{self._path.name}.probe")
        try:
            beside.touch()
            beside.unlink()
        except OSError as error:
            raise CommandError(
                f"--metrics {self._path} cannot be written: {error.strerror}. Nothing was sent. Make its folder, and"
                " allow this user to write there."
            ) from error

    def on_start(self, counters: Counters) -> None:
        super().on_start(counters)
        self._counters = counters
        self._write_progress()

    def on_progress(self, counters: Counters) -> None:
        super().on_progress(counters)
        if self._counters is not None and time.monotonic() - self._written_at >= INTERVAL_SECONDS:
            self._write_progress()

    def _write_progress(self) -> None:
        self._written_at = time.monotonic()
        with suppress(OSError):  # that of the end is reported, once
            self._write({})

    def write(self, summary: Mapping[str, Any]) -> None:
        """Write the file for a run that has ended; a problem is reported and changes nothing else."""
        try:
            self._write(summary)
        except OSError as error:
            self.on_message(f"The metrics could not be written to {self._path}: {error.strerror}.", "error")

    def _write(self, summary: Mapping[str, Any]) -> None:
        from prometheus_client import CollectorRegistry, Gauge, write_to_textfile  # noqa: PLC0415 - the extra `metrics`

        registry, gauges = CollectorRegistry(), dict[str, Gauge]()

        def put(name: str, about: str, value: float, **labels: str) -> None:
            if name not in gauges:
                gauges[name] = Gauge(f"batchgen_run_{name}", about, [*self.labels, *labels], registry=registry)
            gauges[name].labels(*self.labels.values(), *labels.values()).set(value)

        ended = datetime.fromisoformat(summary["ended_at"]).timestamp() if summary else time.time()
        put("active", "1 while the run is going, 0 once it has ended.", not summary)
        put("start_timestamp_seconds", "When the last run began.", self._started)
        put("duration_seconds", "How long the last run has taken.", max(0.0, ended - self._started))
        if summary:
            put("end_timestamp_seconds", "When the last run ended.", ended)
            put("reason", "1 for the reason_code of the last run.", 1, reason_code=summary["reason_code"])
        values = {**(asdict(self._counters) if self._counters else {}), **summary}
        for key in filter(values.__contains__, _METRICS):
            put(*_METRICS[key], values[key])
        if "jobs" in summary:
            for status in Status:
                put("jobs", "Selected jobs by status.", summary["jobs"].get(status, 0), status=status)
            put("cost", "Cost of the last run.", float(summary["cost"]), unit=summary["unit"])
            for model, cost in summary["cost_by_model"].items():
                put("model_cost", "Cost of the last run by model.", float(cost), unit=summary["unit"], model=model)
        write_to_textfile(str(self._path), registry)


def _name(path: Path | None) -> str:
    """The name in a manifest that may be wrong otherwise, so that its metrics keep their label."""
    try:
        value = document.read(path).value if path is not None else None
    except CommandError:
        return ""
    return str(value.get("name", "")) if isinstance(value, dict) else ""
