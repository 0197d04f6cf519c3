"""Where Redis is, and the names of its keys."""

import re
from binascii import crc_hqx

import pytest
import typer

from gateway.commands.console import read_settings
from gateway.quota import keys
from gateway.quota.address import Address, ClusterAddress, SentinelAddress, parse_redis_url
from gateway.quota.cluster import SLOTS, read_map, slot_of
from gateway.quota.replies import error_code, is_permanent


@pytest.mark.parametrize(
    ("url", "address", "greeting"),
    [
        ("redis://h", Address(None, "h", 6379, False, None, None, 0), [("PING",)]),
        (
            "rediss://u:p%40@h:1/2",
            Address(None, "h", 1, True, "u", "p@", 2),
            [("AUTH", "u", "p@"), ("SELECT", 2), ("PING",)],
        ),
        ("redis://:p@[::1]:1", Address(None, "::1", 1, False, None, "p", 0), [("AUTH", "p"), ("PING",)]),
        ("unix:///a%20b/r.sock", Address("/a b/r.sock", "", 0, False, None, None, 0), [("PING",)]),
        ("unix:///r.sock?db=3", Address("/r.sock", "", 0, False, None, None, 3), [("SELECT", 3), ("PING",)]),
    ],
)  # fmt: skip
def test_an_address_is_read_from_its_url(url: str, address: Address, greeting: list[tuple[object, ...]]) -> None:
    assert Address.parse(url) == address
    assert Address.parse(url).greeting() == greeting


def test_the_sentinels_of_a_master_are_read_from_its_url() -> None:
    url = "redis+sentinel://u:p%40@a:1,[::1],c:3/catflap-main/2?sentinel_password=s"
    assert parse_redis_url(url) == SentinelAddress(
        tuple(Address(None, host, port, False, None, "s", 0) for host, port in (("a", 1), ("::1", 26379), ("c", 3))),
        "catflap-main",
        Address(None, "", 0, False, "u", "p@", 2),
    )


def test_the_nodes_of_a_cluster_are_read_from_its_url() -> None:
    found = parse_redis_url("rediss+cluster://u:p@a:1,b")
    assert found == ClusterAddress(tuple(Address(None, h, p, True, "u", "p", 0) for h, p in (("a", 1), ("b", 6379))))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://h", "must read redis://"),
        ("h:6379", "must read redis://"),
        ("", "must read redis://"),
        ("unix://", "must read redis://"),
        ("redis://", "must name each server as host:port"),
        ("redis://h:port", "must name each server as host:port"),
        ("redis+cluster://a:1,:2", "must name each server as host:port"),
        ("redis+cluster://a:1,b:99999", "must name each server as host:port"),
        ("redis://h/x", "must end in the number of a database"),
        ("redis://a:1,b:2", "names several hosts"),
        ("redis+sentinel://a:1,b:2", "must end in the name of the master"),
        ("redis+cluster://a:1/3", "a Cluster has only 0"),
    ],
)
def test_what_is_no_address_is_refused_with_a_sentence_that_says_what_to_write(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)) as refusal:
        parse_redis_url(url.replace("://", "://u:secret@", 1))
    assert "secret" not in str(refusal.value)
    with pytest.raises(ValueError, match=re.escape(why)):
        parse_redis_url(url)


def test_no_process_starts_with_an_address_that_is_no_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CATFLAP_REDIS_URL", "redis+sentinel://u:secret@h:1")
    with pytest.raises(typer.Exit):
        read_settings()
    said = capsys.readouterr().err
    assert "CATFLAP_REDIS_URL (must end in the name of the master" in said
    assert "secret" not in said


def test_where_one_server_is_needed_more_are_refused() -> None:
    with pytest.raises(ValueError, match="names more than one server"):
        Address.parse("redis+cluster://a:1")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("MOVED 7 h:1", "MOVED"),
        ("READONLY You can't write against a read only replica. script: abc, on @user_script:1.", "READONLY"),
        ("ERR Error running script (call to f_ab): @user_script:9: @user_script: 9: -READONLY You can't", "READONLY"),
        ("ERR wrong number of arguments", "ERR"),
    ],
)
def test_an_error_reply_is_known_by_its_code_also_inside_a_script(text: str, code: str) -> None:
    assert error_code(text) == code


@pytest.mark.parametrize(
    ("text", "permanent"),
    [
        ("ERR user_script:21: settle: KEYS and ARGV do not fit script: abc, on @user_script:21.", True),
        ("ERR Error running script (call to f_ab): @user_script:9: user_script:9: assertion failed!", True),
        ("ERR Error compiling script (new function): user_script:1: '=' expected near '<eof>'", True),
        ("WRONGTYPE Operation against a key holding the wrong kind of value script: abc, on @user_script:1.", True),
        ("ERR Error running script (call to f_ab): @user_script:9: @user_script: 9: -WRONGTYPE Operation", True),
        ("ERR The user executing the script can't run this command script: abc, on @user_script:1.", False),
        ("ERR Error running script (call to f_ab): @user_script:9: @user_script: 9: Script killed by user", False),
        ("ERR Script killed by user with SCRIPT KILL. script: abc, on @user_script:1.", False),
        ("NOREPLICAS Not enough good replicas to write. script: abc, on @user_script:1.", False),
        ("ERR max number of clients reached", False),
        ("SOMETHING new", False),
    ],
)
def test_only_an_error_of_the_script_or_of_the_key_itself_is_permanent(text: str, permanent: bool) -> None:
    assert is_permanent(text) is permanent


@pytest.mark.parametrize(
    ("key", "slot"),
    [("foo", 12182), (b"bar", 5061), ("{foo}x", 12182), ("a{foo}{bar}", 12182), ("123456789", 12739), ("{}foo", None)],
)
def test_the_slot_of_a_key_is_that_of_its_hash_tag(key: str | bytes, slot: int | None) -> None:
    assert slot_of(key) == (slot if slot is not None else crc_hqx(b"{}foo", 0) % SLOTS)


def test_a_map_is_read_as_the_nodes_write_it() -> None:
    reply = [[0, 5460, [b"10.0.0.1", 1, b"id"], [b"replica", 9, b"id"]], [5461, 16383, [b"", 2, b"id", []]],
             [7, 7, [None, 3, b"id"]], [8, 8, [b"?", 4, b"id"]]]  # fmt: skip
    assert list(read_map(reply, "asked")) == [
        (0, 5460, "10.0.0.1", 1), (5461, 16383, "asked", 2), (7, 7, "asked", 3)
    ]  # fmt: skip


@pytest.mark.parametrize("reply", [b"OK", [[0, 16384, [b"h", 1]]], [[1]], [[5, 4, [b"h", 1]]], [[0, 1, [b"h"]]]])
def test_what_is_no_map_is_refused(reply: object) -> None:
    with pytest.raises(ValueError, match="no map"):
        list(read_map(reply, "asked"))


def test_all_keys_of_a_partition_are_in_one_slot_of_a_cluster() -> None:
    names = [keys.clock_key(3), keys.held_key(3), keys.lease_key(3), keys.events_key(3), keys.epoch_key(3, "{x}"),
             keys.limit_key(3, "{y}", "z")]  # fmt: skip
    assert {name[name.index("{") : name.index("}") + 1] for name in names} == {"{p3}"}
