"""When the disk is called short, and the sentence for an error met while writing."""

import asyncio
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.embedded import disk
from gateway.embedded.problem import StartError

MIB = 1 << 20


def test_a_disk_without_room_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=rf"The disk under {tmp_path} has \d+ MiB left.*CATFLAP_DATA_DIR"):
        disk.check_space(disk.disk(tmp_path), least=1 << 60)
    disk.check_space(disk.disk(tmp_path), least=0)


def test_shared_memory_without_room_is_refused_with_what_a_container_needs(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=rf"The shared memory under {tmp_path} has \d+ MiB left.*--shm-size"):
        disk.check_space(disk.shared_memory(tmp_path), least=1 << 60)


@pytest.mark.parametrize(("place", "name"), [(disk.disk, "Disk"), (disk.shared_memory, "Shared memory")])
async def test_shortness_is_said_once_and_its_end_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Callable[[Path], disk.Place], name: str
) -> None:
    rooms = iter([100, 15, 3, 17, 15, 32, 40])
    said: list[str] = []
    monkeypatch.setattr(disk, "free_bytes", lambda folder: next(rooms) * MIB)
    monkeypatch.setattr(disk, "LOOK_S", 0)
    with pytest.raises(RuntimeError, match="StopIteration"):  # the rooms are used up
        await asyncio.wait_for(disk.watch_space(place(tmp_path), said.append), 5)
    assert [line.split(":")[0] for line in said] == [name, name]
    assert [line.split(":")[1][:20] for line in said] == [" 15 MiB left under /", " there is room again"]
    assert all(str(tmp_path) in line for line in said)


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "is full: free some"), (errno.EACCES, r"cannot be written \(Permission")]
)
def test_an_error_while_writing_names_the_folder_and_what_to_do(tmp_path: Path, number: int, words: str) -> None:
    sentence = disk.cannot_write(tmp_path, OSError(number, os.strerror(number)))
    assert str(tmp_path) in sentence
    assert "CATFLAP_DATA_DIR" in sentence
    assert re.search(words, sentence)
