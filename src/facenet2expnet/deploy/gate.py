"""Who may use the service, how often, and what is counted."""

from __future__ import annotations

import hmac
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from facenet2expnet.deploy.uploads import Limits, Refused

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENTS = 10_000
"""Clients whose rate is remembered; of more, the one that was away longest is forgotten."""

BURST_S = 2.0
"""A client that was quiet may send what it may send in so many seconds at once."""

HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
"""The page loads nothing from elsewhere, and sends nothing elsewhere; the browser sees to it."""


class Gate:
    """Lets requests in: by the client's rate, the token, and the room in the queue.

    Args:
        limits: the rate and the queue.
        token: what `Authorization: Bearer TOKEN` must say; None for anyone.
    """

    def __init__(self, limits: Limits, token: str | None = None) -> None:
        self.limits = limits
        self._token = None if token is None else token.encode()
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._inside: Counter[str] = Counter()

    @property
    def inside(self) -> int:
        """The number of requests in the queue."""
        return self._inside.total()

    def check(self, client: str, authorization: str) -> None:
        """Raise Refused, 401 or 429, if a request may not come in."""
        wait_s = self._wait_s(client, time.monotonic())
        if wait_s > 0:
            message = f"more than {self.limits.rate:g} requests a second; slow down"
            raise Refused(429, "too_many_requests", message, math.ceil(wait_s))
        if self._token is None:
            return
        scheme, _, given = authorization.partition(" ")
        if (
            not hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._token)
            or scheme.lower() != "bearer"
        ):
            raise Refused(401, "no_token", "expected the header Authorization: Bearer TOKEN with the service's token")

    @contextmanager
    def slot(self, client: str) -> Iterator[None]:
        """Hold a place in the queue; raises Refused, 503, if there is none, or the client has its share."""
        if self.inside >= self.limits.queue:
            raise Refused(503, "busy", f"{self.limits.queue} requests are being processed; try again", 1)
        if self._inside[client] >= self.limits.client_queue:
            raise Refused(503, "busy", f"{self._inside[client]} of your requests are being processed; try again", 1)
        self._inside[client] += 1
        try:
            yield
        finally:
            self._inside[client] -= 1
            if not self._inside[client]:
                del self._inside[client]

    def _wait_s(self, client: str, now_s: float) -> float:
        """Count a request of a client; seconds until it may come in, 0 for now."""
        rate = self.limits.rate
        if not rate:
            return 0.0
        most = max(1.0, BURST_S * rate)
        left, before_s = self._clients.pop(client, (most, now_s))
        left = min(most, left + rate * (now_s - before_s))
        allowed = left >= 1
        self._clients[client] = (left - 1 if allowed else left, now_s)
        if len(self._clients) > CLIENTS:
            self._clients.popitem(last=False)
        return 0.0 if allowed else (1 - left) / rate


class Metrics:
    """Counts for Prometheus, each app its own.

    Args:
        inside: the number of requests in the queue now.
    """

    def __init__(self, inside: Callable[[], int]) -> None:
        import prometheus_client as prometheus

        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        common: dict[str, Any] = {"registry": self.registry}
        self.requests = prometheus.Counter("fn2en_requests", "Requests.", ["path", "status"], **common)
        self.seconds = prometheus.Histogram("fn2en_request_seconds", "Time of a request.", ["path"], **common)
        self.pictures = prometheus.Counter("fn2en_pictures", "Pictures and cut-out faces that were read.", **common)
        self.faces = prometheus.Counter("fn2en_faces", "Faces that were classified.", **common)
        sizes = (1, 2, 4, 8, 16, 32)
        self.batches = prometheus.Histogram("fn2en_batch_pictures", "Pictures of a batch.", buckets=sizes, **common)
        queue = prometheus.Gauge(
            "fn2en_requests_inside", "Requests that are received, wait or are worked on.", **common
        )
        queue.set_function(inside)

    def text(self) -> bytes:
        """All counts, in Prometheus' text format."""
        import prometheus_client as prometheus

        return prometheus.generate_latest(self.registry)


class Outermost:
    """ASGI middleware around everything: counts requests, and adds the security headers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began_s, status = time.perf_counter(), 500

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        try:
            await self.app(scope, receive, send_on)
        finally:
            path = getattr(scope.get("route"), "path", "other")  # a path that a client made up is no label
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - began_s)
