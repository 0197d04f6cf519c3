"""Chat templates run in a sandbox and may turn messages away."""

from pathlib import Path

import pytest

from gateway.core.errors import InvalidRequest
from gateway.core.prompt import Message
from gateway.fleet.file import FleetError
from gateway.fleet.template import Renderer, read_template

HI = (Message("user", "hi"),)


def template(folder: Path, source: str) -> Renderer:
    (folder / "t.jinja").write_text(source)
    return read_template(folder / "t.jinja")


def test_a_template_sees_messages_and_the_generation_prompt(tmp_path: Path) -> None:
    render = template(
        tmp_path,
        "{% for m in messages %}[{{ m['role'] }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}",
    )
    assert render((Message("system", "s"), Message("user", "u"))) == "[system]s[user]u>"


def test_what_a_client_writes_is_text_and_no_template(tmp_path: Path) -> None:
    render = template(tmp_path, "{{ messages[0].content }}")
    assert render((Message("user", "{{ 7 * 7 }}{% raw %}"),)) == "{{ 7 * 7 }}{% raw %}"


@pytest.mark.parametrize(
    "escape",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['sys'] }}",
        "{{ messages.append({}) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ nothing.at.all }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
    ],
)
def test_a_template_that_reaches_out_or_fails_refuses_the_request(tmp_path: Path, escape: str) -> None:
    with pytest.raises(InvalidRequest):
        template(tmp_path, escape)(HI)


def test_a_template_may_reject_messages_and_its_words_are_not_relayed(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as refused:
        template(tmp_path, "{{ raise_exception('insides ' + messages[0].content) }}")(HI)
    assert refused.value.param == "messages"
    assert "insides" not in refused.value.message + (refused.value.detail or "")


def test_a_template_that_is_none_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="line 2"):
        template(tmp_path, "\n{% for %}")
    with pytest.raises(FleetError, match="cannot be read"):
        read_template(tmp_path / "none")
