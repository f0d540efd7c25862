"""batchgen: a manifest in, an output folder and its index out, and nothing paid twice.

The public API is small and is loaded on first use, so that `import batchgen` costs nothing; see docs/python-api.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from batchgen.app.load import load_manifest
    from batchgen.app.observer import Observer
    from batchgen.app.plan import plan
    from batchgen.app.run import run, run_async
    from batchgen.app.run_result import RunResult
    from batchgen.engine.counters import Counters
    from batchgen.errors import BatchgenError
    from batchgen.jobs import Job, Status
    from batchgen.matrix.expand import expand

__all__ = [
    "BatchgenError",
    "Counters",
    "Job",
    "Observer",
    "RunResult",
    "Status",
    "__version__",
    "expand",
    "load_manifest",
    "plan",
    "run",
    "run_async",
]

_HOMES = {
    "BatchgenError": "batchgen.errors",
    "Counters": "batchgen.engine.counters",
    "Job": "batchgen.jobs",
    "Observer": "batchgen.app.observer",
    "RunResult": "batchgen.app.run_result",
    "Status": "batchgen.jobs",
    "expand": "batchgen.matrix.expand",
    "load_manifest": "batchgen.app.load",
    "plan": "batchgen.app.plan",
    "run": "batchgen.app.run",
    "run_async": "batchgen.app.run",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562: the values are of many types
    from importlib import import_module  # noqa: PLC0415 - `import batchgen` stays free

    if name not in _HOMES:
        raise AttributeError(f"module 'batchgen' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
