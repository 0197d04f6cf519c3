"""Which endpoints serve which models now: asked of each Triton every second, and learnt from what requests meet."""

import asyncio
from collections.abc import Iterable

import structlog
import tritonclient.http.aio as triton
from aiohttp import ClientError
from tritonclient.utils import InferenceServerException

from gateway.fleet.adapters import vllm
from gateway.fleet.file import Endpoint, Fleet, Model

INTERVAL_S = 1.0
PROBE_TIMEOUT_S = 2.0

log = structlog.get_logger()


class Health:
    """The readiness of every (endpoint, model) pair. Unknown counts as not ready."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._ready: set[tuple[str, str]] = set()
        self._wrong: dict[tuple[str, str], str] = {}

    def ready(self, endpoint: str, model: str) -> bool:
        """Whether requests for the model may go there."""
        return (endpoint, model) in self._ready

    def any_ready(self) -> bool:
        """Whether anything at all is served."""
        return bool(self._ready)

    def report(self) -> dict[str, dict[str, str]]:
        """Model -> endpoint -> `ready`, `not ready` or what is wrong with it."""
        return {
            model.name: {name: self._word(name, model.name) for name in model.endpoints} for model in self._fleet.models
        }

    def _word(self, endpoint: str, model: str) -> str:
        return "ready" if self.ready(endpoint, model) else self._wrong.get((endpoint, model), "not ready")

    def unreachable(self, endpoint: str) -> None:
        """A request could not connect: nothing goes there until a probe has seen it again."""
        lost = {pair for pair in self._ready if pair[0] == endpoint}
        if lost:
            log.warning("endpoint_unreachable", endpoint=endpoint)
            self._ready -= lost

    def refused(self, endpoint: str, model: str) -> None:
        """An endpoint said that it does not serve the model now: it gets no requests for it until a probe says so."""
        self._note((endpoint, model), ready=False)

    async def watch(self) -> None:
        """Probe for ever; one task a process."""
        clients = {endpoint.name: connect(endpoint) for endpoint in self._fleet.endpoints}
        try:
            while True:
                await asyncio.gather(*(self._probe(clients[e.name], e) for e in self._fleet.endpoints))
                await asyncio.sleep(INTERVAL_S)
        finally:
            await asyncio.gather(*(client.close() for client in clients.values()), return_exceptions=True)

    async def _probe(self, client: triton.InferenceServerClient, endpoint: Endpoint) -> None:
        for model in self._fleet.models:
            if endpoint.name not in model.endpoints:
                continue
            pair = (endpoint.name, model.name)
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    ready = await client.is_model_ready(model.triton.name, model.triton.version)
                    if ready and pair not in self._ready:
                        ready = await self._fits(client, model, pair)
            except (ClientError, OSError, TimeoutError, InferenceServerException):
                ready = False
            self._note(pair, ready)

    def _note(self, pair: tuple[str, str], ready: bool) -> None:
        if ready and pair not in self._ready:
            log.info("model_ready", endpoint=pair[0], model=pair[1])
            self._ready.add(pair)
            self._wrong.pop(pair, None)
        elif not ready and pair in self._ready:
            log.warning("model_not_ready", endpoint=pair[0], model=pair[1])
            self._ready.discard(pair)

    async def _fits(self, client: triton.InferenceServerClient, model: Model, pair: tuple[str, str]) -> bool:
        """Hold the live model against its adapter before any request goes there."""
        try:
            problems = await misfits(client, model)
        except (ValueError, TypeError, AttributeError, LookupError):  # one bad server must not end the watch over all
            problems = [f"{model.triton.name}: what answers there does not speak Triton's language."]
        if problems and self._wrong.get(pair) != problems[0]:
            log.error("model_does_not_fit", endpoint=pair[0], model=pair[1], problem=problems[0])
            self._wrong[pair] = problems[0]
        return not problems


def connect(endpoint: Endpoint) -> triton.InferenceServerClient:
    """A client for the slow questions: readiness, metadata, configuration."""
    return triton.InferenceServerClient(endpoint.http.removeprefix("http://").rstrip("/"), conn_timeout=PROBE_TIMEOUT_S)


async def misfits(client: triton.InferenceServerClient, model: Model) -> list[str]:
    """What of the live model does not fit its adapter's contract; each a sentence. Raises what tritonclient raises."""
    name, version = model.triton.name, model.triton.version
    metadata = await client.get_model_metadata(name, version)
    config = await client.get_model_config(name, version)
    problems = []
    if not config.get("model_transaction_policy", {}).get("decoupled", False):
        problems.append(f"{name} is not decoupled, so it cannot stream.")
    if config.get("max_batch_size", 0):
        problems.append(f"{name} has max_batch_size {config['max_batch_size']}; the vLLM contract has 0.")
    problems += _missing(name, "input", metadata.get("inputs", ()), vllm.INPUTS)
    problems += _missing(name, "output", metadata.get("outputs", ()), vllm.OUTPUTS)
    return problems


def _missing(model: str, kind: str, found: Iterable[dict[str, str]], wanted: dict[str, str]) -> list[str]:
    there = {tensor["name"]: tensor["datatype"] for tensor in found}
    return [
        f"{model} has no {kind} {name} of type {datatype}."
        for name, datatype in wanted.items()
        if there.get(name) != datatype
    ]
