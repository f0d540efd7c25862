"""An error that the gateway answers with: its code, and the HTTP status of the API's error table."""

from __future__ import annotations

from batchgen.errors import BatchgenError

# HTTP status and message of each code. Source: the vendor's error table (read 2026-11).
_ERRORS = {
    1000: (401, "authentication failed"),
    1001: (401, "Authorization is empty"),
    1002: (401, "Authorization is invalid"),
    1003: (401, "Authorization is not valid yet"),
    1004: (401, "Authorization has expired"),
    1103: (403, "no permission for this resource"),
    1100: (429, "the account is abnormal"),
    1101: (429, "the account is in arrears"),
    1102: (429, "the resource pack is used up or expired"),
    1302: (429, "too many requests in a short time, slow down"),
    1303: (429, "the parallel tasks of this account are used up"),
    1304: (429, "this address is not on the whitelist"),
    1200: (400, "the request is invalid"),
    1201: (400, "a parameter is invalid"),
    1300: (400, "the request breaks the policy of the platform"),
    1301: (400, "the request was refused by the content safety check"),
    1202: (404, "this method is not allowed here"),
    1203: (404, "this resource does not exist"),
    5000: (500, "internal error of the server"),
    5001: (503, "the server is unavailable for now"),
    5002: (504, "the server timed out inside"),
}
STATUS_OF = {code: status for code, (status, _) in _ERRORS.items()}


class ApiError(BatchgenError):
    """The request is not carried out; the answer holds `code` and the message."""

    def __init__(self, code: int, message: str = "", *, retry_after: int | None = None) -> None:
        self.code = code
        self.message = message or _ERRORS[code][1]
        self.retry_after = retry_after  # seconds
        super().__init__(self.message)
