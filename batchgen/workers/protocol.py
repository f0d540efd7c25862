"""What the coordinator and its workers send each other: values that can be pickled, with no key among them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchgen.jobs import ReceivedImage

if TYPE_CHECKING:
    from batchgen.http.downloads import Reach

PROTOCOL = 1  # raise it when a value here, or a function that workers carry out, changes
OTHER_VERSION = "OtherVersion"  # kinds of failures that are no errors of batchgen's
TIMED_OUT = "TimedOut"


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadRequest:
    """One image to be downloaded to a scratch file that no other try has."""

    url: str = field(repr=False)  # whoever has it may download: in no repr, so in no log or traceback
    name: str  # of the scratch file
    reach: Reach
    idle_timeout: float  # seconds without a byte


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a worker could not do it: the name of an error, and its sentence. It proves nothing about the image."""

    kind: str
    message: str


Answer = ReceivedImage | Failure
