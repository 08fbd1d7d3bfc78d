"""What is written: folders and files that are checked before any work, and are whole or not there."""

import resource

import pytest
import torch

from encoder.checkpoints.folder import output_file, output_folder
from encoder.checkpoints.tensors import read_tensors, write_tensors
from encoder.errors import ArgumentError, StorageError


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: p.symlink_to(p.parent / "far" / "away")])
def test_an_output_folder_is_made_and_so_is_what_a_link_says(tmp_path, make):
    make(tmp_path / "out")
    found = output_folder(tmp_path / "out")
    assert found.is_dir()
    assert found == (tmp_path / "out").resolve()


def test_an_output_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    for path in ("file", "file/deeper"):
        with pytest.raises(ArgumentError, match=f"{path} is a file, or lies under one; pass a folder"):
            output_folder(path)
    with pytest.raises(StorageError, match="/proc/x cannot be written"):
        output_folder("/proc/x")
    with pytest.raises(ArgumentError, match="is a folder; pass a file"), output_file(tmp_path):
        pass


def test_an_output_file_is_there_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "out.txt"
    with output_file(path) as aside:
        aside.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"

    def interrupted():
        with output_file(path) as aside:
            aside.write_text("tw")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in path.parent.iterdir()] == ["out.txt"]
    assert path.read_text() == "one"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target.txt")  # which is not there
    with output_file(link) as aside:
        aside.write_text("three")
    assert link.is_symlink()
    assert (tmp_path / "target.txt").read_text() == "three"


def test_a_disk_without_room_for_weights_is_one_line_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"a": torch.ones(3)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a real failure to write, of a real file
    try:
        with pytest.raises(
            StorageError, match=r"safetensors cannot be written .*; free some space"
        ) as refusal:
            write_tensors(path, {"a": torch.ones(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(refusal.value)
    assert torch.equal(read_tensors(path)["a"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
