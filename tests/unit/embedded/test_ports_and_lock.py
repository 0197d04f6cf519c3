"""What is refused before anything is started."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.embedded.lock import only_one
from gateway.embedded.ports import Port, check_ports, needed_ports
from gateway.embedded.problem import StartError
from gateway.fleet.file import Endpoint
from gateway.settings import Settings


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_named_with_what_to_set(taken: int) -> None:
    with pytest.raises(StartError, match=rf"Port {taken} on 127.0.0.1, .*data plane.*CATFLAP_PORT"):
        check_ports([Port("the data plane", "127.0.0.1", taken, "CATFLAP_PORT")])


def test_one_port_for_two_purposes_is_refused() -> None:
    with pytest.raises(StartError, match="both a and b: set A or B"):
        check_ports([Port("a", "127.0.0.1", 1024, "A"), Port("b", "127.0.0.1", 1024, "B")])


def test_every_port_of_the_settings_and_of_the_embedded_triton_is_checked() -> None:
    settings = Settings(port=1, admin_port=2, metrics_port=3, admin_metrics_port=4, work_metrics_port=0)
    triton = Endpoint(
        name="t", http="http://127.0.0.1:6", grpc="127.0.0.1:8", metrics="http://127.0.0.1:7/metrics", embedded=True
    )
    assert sorted(port.port for port in needed_ports(settings, [triton])) == [1, 2, 3, 4, 6, 7, 8]


def test_a_data_directory_is_held_by_one_at_a_time_and_freed(tmp_path: Path) -> None:
    refused = pytest.raises(StartError, match=r"Another `catflap up` .* runs on the data directory")
    with only_one(tmp_path / "var"), refused, only_one(tmp_path / "var"):
        pass
    with only_one(tmp_path / "var"):
        pass


def test_a_data_directory_that_cannot_be_made_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="CATFLAP_DATA_DIR"), only_one(tmp_path / "file" / "var"):
        pass
