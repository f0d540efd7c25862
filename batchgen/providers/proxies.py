"""Answers that a proxy in front of a gateway gives itself, where it is certain that the gateway was not reached.

A 502 or 504 usually says nothing of that: nginx answers 502 to a refused connection and to one that broke after the
request had left. Only what a proxy answers before it has sent anything is here, each with its source; everything else
stays unclear. Where a proxy says that it has tried more than once, an earlier try may have arrived: not here either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchgen.errors import NotSent, ProxyBusy

if TYPE_CHECKING:
    from batchgen.http.client import Answer

_LOOKED_AT = 1000  # bytes: these pages are short
_ANYTHING = re.compile(rb"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """How to know an answer of a proxy's own. `server` is how its `Server` header begins; empty for any."""

    proxy: str
    statuses: frozenset[int]
    body: re.Pattern[bytes]
    server: str = ""
    what: str
    busy: bool = False  # it asks to be slower, or has nobody free just now

    def matches(self, answer: Answer) -> bool:
        """Whether this proxy answered, and not who is behind it."""
        if answer.status not in self.statuses:
            return False
        if not answer.headers.get("Server", "").lower().startswith(self.server):
            return False
        return self.body.search(answer.body[:_LOOKED_AT].strip()) is not None


SIGNATURES = (
    # limit_req_status and limit_conn_status are 503 by default (nginx.org, ngx_http_limit_req_module); the page is of
    # ngx_http_special_response.c. An upstream that cannot be reached is a 502 there. Ingress controllers answer so
    # where a service has no endpoints.
    Signature(
        proxy="nginx",
        statuses=frozenset({503}),
        body=re.compile(
            rb"<h1>503 Service Temporarily Unavailable</h1></center>\s*<hr><center>(nginx|openresty|tengine)"
        ),
        what="lets no more requests through just now",
        busy=True,
    ),
    # HAProxy's configuration manual, 1.3.1: 503 is "no server was available to handle the request": all down, the queue
    # full or waited in for too long, or the connection refused.
    Signature(
        proxy="HAProxy",
        statuses=frozenset({503}),
        body=re.compile(
            rb"^<html><body><h1>503 Service Unavailable</h1>\s*No server is available to handle this request\.\s*"
            rb"</body></html>$"
        ),
        what="has no server free for the request",
        busy=True,
    ),
    # Envoy, source/common/router/router.cc and source/common/http/utility.cc (resetReasonToString). "connection
    # termination" and "reset" happen to requests that have left; "retried and the latest" to those sent before.
    Signature(
        proxy="Envoy",
        statuses=frozenset({503}),
        body=re.compile(rb"^no healthy upstream$"),
        what="has no healthy upstream",
    ),
    Signature(
        proxy="Envoy",
        statuses=frozenset({503}),
        body=re.compile(
            rb"^upstream connect error or disconnect/reset before headers\. reset reason: "
            rb"((local |remote )?connection failure|connection timeout)\b"
        ),
        what="could not connect to its upstream",
    ),
    Signature(
        proxy="Envoy",
        statuses=frozenset({503}),
        body=re.compile(rb"^upstream connect error or disconnect/reset before headers\. reset reason: overflow\b"),
        what="has too many requests under way",
        busy=True,
    ),
    # Traefik, pkg/server/service/loadbalancer: errNoAvailableServer, where no server of the service is healthy.
    Signature(
        proxy="Traefik",
        statuses=frozenset({503}),
        body=re.compile(rb"^no available server$"),
        what="has no available server",
    ),
    # Kong, kong/runloop/balancer: no target of the upstream is healthy.
    Signature(
        proxy="Kong",
        statuses=frozenset({503}),
        body=re.compile(rb'^\{\s*"message"\s*:\s*"failure to get a peer from the ring-balancer"'),
        what="has no healthy target",
    ),
    # Cloudflare's documentation of 5xx errors: 521 the origin refused the connection, 523 no route to it, 525 and 526
    # TLS with it failed. 520, 522 and 524 may come after the request has arrived.
    Signature(
        proxy="Cloudflare",
        statuses=frozenset({521, 523, 525, 526}),
        body=_ANYTHING,
        server="cloudflare",
        what="could not connect to the gateway",
    ),
    # AWS, "Troubleshoot your Application Load Balancers": 503 says that the target group has no target in use.
    Signature(
        proxy="AWS's load balancer",
        statuses=frozenset({503}),
        body=re.compile(rb"<h1>503 Service Temporarily Unavailable</h1>"),
        server="awselb",
        what="has no target for the request",
    ),
)


def not_reached(answer: Answer, text: str) -> NotSent | ProxyBusy | None:
    """What a proxy's own answer means, where it shows that the gateway was not reached; else None."""
    found = next((each for each in SIGNATURES if each.matches(answer)), None)
    if found is None:
        return None
    words = f"{text}: {found.proxy}, in front of the gateway, {found.what}; the gateway was not reached."
    if found.busy:
        return ProxyBusy(words, code=str(answer.status), retry_after=answer.retry_after)
    return NotSent(words)
