"""Fixtures of all suites live in tests/support, one module a part."""

# A module comes after those it imports: pytest rewrites assertions only in what is not imported yet.
pytest_plugins = [
    "tests.support.postgres",
    "tests.support.redis",
    "tests.support.redis_cluster",
    "tests.support.redis_sentinel",
    "tests.support.databases",
    "tests.support.commands",
    "tests.support.gateways",
    "tests.support.containment",
]
