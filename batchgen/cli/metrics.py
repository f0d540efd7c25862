"""`run --metrics FILE`: the state of a run as Prometheus metrics, for the textfile collector of node_exporter.

The file is written whole beside its place and moved there: now and then during a run, and at its end.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from batchgen.app.observer import Observer
from batchgen.errors import CommandError
from batchgen.jobs import Status
from batchgen.source import document

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from batchgen.engine.counters import Counters

INTERVAL_SECONDS = 15.0  # at least, between two files during a run
_BEGINS = b"# HELP batchgen_run_"

# Metrics of the run's summary by its key.
_OF_SUMMARY = {
    "exit_code": ("exit_code", "Exit code of the last run."),
    "images": ("images", "Images in the index."),
    "started": ("started_attempts", "Attempts that the last run sent."),
    "retired": ("retired_files", "Files that the manifest no longer asks for, moved by the last run."),
    "watermarks_missing": ("watermarks_missing", "Images of the last run without the watermarked copy asked for."),
    "warnings": ("warnings", "Images of the last run that are unusual, and kept as received."),
}
# Metrics of the counters, during the run and as they were at its end.
_OF_COUNTERS = {
    "images_wanted": ("images_wanted", "Images that the run is to have, with those that were there."),
    "images_done": ("images_done", "Images that are there."),
    "jobs_failed": ("jobs_failed", "Jobs of the run that ended without all their images."),
    "slots": ("slots", "Slots that the account allows."),
    "slots_in_use": ("slots_in_use", "Slots in use."),
    "refusals": ("refusals", "Answers that refused a create for now: too fast, or too many at once."),
}


class RunMetrics(Observer):
    """The file `path`, and what goes into it. Passes everything that it sees on to another observer."""

    def __init__(self, path: Path, manifest: Path | None, shown: Observer | None = None) -> None:
        self._path = path
        self._labels = {"manifest": _name(manifest), "account": ""}
        self._shown = shown or Observer()
        self.interval = self._shown.interval
        self._written_at = time.monotonic()
        self._started = time.time()
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
        if not self._is_free():
            raise CommandError(
                f"--metrics {self._path} is a file of another kind, and would be replaced. Name another one."
            )
        beside = self._path.with_name(f".{self._path.name}.probe")
        try:
            beside.touch()
            beside.unlink()
        except OSError as error:
            raise CommandError(
                f"--metrics {self._path} cannot be written: {error.strerror}. Nothing was sent. Make its folder, and"
                " allow this user to write there."
            ) from error

    def _is_free(self) -> bool:
        """Whether nothing else is lost when the file is written: `run --metrics spring.yaml` lacks a word."""
        with suppress(OSError), self._path.open("rb") as file:
            return file.read(len(_BEGINS)) in {b"", _BEGINS}
        return True

    def name(self, manifest: str, account: str) -> None:
        """Set the labels of every metric."""
        self._labels = {"manifest": manifest, "account": account}

    # --- during the run -----------------------------------------------------------------------------------

    def on_start(self, counters: Counters) -> None:
        self._counters = counters
        self._shown.on_start(counters)
        self._write_progress()

    def on_progress(self, counters: Counters) -> None:
        self._shown.on_progress(counters)
        if time.monotonic() - self._written_at >= INTERVAL_SECONDS:
            self._write_progress()

    def on_end(self, counters: Counters) -> None:
        self._shown.on_end(counters)

    def on_message(self, message: str, level: str = "info", **fields: object) -> None:
        self._shown.on_message(message, level, **fields)

    def _write_progress(self) -> None:
        self._written_at = time.monotonic()
        with suppress(OSError):  # that of the end is reported, once
            self._write({})

    # --- at its end ---------------------------------------------------------------------------------------

    def write(self, summary: Mapping[str, Any], notify: Callable[..., None]) -> None:
        """Write the file for a run that has ended; a problem is reported and changes nothing else."""
        try:
            self._write(summary)
        except OSError as error:
            notify(f"The metrics could not be written to {self._path}: {error.strerror}.", level="warning")

    def _write(self, summary: Mapping[str, Any]) -> None:
        from prometheus_client import CollectorRegistry, Gauge, write_to_textfile  # noqa: PLC0415 - the extra `metrics`

        registry = CollectorRegistry()

        def put(name: str, about: str, value: float, **labels: str) -> None:
            gauges[name] = gauges.get(name) or Gauge(
                f"batchgen_run_{name}", about, [*self._labels, *labels], registry=registry
            )
            gauges[name].labels(*self._labels.values(), *labels.values()).set(value)

        gauges: dict[str, Gauge] = {}
        ended = datetime.fromisoformat(summary["ended_at"]).timestamp() if summary else time.time()
        put("active", "1 while the run is going, 0 once it has ended.", not summary)
        put("start_timestamp_seconds", "When the last run began.", self._started)
        put("duration_seconds", "How long the last run has taken.", max(0.0, ended - self._started))
        if summary:
            put("end_timestamp_seconds", "When the last run ended.", ended)
            put("reason", "1 for the reason_code of the last run.", 1, reason_code=summary["reason_code"])
        for key, (name, about) in _OF_SUMMARY.items():
            if key in summary:
                put(name, about, summary[key])
        for key, (name, about) in _OF_COUNTERS.items():
            if self._counters is not None:
                put(name, about, getattr(self._counters, key))
        if "jobs" in summary:
            for status in Status:
                put("jobs", "Selected jobs by status.", summary["jobs"].get(status, 0), status=status)
            put(
                "unfinished_reasons",
                "Different reasons why jobs were left for the next run.",
                len(summary["unfinished"]),
            )
            put("cost", "Cost of the last run.", float(summary["cost"]), unit=summary["unit"])
            for model, cost in summary["cost_by_model"].items():
                put("model_cost", "Cost of the last run by model.", float(cost), unit=summary["unit"], model=model)
        write_to_textfile(str(self._path), registry)


def _name(path: Path | None) -> str:
    """The name in a manifest that may be wrong otherwise, so that its metrics keep their label."""
    if path is None:
        return ""
    try:
        value = document.read(path).value
    except CommandError:
        return ""
    return str(value.get("name", "")) if isinstance(value, dict) else ""
