"""batchgen: manifests in, an output tree and its index out, and nothing paid twice.

The public API is small and is loaded on first use, so that `import batchgen` costs nothing:
`load_manifest`, `expand`, `Job`, `Status`, `BatchgenError`, `__version__`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from batchgen.app.load import load_manifest
    from batchgen.errors import BatchgenError
    from batchgen.jobs import Job, Status
    from batchgen.matrix.expand import expand

__all__ = ["BatchgenError", "Job", "Status", "__version__", "expand", "load_manifest"]

_HOMES = {
    "BatchgenError": "batchgen.errors",
    "Job": "batchgen.jobs",
    "Status": "batchgen.jobs",
    "load_manifest": "batchgen.app.load",
    "expand": "batchgen.matrix.expand",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562: what is handed out is of many types
    from importlib import import_module  # noqa: PLC0415 - `import batchgen` stays free

    if name not in _HOMES:
        raise AttributeError(f"module 'batchgen' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
