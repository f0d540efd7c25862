"""Signs requests to Tencent Cloud with TC3-HMAC-SHA256 (tencentcloud.com/document/product/213/33224)."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from batchgen.providers.credentials import Request


def sign(request: Request) -> dict[str, str]:
    host, seconds = urlsplit(request.url).netloc, str(int(request.time))
    date, service = datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%d"), host.partition(".")[0]
    scope, signed = f"{date}/{service}/tc3_request", "content-type;host"
    headers = f"content-type:{request.headers['Content-Type']}\nhost:{host}\n"
    canonical = "\n".join([request.method, "/", "", headers, signed, sha256(request.body).hexdigest()])
    text = "\n".join(["TC3-HMAC-SHA256", seconds, scope, sha256(canonical.encode()).hexdigest()])
    key = f"TC3{request.keys['secret_key']}".encode()
    for part in (date, service, "tc3_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    credential = f"Credential={request.keys['secret_id']}/{scope}"
    authorization = f"TC3-HMAC-SHA256 {credential}, SignedHeaders={signed}, Signature={signature}"
    return {"Authorization": authorization, "X-TC-Timestamp": seconds}
