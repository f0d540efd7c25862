"""An error that the gateway answers with: its code, and the HTTP status of the API's error table."""

from __future__ import annotations

from batchgen.errors import BatchgenError

# Source: the vendor's error table (read 2026-11).
_STATUSES = {
    401: (1000, 1001, 1002, 1003, 1004),
    403: (1103,),
    429: (1100, 1101, 1102, 1302, 1303, 1304),
    400: (1200, 1201, 1300, 1301),
    404: (1202, 1203),
    500: (5000,),
    503: (5001,),
    504: (5002,),
}
STATUS_OF = {code: status for status, codes in _STATUSES.items() for code in codes}

MESSAGE_OF = {
    1000: "authentication failed",
    1001: "Authorization is empty",
    1002: "Authorization is invalid",
    1003: "Authorization is not valid yet",
    1004: "Authorization has expired",
    1100: "the account is abnormal",
    1101: "the account is in arrears",
    1102: "the resource pack is used up or expired",
    1103: "no permission for this resource",
    1200: "the request is invalid",
    1201: "a parameter is invalid",
    1202: "this method is not allowed here",
    1203: "this resource does not exist",
    1300: "the request breaks the policy of the platform",
    1301: "the request was refused by the content safety check",
    1302: "too many requests in a short time, slow down",
    1303: "the parallel tasks of this account are used up",
    1304: "this address is not on the whitelist",
    5000: "internal error of the server",
    5001: "the server is unavailable for now",
    5002: "the server timed out inside",
}


class ApiError(BatchgenError):
    """The request is not carried out; the answer holds `code` and the message."""

    def __init__(self, code: int, message: str = "", *, retry_after: int | None = None) -> None:
        self.code = code
        self.message = message or MESSAGE_OF[code]
        self.retry_after = retry_after  # seconds
        super().__init__(self.message)
