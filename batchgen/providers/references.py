"""Reference images as a request holds them."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from batchgen.errors import OwnRefusal


def content(path: str, sha256: str) -> bytes:
    """What is in the file. Raises OwnRefusal where it is no longer what the job's id was made from."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise OwnRefusal(f"The reference image {path} cannot be read ({error.strerror}).", code="local") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise OwnRefusal(
            f"The reference image {path} has changed since this run started; run again to use the new file.",
            code="local",
        )
    return data


def encoded(path: str, sha256: str) -> str:
    """The file as bare base64. Raises OwnRefusal as `content`."""
    return base64.b64encode(content(path, sha256)).decode("ascii")
