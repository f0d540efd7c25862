"""Damage to downloads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from batchgen.sandbox.faults.table import Act

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchgen.sandbox.injector import Damage


async def _truncate(request: web.BaseRequest, content: bytes, headers: Mapping[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(headers={**headers, "Content-Length": str(len(content))})
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


async def _shorten(_request: web.BaseRequest, content: bytes, headers: Mapping[str, str]) -> web.StreamResponse:
    return web.Response(body=content[: len(content) // 2], headers=headers)


async def _corrupt(_request: web.BaseRequest, content: bytes, headers: Mapping[str, str]) -> web.StreamResponse:
    middle = len(content) // 2
    damaged = bytes(byte ^ 0x55 for byte in content[middle : middle + 64])
    return web.Response(body=content[:middle] + damaged + content[middle + 64 :], headers=headers)


DAMAGES: Mapping[Act, Damage] = {Act.TRUNCATE: _truncate, Act.SHORTEN: _shorten, Act.CORRUPT: _corrupt}
