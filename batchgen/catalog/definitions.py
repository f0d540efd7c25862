"""The definitions of APIs that batchgen brings, one file each in `catalog/apis/`."""

from __future__ import annotations

from functools import cache
from importlib import resources

FOLDER = "apis"


@cache
def names() -> tuple[str, ...]:
    """The names of the definitions, in order."""
    files = resources.files("batchgen.catalog").joinpath(FOLDER).iterdir()
    return tuple(sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")))


def text_of(name: str) -> str:
    """A definition as it is written. Raises KeyError for a name that is none of `names`."""
    if name not in names():
        raise KeyError(name)
    return resources.files("batchgen.catalog").joinpath(FOLDER, f"{name}.yaml").read_text(encoding="utf-8")
