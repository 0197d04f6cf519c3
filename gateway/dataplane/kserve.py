"""KServe v2's questions about the server and its models, answered in our own words: nothing of Triton's answers goes
out but the names, datatypes and shapes of the tensors that a client may use."""

from collections.abc import Mapping

from gateway.core.errors import MethodNotAllowed, RouteNotFound
from gateway.dataplane.kinds import find_model
from gateway.fleet.health import Health
from gateway.fleet.models import Served, ServedTensors
from gateway.fleet.signature import TensorSpec

KSERVE_MODELS = "/v2/models/"
POSTED = ("infer", "generate", "generate_stream")
_ONE = (1,)
_TEXT_INPUTS = tuple(
    TensorSpec(name, datatype, _ONE)
    for name, datatype in (
        ("text_input", "BYTES"),
        ("stream", "BOOL"),
        ("max_tokens", "INT32"),
        ("sampling_parameters", "BYTES"),
        ("exclude_input_in_output", "BOOL"),
        ("return_finish_reason", "BOOL"),
        ("return_num_input_tokens", "BOOL"),
        ("return_num_output_tokens", "BOOL"),
    )
)
_TEXT_OUTPUTS = tuple(
    TensorSpec(name, datatype, _ONE)
    for name, datatype in (
        ("text_output", "BYTES"),
        ("finish_reason", "BYTES"),
        ("num_input_tokens", "UINT32"),
        ("num_output_tokens", "UINT32"),
    )
)


def model_and_verb(path: str) -> tuple[str, str]:
    """`/v2/models/a/b/infer` -> ("a/b", "infer"); the verb is empty where the path ends with a model's name. Versions
    are not offered, so `a/versions/1` is the name of a model that is not there."""
    rest = path.removeprefix(KSERVE_MODELS)
    name, _, verb = rest.rpartition("/")
    return (name, verb) if name and verb in (*POSTED, "ready") else (rest, "")


def refuse(method: str, path: str) -> RouteNotFound | MethodNotAllowed:
    """Why nothing answers here: Triton's control surface, for one, is not there at all."""
    if path.startswith(KSERVE_MODELS):
        verb = model_and_verb(path)[1]
        if verb in POSTED and method != "POST":
            return _allow(b"POST", method)
        if verb == "ready" and method != "GET":
            return _allow(b"GET", method)
    if path in ("/v2/health/live", "/v2/health/ready"):
        return _allow(b"GET", method)
    return RouteNotFound(
        "There is nothing at this URL. Under /v2 Catflap serves health/live, health/ready, models/NAME, "
        "models/NAME/ready and models/NAME/{infer,generate,generate_stream}."
    )


def _allow(allowed: bytes, method: str) -> MethodNotAllowed:
    return MethodNotAllowed(f"{method} is not allowed here.", headers=((b"allow", allowed),))


def ready(models: Mapping[str, Served], health: Health, name: str) -> bool:
    """Whether some endpoint serves a model. Raises ModelNotFound."""
    model = find_model(name, models)
    return any(health.ready(endpoint.name, model.entry.name) for endpoint in model.endpoints)


def metadata(models: Mapping[str, Served], name: str) -> dict[str, object]:
    """A model's tensors. Raises ModelNotFound, and Unavailable as long as no endpoint has told them."""
    model = find_model(name, models)
    if isinstance(model, ServedTensors):
        signature = model.signature()
        inputs, outputs = tuple(signature.inputs.values()), tuple(signature.outputs.values())
    else:
        inputs, outputs = _TEXT_INPUTS, _TEXT_OUTPUTS
    return {"name": name, "platform": "catflap", "inputs": _told(inputs), "outputs": _told(outputs)}


def _told(tensors: tuple[TensorSpec, ...]) -> list[dict[str, object]]:
    return [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in tensors]
