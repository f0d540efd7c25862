"""Who may send requests: a holder of the API key, of a JWT made from two keys, or everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.catalog.accounts import Auth
from batchgen.sandbox.api_error import ApiError

if TYPE_CHECKING:
    from batchgen.sandbox.settings import Settings


def check(header: str, settings: Settings, auth: Auth) -> None:
    """Check the `Authorization` header. Raises ApiError (1000 to 1004)."""
    if settings.access_key is not None and settings.secret_key is not None:
        _check_token(_bearer(header), settings.access_key, settings.secret_key)
    elif settings.api_key is not None:
        if _bearer(header) != settings.api_key:
            raise ApiError(1000, "authentication failed: the API key is wrong")
    elif auth is not Auth.NONE:
        _bearer(header)  # any key is accepted


def _bearer(header: str) -> str:
    """The token after `Bearer`."""
    if not header.strip():
        raise ApiError(1001, "Authorization is empty")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise ApiError(1002, "Authorization is not of the form: Bearer KEY")
    return token.strip()


def _check_token(token: str, access_key: str, secret_key: str) -> None:
    """Check a JWT as the official service does: HS256, `iss`, `exp` and `nbf`, without leeway."""
    import jwt  # noqa: PLC0415 - only an account with two keys pays for the import

    try:
        claims = jwt.decode(token, secret_key, algorithms=["HS256"], options={"require": ["exp", "iss"]})
    except jwt.ExpiredSignatureError:
        raise ApiError(1004, "Authorization token has expired") from None
    except jwt.ImmatureSignatureError:
        raise ApiError(1003, "Authorization token is not valid yet") from None
    except jwt.InvalidSignatureError:
        raise ApiError(1000, "authentication failed: the signature is wrong") from None
    except jwt.InvalidTokenError as error:
        raise ApiError(1002, f"Authorization token is invalid: {error}") from None
    if claims["iss"] != access_key:
        raise ApiError(1002, "Authorization token has an unknown access key")
