"""Policy files out of a directory or a git revision: all of them or a sentence, within bounds."""

import os
import subprocess
from pathlib import Path

import pytest

from gateway.policy.document import MAX_BYTES
from gateway.policy.problem import PolicyError
from gateway.policy.ruleset import MAX_POLICIES
from gateway.rules import directory
from gateway.rules.directory import Unreadable, gathered, mark_of, read_directory, read_steady
from gateway.rules.git import read_revision
from gateway.rules.load import Loaded, examine, load, load_examined
from tests.unit.policy.writing import text_of

GOOD = text_of('principal.state == "contained"').decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rules").mkdir()
    return tmp_path


def write(folder: Path, name: str, text: str | bytes = "a: 1\n") -> None:
    path = folder / "rules" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def sentence_of(folder: Path) -> str:
    with pytest.raises(PolicyError) as told:
        read_directory(folder)
    return str(told.value)


def test_yaml_files_are_read_from_all_folders_and_nothing_else_is(folder: Path) -> None:
    for name in ("a.yaml", "b.yml", "deep/er/c.yaml", "d.txt", ".e.yaml", "f.yaml~", ".git/g.yaml"):
        write(folder, name)
    assert sorted(read_directory(folder)) == ["rules/a.yaml", "rules/b.yml", "rules/deep/er/c.yaml"]


def test_files_that_are_links_are_read_as_kubernetes_mounts_them(folder: Path) -> None:
    write(folder, "..2026_11/cat.yaml", "cat: 1\n")
    (folder / "rules" / "..data").symlink_to("..2026_11")
    (folder / "rules" / "cat.yaml").symlink_to("..data/cat.yaml")
    assert read_directory(folder) == {"rules/cat.yaml": "cat: 1\n"}


def test_a_missing_and_an_empty_directory_are_errors(tmp_path: Path) -> None:
    assert "there is no such directory" in sentence_of(tmp_path)
    (tmp_path / "rules").mkdir()
    assert "there is no policy file" in sentence_of(tmp_path)


def test_a_file_of_a_megabyte_is_told_with_its_line_and_not_read_whole(folder: Path) -> None:
    write(folder, "big.yaml", "# a comment line\n" * 65_536)
    lines = MAX_BYTES // 17 + 1
    assert sentence_of(folder).startswith(f"rules/big.yaml, line {lines}: the file has 1,114,112 bytes; a policy may")


def test_what_is_not_text_is_told_with_its_line(folder: Path) -> None:
    write(folder, "latin.yaml", b"a: 1\nb: caf\xe9\n")
    assert sentence_of(folder) == "rules/latin.yaml, line 2: the file is not text in UTF-8."


def test_a_pipe_is_refused_and_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "rules" / "pipe.yaml")
    assert "this is not a file" in sentence_of(folder)


def test_a_link_that_leads_nowhere_may_be_read_later(folder: Path) -> None:
    (folder / "rules" / "gone.yaml").symlink_to("nowhere")
    with pytest.raises(Unreadable, match=r"rules/gone\.yaml: the file cannot be read"):
        read_directory(folder)


def test_number_and_size_of_all_files_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "MAX_TOTAL", 20)
    write(folder, "a.yaml", "a: 1234567890\n")
    write(folder, "b.yaml", "b: 1234567890\n")
    assert "more than 20 bytes together" in sentence_of(folder)
    with pytest.raises(PolicyError, match=f"more than {MAX_POLICIES:,} policies"):
        gathered("the body", {f"{number}.yaml": "" for number in range(MAX_POLICIES + 1)})


def test_a_tree_with_too_many_entries_is_not_walked_to_its_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "MAX_ENTRIES", 3)
    for number in range(4):
        write(folder, f"{number}.txt")
    assert "more than 3 files and folders" in sentence_of(folder)


def test_a_change_of_any_kind_changes_the_mark(folder: Path) -> None:
    write(folder, "a.yaml", "a: 1\n")
    marks = {mark_of(folder)}
    write(folder, "a.yaml", "a: 10\n")
    marks.add(mark_of(folder))
    write(folder, "new.yaml", "b: 1\n")
    marks.add(mark_of(folder))
    os.utime(folder / "rules" / "a.yaml", (1, 1))
    marks.add(mark_of(folder))
    (folder / "rules").rename(folder / "elsewhere")
    marks.add(mark_of(folder))
    assert len(marks) == 5


def test_what_changes_while_it_is_read_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "a.yaml", "half")
    real, times = read_directory, list[int]()

    def interrupted(place: Path) -> object:
        found = real(place)
        if not times:
            write(folder, "a.yaml", "the whole of it")
        times.append(1)
        return found

    monkeypatch.setattr(directory, "read_directory", interrupted)
    assert read_steady(folder).files == {"rules/a.yaml": "the whole of it"}
    assert len(times) == 2


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """With one policy at the first commit, two at the second, and a third that is not committed."""
    policies = tmp_path / "repo" / "policies"
    write(policies, "a.yaml", "first: 1\n")
    git(tmp_path, "init", "-q", "repo")
    git(policies, "add", ".")
    git(policies, "commit", "-qm", "one")
    write(policies, "a.yaml", "second: 2\n")
    write(policies, "deep/b.yml", "b: grüße\n")
    write(policies, "notes.txt")
    git(policies, "add", ".")
    git(policies, "commit", "-qm", "two")
    write(policies, "c.yaml")
    return tmp_path / "repo"


def test_a_git_revision_gives_what_was_committed_then(repository: Path) -> None:
    head = read_revision(repository / "policies", "HEAD")
    assert head.files == {"rules/a.yaml": "second: 2\n", "rules/deep/b.yml": "b: grüße\n"}
    assert head.commit == git(repository, "rev-parse", "HEAD")
    assert read_revision(Path("policies"), "HEAD~1", repository).files == {"rules/a.yaml": "first: 1\n"}


@pytest.mark.parametrize(
    ("folder", "revision", "said"),
    [
        ("policies", "nothing", "there is no commit 'nothing'"),
        ("policies", "--help", "there is no commit '--help'"),
        ("elsewhere", "HEAD", "there is no policy file"),
        ("../..", "HEAD", "outside repository"),
    ],
)
def test_a_revision_that_cannot_be_read_is_told(repository: Path, folder: str, revision: str, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        read_revision(Path(folder), revision, repository)


def test_a_folder_in_no_repository_and_a_link_in_a_revision_are_told(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="not a git repository"):
        read_revision(tmp_path, "HEAD")
    (repository / "policies" / "rules" / "link.yaml").symlink_to("a.yaml")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "three")
    with pytest.raises(PolicyError, match="this is a link"):
        read_revision(repository / "policies", "HEAD")


def test_all_files_are_examined_though_one_is_broken() -> None:
    examined = examine({"a.yaml": "spec: [", "b.yaml": "kind: Policy\n", "c.yaml": GOOD})
    assert [finding.file for finding in examined.errors] == ["a.yaml", "b.yaml", "c.yaml"]
    assert examined.ruleset is None
    assert [policy.document.file for policy in examined.policies] == ["c.yaml"]


def test_an_example_that_fails_is_no_reason_against_what_was_applied_before() -> None:
    assert len(load({"c.yaml": GOOD}).policies) == 1
    with pytest.raises(PolicyError, match=r"c\.yaml, line \d+: this example fails"):
        load_examined({"c.yaml": GOOD})


def test_what_has_not_changed_is_neither_read_nor_tried_again() -> None:
    tried = text_of('principal.state == "contained"', name="new").decode()
    before = Loaded(load({"c.yaml": GOOD}), {"c.yaml": GOOD})
    again = load_examined({"c.yaml": GOOD}, before)
    assert again.policies[0] is before.ruleset.policies[0]
    with pytest.raises(PolicyError, match=r"new\.yaml, line \d+: this example fails"):
        load_examined({"c.yaml": GOOD, "new.yaml": tried}, before)
    with pytest.raises(PolicyError, match=r"c\.yaml, line \d+: this example fails"):
        load_examined({"c.yaml": GOOD + "# changed\n"}, before)
    with pytest.raises(PolicyError, match="is taken by"):
        load_examined({"c.yaml": GOOD, "d.yaml": GOOD}, before)
