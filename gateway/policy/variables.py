"""What conditions may speak of: every variable by its own name and type, so that a misspelt one fails at check.

`request.user_text` is the only variable that holds words of the client. A condition may ask it questions (`contains`,
`startsWith`, `endsWith`, `matches`, `size`) and nothing else, so that the answers can be recorded in its place.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, get_args

from cel_expr_python import cel

from gateway.core.facts import MAX_LIST, Facts, State, SurgeState

USER_TEXT = "request.user_text"
TEXT_LENGTH = "request.text_length"
ENDPOINTS = ("chat", "completions", "embeddings", "tensors")
STATES: tuple[str, ...] = get_args(State)
SURGES: tuple[str, ...] = get_args(SurgeState)

Type = cel.Type


class Variable(NamedTuple):
    """`of` reads its value from facts (of a list, a tuple); `values`: all that it can be, where that is known."""

    name: str
    type: cel.Type
    of: Callable[[Facts], Any]
    about: str
    values: tuple[str, ...] = ()


def _plain(name: str, kind: cel.Type, about: str, values: tuple[str, ...] = ()) -> Variable:
    return Variable(name, kind, attrgetter(name), about, values)


def _list(name: str, about: str) -> Variable:
    return Variable(name, Type.List(Type.STRING), attrgetter(name), about)


VARIABLES: dict[str, Variable] = {
    variable.name: variable
    for variable in (
        _plain("principal.id", Type.STRING, "id of the principal"),
        _plain("principal.org", Type.STRING, "id of its organisation"),
        _plain("principal.project", Type.STRING, "id of its project"),
        _plain("principal.plan", Type.STRING, "name of its plan"),
        _plain("principal.age_days", Type.INT, "whole days since it was made"),
        _list("principal.scopes", "endpoints that its credential may use; empty for all"),
        _list("principal.tags", "its tags"),
        _plain("principal.state", Type.STRING, "how it is regarded", STATES),
        _plain("principal.score", Type.DOUBLE, "suspicion, from 0"),
        _plain("principal.cluster", Type.STRING, "id of its cluster of linked principals, or empty"),
        _plain("request.endpoint", Type.STRING, "kind of endpoint", ENDPOINTS),
        _plain("request.model", Type.STRING, "the model that was asked for"),
        _plain("request.stream", Type.BOOL, "whether the answer is streamed"),
        _plain("request.n", Type.INT, "choices asked for"),
        _plain("request.max_tokens", Type.INT, "the client's own cap on output tokens, 0 for none"),
        _plain("request.prompt_tokens", Type.INT, "tokens of the prompt, or a bound on them"),
        _plain("request.messages", Type.INT, "how many messages or texts"),
        _plain(TEXT_LENGTH, Type.INT, "characters of all of them"),
        _plain("client.ip", Type.STRING, "address"),
        _plain("client.network", Type.STRING, "its network, as a prefix"),
        _plain("client.country", Type.STRING, "two letters, or `unknown`"),
        _plain("client.asn", Type.INT, "number of its autonomous system, 0 for unknown"),
        _plain("client.user_agent", Type.STRING, "what the client calls itself"),
        _plain("signals.credential", Type.DOUBLE, "evidence that a key is shared or stolen, 0 to 1"),
        _plain("signals.volume", Type.DOUBLE, "evidence from rate and tokens, 0 to 1"),
        _plain("signals.probe", Type.DOUBLE, "evidence of probing, 0 to 1"),
        _plain("signals.privilege", Type.DOUBLE, "evidence of unusual use of privileges, 0 to 1"),
        _plain("signals.content", Type.DOUBLE, "evidence from what is asked, 0 to 1"),
        _plain("signals.tripwire", Type.DOUBLE, "evidence of touching what no honest client knows, 0 to 1"),
        _plain("surge.overall", Type.STRING, "whether there is a rush anywhere", SURGES),
        _plain("surge.region", Type.STRING, "in this region", SURGES),
        _plain("surge.endpoint", Type.STRING, "on this endpoint", SURGES),
        _plain("surge.plan", Type.STRING, "among this plan's principals", SURGES),
        _plain("now.unix", Type.INT, "seconds since the epoch"),
        _plain("now.hour", Type.INT, "hour of the day in UTC, 0 to 23"),
        _plain("now.minute", Type.INT, "minute of the hour, 0 to 59"),
        _plain("now.weekday", Type.INT, "1 for Monday to 7 for Sunday, in UTC"),
    )
}
"""By name; `request.user_text` is not among them, because it has no value that could be recorded."""

INDEXED = ("principal.state", "request.endpoint", "principal.plan", "request.model")
"""Rules are found by what their conditions demand of these."""


def cel_value(value: Any) -> Any:
    """A fact's value as CEL takes it: tuples are none to it. Of a list it sees the first `MAX_LIST` entries."""
    return list(value[:MAX_LIST]) if type(value) is tuple else value


def reader(names: Sequence[str]) -> Callable[[Facts], tuple[Any, ...]]:
    """Reads the values of these variables at once."""
    if len(names) > 1:
        return attrgetter(*names)
    if not names:
        return lambda facts: ()
    one = VARIABLES[names[0]].of
    return lambda facts: (one(facts),)


def environment() -> cel.Env:
    """A CEL environment that knows these variables."""
    kinds = {name: variable.type for name, variable in VARIABLES.items()}
    return cel.NewEnv(variables=kinds | {USER_TEXT: Type.STRING})
