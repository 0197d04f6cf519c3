"""What users rely on is written down: settings, error codes, metrics, commands, schemas."""

import inspect
import json
import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from gateway.cli import COMMANDS
from gateway.core import errors
from gateway.core.event import event_schema
from gateway.evidence import writer
from gateway.fleet.file import Charge, Cost, Embeddings, Endpoint, Model, TensorModel, fleet_schema
from gateway.identity.issuers import issuers_schema, parse_issuers
from gateway.limits.plans import parse_plan, plan_schema
from gateway.rules import metrics as rules_metrics
from gateway.settings import Settings
from gateway.telemetry import metrics
from gateway.workers import ledger, reclaimer, retention

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_every_setting_is_documented_with_its_default() -> None:
    text = (DOCS / "settings.md").read_text()
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        assert f"| `CATFLAP_{name.upper()}` | {default} |" in text


def test_every_error_code_is_documented_with_its_status() -> None:
    text = (DOCS / "errors.md").read_text()
    for _, error in inspect.getmembers(errors, inspect.isclass):
        if issubclass(error, errors.ApiError) and error.code is not None:
            assert f"| {error.status} | `{error.code}` |" in text


def test_every_metric_is_documented() -> None:
    assert all((metrics, rules_metrics, ledger, reclaimer, retention, writer))  # the modules that define them
    text = (DOCS / "operations.md").read_text()
    names = {family.name for family in REGISTRY.collect() if family.name.startswith("catflap_")}
    assert len(names) > 10
    missing = [name for name in names if not re.search(rf"`{name}(_total)?[`,]", text)]
    assert not missing


def test_every_command_is_in_the_readme_or_the_operations_page() -> None:
    text = (
        (ROOT / "README.md").read_text() + (DOCS / "operations.md").read_text() + (DOCS / "performance.md").read_text()
    )
    assert not [name for name in COMMANDS if f"catflap {name}" not in text]


def test_every_field_of_the_fleet_file_is_documented() -> None:
    text = (DOCS / "fleet.md").read_text()
    for struct in (Endpoint, Model, TensorModel, Cost, Charge, Embeddings):
        missing = [name for name in struct.__struct_fields__ if not re.search(rf"[`{{ ]{name}[`:,}}]", text)]
        assert not missing, struct.__name__


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("triton_models/fleet.schema.json", fleet_schema()),
        ("policies/plans/plan.schema.json", plan_schema()),
        ("docs/request-event.schema.json", event_schema()),
        ("policies/issuers.schema.json", issuers_schema()),
    ],
)
def test_the_published_schemas_are_those_of_the_code(path: str, schema: object) -> None:
    assert json.loads((ROOT / path).read_text()) == json.loads(json.dumps(schema))


def test_the_shipped_plans_load_under_their_own_names() -> None:
    folder = ROOT / "policies" / "plans"
    plans = {path.stem: parse_plan(path.read_bytes(), path.name) for path in folder.glob("*.yaml")}
    assert set(plans) == {"free", "standard", "unlimited"}
    assert all(plan.metadata.id == name for name, plan in plans.items())


def test_the_issuers_file_in_the_readme_can_be_used() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (text,) = [block for block in blocks if "kind: Issuers" in block]
    assert [issuer.name for issuer in parse_issuers(text.encode(), "README.md")] == ["corp"]


def test_each_known_failure_names_tests_that_exist() -> None:
    table = [line for line in (DOCS / "security.md").read_text().splitlines() if line.startswith("| ")][1:]
    code = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(table) > 15
    for line in table:
        named = re.findall(r"`(test_\w+)`", line)
        assert named, line
        assert not [name for name in named if f"def {name}(" not in code]
