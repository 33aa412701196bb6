"""What /metrics shows, in Prometheus's format. A registry per application, and labels of a few known values only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from look_again.serving.choice import Choice

MEDIA_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
CLIENT_LEFT = 499  # as nginx writes it down


class Metrics:
    """gauges: of the backend, by name. running, waiting: requests now."""

    def __init__(
        self,
        gauges: Callable[[], Mapping[str, float]],
        running: Callable[[], float],
        waiting: Callable[[], float],
    ) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "chat completions by HTTP status; 499: the client left", "status")
        self.seconds = self._histogram("request_seconds", "from a request's first byte to its answer's last")
        self.first_token = self._histogram("time_to_first_token_seconds", "from a request's first byte")
        self.tokens = self._counter("tokens", "by kind: prompt, cached, sampled, forced, reinserted", "kind")
        self.reflections = self._counter("reflections", "by whether visual tokens were put back", "mode", "looked")
        self._gauge("requests_running", "requests being answered", running)
        self._gauge("requests_waiting", "requests waiting for a place", waiting)
        self.registry.register(_BackendGauges(gauges))

    def answered(self, choices: Sequence[Choice]) -> None:
        """Count an answer's tokens and reflections, complete or not."""
        started = next((choice.started for choice in choices if choice.started is not None), None)
        self.tokens.labels("prompt").inc(started.prompt_tokens if started else 0)
        for choice in choices:
            self.tokens.labels("cached").inc(choice.cached_tokens or 0)
            self.tokens.labels("sampled").inc(choice.sampled)
            self.tokens.labels("forced").inc(choice.forced)
            self.tokens.labels("reinserted").inc(choice.reinserted)
            for reflection in choice.reflections:
                self.reflections.labels(reflection.mode, "yes" if reflection.visual_indices else "no").inc()

    def exposition(self) -> bytes:
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"look_again_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"look_again_{name}", text, buckets=SECONDS, registry=self.registry)

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        Gauge(f"look_again_{name}", text, registry=self.registry).set_function(value)


class _BackendGauges(Collector):
    """The backend's own gauges, read when they are asked for."""

    def __init__(self, gauges: Callable[[], Mapping[str, float]]) -> None:
        self.gauges = gauges

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, value in self.gauges().items():
            plain = re.sub(r"\W", "_", name, flags=re.ASCII)
            yield GaugeMetricFamily(f"look_again_backend_{plain}", f"the backend's {name}", value=value)
