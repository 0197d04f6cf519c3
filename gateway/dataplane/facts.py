"""From an admitted call to the facts that a decision may depend on."""

from functools import lru_cache
from ipaddress import ip_network

from gateway.core.caller import Caller
from gateway.core.facts import DAY_S, MAX_NAME, ClientFacts, Facts, PrincipalFacts, now_facts, request_facts, texts_of
from gateway.dataplane.call import Call
from gateway.dataplane.exchange import Exchange
from gateway.identity.address import Networks, client_address

PREFIXES = {4: 24, 6: 48}
"""Bits of an address, by its version, that make its network: what one household, office or server is given."""
REMEMBERED = 4096


def facts_of(call: Call, trusted: Networks, *, containment: bool) -> Facts:
    """`containment`: whether the one switch is on."""
    assert call.caller is not None and call.prompt is not None
    now_ms = call.exchange.arrived_ms
    texts = texts_of(call.prompt)
    return Facts(
        principal=principal_facts(call.caller, now_ms),
        request=request_facts(call.prompt, call.measured.ceiling.prompt_tokens, texts),
        client=client_facts(call.exchange, trusted),
        now=now_facts(now_ms),
        never_contain=call.caller.regard.never_contain,
        containment=containment,
        texts=texts,
    )


def principal_facts(caller: Caller, now_ms: int) -> PrincipalFacts:
    """Who asks, at a moment in milliseconds since the epoch."""
    regard = caller.regard
    return PrincipalFacts(
        id=caller.principal,
        org=caller.organisation,
        project=caller.project,
        plan=caller.plan,
        age_days=max(now_ms - caller.created_at_ms, 0) // (DAY_S * 1000) if caller.created_at_ms else 0,
        scopes=tuple(sorted(caller.scopes)) if caller.scopes is not None else (),
        tags=caller.tags,
        state=regard.state_at(now_ms),
        score=regard.score,
        cluster=regard.cluster,
    )


def client_facts(exchange: Exchange, trusted: Networks) -> ClientFacts:
    """Where from. Country and network operator are unknown: nothing here looks them up."""
    forwarded = (value for name, value in exchange.headers if name == b"x-forwarded-for") if trusted else ()
    address = _address(exchange.peer) if not trusted else client_address(exchange.peer, forwarded, trusted)
    agent = (exchange.header(b"user-agent") or b"")[:MAX_NAME].decode("latin-1")
    text = str(address) if address is not None else ""
    return ClientFacts(ip=text, network=_network(text), user_agent=agent)


@lru_cache(REMEMBERED)
def _address(peer: str | None) -> str | None:
    found = client_address(peer, (), ())
    return None if found is None else str(found)


@lru_cache(REMEMBERED)
def _network(address: str) -> str:
    if not address:
        return ""
    return str(ip_network(f"{address}/{PREFIXES[6 if ':' in address else 4]}", strict=False))
