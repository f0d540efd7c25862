"""Answers of a proxy in front of a gateway which prove that the request did not reach the gateway.

A 502 or 504 usually proves nothing: nginx answers 502 to a refused connection and to one that broke after the request
had left. Only answers that a proxy gives before it has sent anything are here, each with its source; all others stay
unclear. So do those of a proxy that says it tried more than once: an earlier try may have arrived.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchgen.http.client import Answer

_EXAMINED = 1000  # bytes: these pages are short
_ENVOY_RESET = r"^upstream connect error or disconnect/reset before headers\. reset reason: "


@dataclass(frozen=True, slots=True)
class Signature:
    """An answer of a proxy. `body` is a regular expression, `server` how its `Server` header begins; empty for any."""

    proxy: str
    what: str
    body: str
    busy: bool = False  # the proxy asks for fewer requests, or has no server free just now
    server: str = ""
    statuses: frozenset[int] = frozenset({503})

    def matches(self, answer: Answer) -> bool:
        """Whether this proxy answered itself."""
        text = answer.body[:_EXAMINED].strip().decode("latin-1")
        server = answer.headers.get("Server", "").lower()
        return answer.status in self.statuses and server.startswith(self.server) and bool(re.search(self.body, text))


SIGNATURES = (
    # limit_req_status and limit_conn_status are 503 by default (nginx.org, ngx_http_limit_req_module); the page is of
    # ngx_http_special_response.c. An upstream that cannot be reached is a 502 there. Ingress controllers answer so
    # where a service has no endpoints.
    Signature(
        "nginx",
        "lets no more requests through just now",
        r"<h1>503 Service Temporarily Unavailable</h1></center>\s*<hr><center>(nginx|openresty|tengine)",
        busy=True,
    ),
    # HAProxy's configuration manual, 1.3.1: 503 is "no server was available to handle the request": all down, the queue
    # full or waited in for too long, or the connection refused.
    Signature(
        "HAProxy",
        "has no server free for the request",
        r"^<html><body><h1>503 Service Unavailable</h1>\s*No server is available to handle this request\.\s*"
        r"</body></html>$",
        busy=True,
    ),
    # Envoy, source/common/router/router.cc and source/common/http/utility.cc (resetReasonToString). "connection
    # termination" and "reset" happen to requests that have left; "retried and the latest" to those sent before.
    Signature("Envoy", "has no healthy upstream", r"^no healthy upstream$"),
    Signature(
        "Envoy",
        "could not connect to its upstream",
        _ENVOY_RESET + r"((local |remote )?connection failure|connection timeout)\b",
    ),
    Signature("Envoy", "has too many requests under way", _ENVOY_RESET + r"overflow\b", busy=True),
    # Traefik, pkg/server/service/loadbalancer: errNoAvailableServer, where no server of the service is healthy.
    Signature("Traefik", "has no available server", r"^no available server$"),
    # Kong, kong/runloop/balancer: no target of the upstream is healthy.
    Signature("Kong", "has no healthy target", r'^\{\s*"message"\s*:\s*"failure to get a peer from the ring-balancer"'),
    # Cloudflare's documentation of 5xx errors: 521 the origin refused the connection, 523 no route to it, 525 and 526
    # TLS with it failed. 520, 522 and 524 may come after the request has arrived.
    Signature(
        "Cloudflare",
        "could not connect to the gateway",
        "",
        server="cloudflare",
        statuses=frozenset({521, 523, 525, 526}),
    ),
    # AWS, "Troubleshoot your Application Load Balancers": 503 says that the target group has no target in use.
    Signature(
        "AWS's load balancer",
        "has no target for the request",
        r"<h1>503 Service Temporarily Unavailable</h1>",
        server="awselb",
    ),
)


def answering_proxy(answer: Answer) -> Signature | None:
    """The proxy whose own answer proves that the gateway was not reached; None for any other answer."""
    return next((each for each in SIGNATURES if each.matches(answer)), None)
