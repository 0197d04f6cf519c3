"""Policies for tests, written in a line."""

from gateway.core.facts import Facts, PrincipalFacts, RequestFacts
from gateway.policy.loader import Policy, parse_policy
from gateway.policy.ruleset import Ruleset, build_ruleset

FLAG = "{flag: seen}"
CAT = '{rewrite: {prepend_system: "You are a cat."}}'
OVERT = ("cap:", "throttle:", "deny:")


def text_of(match: str, *actions: str, name: str = "p", **spec: object) -> bytes:
    """A policy file with this condition; `spec`: further lines of it as YAML says them."""
    chosen = actions or (FLAG,)
    spec.setdefault("mode", "enforce")
    spec.setdefault("covert", "false" if any(word in action for action in chosen for word in OVERT) else "true")
    lines = "".join(f"  {key}: {value}\n" for key, value in spec.items())
    return f"""apiVersion: catflap/v1
kind: Policy
metadata: {{id: {name}, description: For a test.}}
spec:
{lines}  match: |
    {match}
  actions: [{", ".join(chosen)}]
examples:
  - {{given: {{}}, expect: {{matched: true}}}}
  - {{given: {{}}, expect: {{matched: false}}}}
""".encode()


def policy(match: str, *actions: str, name: str = "p", **spec: object) -> Policy:
    return parse_policy(text_of(match, *actions, name=name, **spec), f"{name}.yaml")


def ruleset(*policies: Policy) -> Ruleset:
    return build_ruleset(policies)


def facts(*texts: str, state: str = "normal", endpoint: str = "chat", plan: str = "free", **principal: object) -> Facts:
    """Facts of a request with these words."""
    return Facts(
        principal=PrincipalFacts(id="prin_1", state=state, plan=plan, **principal),  # type: ignore[arg-type]
        request=RequestFacts(endpoint=endpoint, model="demo", messages=len(texts), text_length=sum(map(len, texts))),
        texts=texts,
    )
