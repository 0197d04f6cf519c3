"""What comes with Catflap is good: the shipped policies, the schema, and every recipe and name on the page about
them."""

import json
import re
from pathlib import Path

import pytest

from gateway.policy.check import check
from gateway.policy.condition import FUNCTIONS
from gateway.policy.document import read_document
from gateway.policy.loader import parse_policy
from gateway.policy.model import policy_schema
from gateway.policy.ruleset import build_ruleset
from gateway.policy.variables import USER_TEXT, VARIABLES

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "policies" / "rules").glob("*.yaml"))
PAGE = (ROOT / "docs" / "policies.md").read_text()
RECIPES = re.findall(r"### (\d+\. [^\n]+)\n.*?```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_policy_is_good_and_says_in_two_sentences_when_to_use_it(path: Path) -> None:
    policy = parse_policy(path.read_bytes(), path.name)
    assert policy.id == path.stem
    assert policy.file.metadata.description.count(".") >= 2
    assert check([policy], now_s=0) == ()


def test_the_shipped_policies_make_a_ruleset() -> None:
    found = build_ruleset(parse_policy(path.read_bytes(), path.name) for path in SHIPPED)
    assert {policy.id for policy in found.policies} == {
        "canary-key", "catgpt", "decoy", "extraction-probes", "honeypot-model", "slow",
    }  # fmt: skip


def test_the_published_schema_is_that_of_the_code() -> None:
    published = json.loads((ROOT / "policies" / "policy.schema.json").read_text())
    assert published == json.loads(json.dumps(policy_schema()))


def test_there_are_ten_recipes() -> None:
    assert [title.split(".")[0] for title, _ in RECIPES] == [str(number) for number in range(1, 11)]


@pytest.mark.parametrize(("title", "text"), RECIPES, ids=[title for title, _ in RECIPES])
def test_a_recipe_does_what_it_says(title: str, text: str) -> None:
    policy = parse_policy(text.encode(), f"recipe {title}")
    assert [finding for finding in check([policy]) if finding.level == "error"] == []


def test_the_page_names_every_variable_function_and_action() -> None:
    for name, variable in VARIABLES.items():
        assert f"| `{name}` | {variable.type.name().lower()}" in PAGE, name
    assert f"`{USER_TEXT}`" in PAGE
    for function in FUNCTIONS:
        if function.isalpha():
            assert f"`{function}" in PAGE, function
    for action in ("rewrite", "canary", "shadow", "slow", "flag", "cap", "throttle", "deny"):
        assert f"| `{action}`" in PAGE


def test_files_say_off_as_a_word_and_not_as_a_truth_value() -> None:
    for path in SHIPPED:
        document = read_document(path.read_bytes(), path.name).value
        assert isinstance(document, dict)
        spec = document["spec"]
        assert isinstance(spec, dict)
        assert spec["mode"] in ("off", "log", "enforce")
