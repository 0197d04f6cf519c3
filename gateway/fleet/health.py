"""Which endpoints serve which models now: asked of each Triton every second, and learnt from what requests meet."""

import asyncio
from collections.abc import Iterable

import structlog
import tritonclient.http.aio as triton
from aiohttp import ClientError
from tritonclient.utils import InferenceServerException

from gateway.fleet.adapters import vllm
from gateway.fleet.file import Endpoint, Fleet, Model, TensorModel
from gateway.fleet.signature import Signature, problems, read_signature

INTERVAL_S = 1.0
PROBE_TIMEOUT_S = 2.0

log = structlog.get_logger()


class Health:
    """The readiness of every (endpoint, model) pair. Unknown counts as not ready."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._ready: set[tuple[str, str]] = set()
        self._wrong: dict[tuple[str, str], str] = {}
        self._signatures: dict[str, Signature] = {}

    def ready(self, endpoint: str, model: str) -> bool:
        """Whether requests for the model may go there."""
        return (endpoint, model) in self._ready

    def signature(self, model: str) -> Signature | None:
        """The tensors of a tensor model, as an endpoint told them when it last became ready; None before that."""
        return self._signatures.get(model)

    def any_ready(self) -> bool:
        """Whether anything at all is served."""
        return bool(self._ready)

    def report(self) -> dict[str, dict[str, str]]:
        """Model -> endpoint -> `ready`, `not ready` or what is wrong with it."""
        return {
            model.name: {name: self._word(name, model.name) for name in model.endpoints} for model in self._fleet.served
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
        for model in self._fleet.served:
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

    async def _fits(
        self, client: triton.InferenceServerClient, model: Model | TensorModel, pair: tuple[str, str]
    ) -> bool:
        """Hold the live model against its adapter before any request goes there."""
        try:
            wrong = await self._misfits(client, model)
        except (ValueError, TypeError, AttributeError, LookupError):  # one bad server must not end the watch over all
            wrong = [f"{model.triton.name}: what answers there does not speak Triton's language."]
        if wrong and self._wrong.get(pair) != wrong[0]:
            log.error("model_does_not_fit", endpoint=pair[0], model=pair[1], problem=wrong[0])
            self._wrong[pair] = wrong[0]
        return not wrong

    async def _misfits(self, client: triton.InferenceServerClient, model: Model | TensorModel) -> list[str]:
        if isinstance(model, Model):
            return await misfits(client, model)
        signature = await _signature(client, model)
        wrong = problems(signature, model)
        if not wrong:
            self._signatures[model.name] = signature
        return wrong


def connect(endpoint: Endpoint) -> triton.InferenceServerClient:
    """A client for the slow questions: readiness, metadata, configuration."""
    return triton.InferenceServerClient(endpoint.http.removeprefix("http://").rstrip("/"), conn_timeout=PROBE_TIMEOUT_S)


async def _signature(client: triton.InferenceServerClient, model: TensorModel) -> Signature:
    name, version = model.triton.name, model.triton.version
    metadata = await client.get_model_metadata(name, version)
    return read_signature(metadata, await client.get_model_config(name, version), model)


async def misfits(client: triton.InferenceServerClient, model: Model | TensorModel) -> list[str]:
    """What of the live model does not fit its fleet entry; each a sentence. Raises what tritonclient raises."""
    if isinstance(model, TensorModel):
        return problems(await _signature(client, model), model)
    name, version = model.triton.name, model.triton.version
    metadata = await client.get_model_metadata(name, version)
    config = await client.get_model_config(name, version)
    wrong = []
    if not config.get("model_transaction_policy", {}).get("decoupled", False):
        wrong.append(f"{name} is not decoupled, so it cannot stream.")
    if config.get("max_batch_size", 0):
        wrong.append(f"{name} has max_batch_size {config['max_batch_size']}; the vLLM contract has 0.")
    wrong += _missing(name, "input", metadata.get("inputs", ()), vllm.INPUTS)
    wrong += _missing(name, "output", metadata.get("outputs", ()), vllm.OUTPUTS)
    return wrong


def _missing(model: str, kind: str, found: Iterable[dict[str, str]], wanted: dict[str, str]) -> list[str]:
    there = {tensor["name"]: tensor["datatype"] for tensor in found}
    return [
        f"{model} has no {kind} {name} of type {datatype}."
        for name, datatype in wanted.items()
        if there.get(name) != datatype
    ]
