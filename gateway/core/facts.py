"""Facts: all that a decision may depend on, as data. Who asks, what, from where, what is suspected, and when.

Every field has a value that means "nothing known", so no condition of a policy ever meets a missing one. A record keeps
all of it but `texts`.
"""

from typing import Literal

import msgspec

from gateway.core.prompt import Prompt

State = Literal["normal", "watch", "suspicious", "contained", "blocked"]
"""How a principal is regarded, the worst last."""
SurgeState = Literal["calm", "crowd", "attack"]

MAX_LIST = 64
"""Entries of a list of facts; conditions look at no more."""
MAX_NAME = 256
"""Characters of a fact that a client chose (its user agent, a model's name)."""
DAY_S = 86_400


class PrincipalFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Who asks. `cluster`: the group of linked principals that it belongs to, empty for none."""

    id: str = ""
    org: str = ""
    project: str = ""
    plan: str = ""
    age_days: int = 0
    scopes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    state: State = "normal"
    score: float = 0.0
    cluster: str = ""


class RequestFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What is asked. `max_tokens`: the client's own cap, 0 for none. `messages`: of a chat, or texts of a completion.
    `text_length`: characters of all of them."""

    endpoint: str = "chat"
    model: str = ""
    stream: bool = False
    n: int = 1
    max_tokens: int = 0
    prompt_tokens: int = 0
    messages: int = 0
    text_length: int = 0


class ClientFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Where from. An absent country or network is unknown, never clean."""

    ip: str = ""
    network: str = ""
    country: str = "unknown"
    asn: int = 0
    user_agent: str = ""


class SignalFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Evidence by family, each from 0 (none) to 1."""

    credential: float = 0.0
    volume: float = 0.0
    probe: float = 0.0
    privilege: float = 0.0
    content: float = 0.0
    tripwire: float = 0.0


class SurgeFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Whether there is a rush: everywhere, and in this request's region, endpoint and plan."""

    overall: SurgeState = "calm"
    region: SurgeState = "calm"
    endpoint: SurgeState = "calm"
    plan: SurgeState = "calm"


class NowFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """When, in UTC: seconds since the epoch, hour 0 to 23, minute 0 to 59, weekday 1 (Monday) to 7."""

    unix: int = 0
    hour: int = 0
    minute: int = 0
    weekday: int = 4


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """`texts`: the client's own words, piece by piece. `never_contain`: the principal is on that list.
    `containment`: False while the one switch has ended all of it."""

    principal: PrincipalFacts = PrincipalFacts()
    request: RequestFacts = RequestFacts()
    client: ClientFacts = ClientFacts()
    signals: SignalFacts = SignalFacts()
    surge: SurgeFacts = SurgeFacts()
    now: NowFacts = NowFacts()
    never_contain: bool = False
    containment: bool = True
    texts: tuple[str, ...] = ()


class Roll(msgspec.Struct, frozen=True, gc=False):
    """The chance in a decision, brought from outside and recorded. Both below 2**64.

    `subject`: a keyed hash of the cluster or the principal (policy/rollout.py), the same for all of its requests.
    `request`: random for each request.
    """

    subject: int = 0
    request: int = 0


def now_facts(unix_ms: int) -> NowFacts:
    """The facts of a moment in milliseconds since the epoch."""
    unix = unix_ms // 1000
    days, seconds = divmod(unix, DAY_S)
    # the epoch was a Thursday
    return NowFacts(unix=unix, hour=seconds // 3600, minute=seconds // 60 % 60, weekday=(days + 3) % 7 + 1)


def texts_of(prompt: Prompt) -> tuple[str, ...]:
    """The client's own words, whatever the endpoint and the role they were put under."""
    return prompt.texts or tuple([message.content for message in prompt.messages])


def request_facts(prompt: Prompt, prompt_tokens: int, texts: tuple[str, ...]) -> RequestFacts:
    """The facts of a request whose prompt has so many tokens and these texts (`texts_of`)."""
    return RequestFacts(
        endpoint=_kind(prompt),
        model=prompt.model[:MAX_NAME],
        stream=prompt.stream,
        n=prompt.n,
        max_tokens=prompt.max_tokens or 0,
        prompt_tokens=prompt_tokens,
        messages=len(texts),
        text_length=sum(map(len, texts)),
    )


def _kind(prompt: Prompt) -> str:
    """KServe's generate is a completion: no rule is passed by another spelling of a request."""
    if prompt.tensors and prompt.endpoint != "embeddings":
        return "tensors"
    return "completions" if prompt.endpoint == "generate" else prompt.endpoint
