"""Files of runs: nothing is written through a link, nothing is read that is none, no path of another machine."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from osrjax.files import (
    FileError,
    check_local,
    check_no_links,
    open_to_append,
    read_arrays,
    read_json,
    read_text,
    write_arrays,
    write_json,
    write_whole,
    writing,
)

WRITERS = {
    "a.txt": lambda path: write_whole(path, b"new"),
    "a.json": lambda path: write_json(path, {"new": 1}),
    "a.npz": lambda path: write_arrays(path, {"new": np.ones(2)}),
}


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("place", ["{}", ".{}.partial"])
@pytest.mark.parametrize("name", WRITERS)
def test_what_a_link_leads_to_is_left_alone(name, place, link, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("of somebody else")
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / name
    link(precious, path.with_name(place.format(name)))
    WRITERS[name](path)
    assert precious.read_text() == "of somebody else"
    assert b"new" in path.read_bytes()
    assert [found.name for found in path.parent.iterdir()] == [name]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "taken.txt").mkdir()
    with pytest.raises(FileError, match="cannot be written"):
        write_whole(tmp_path / "taken.txt", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.txt"]


def test_nothing_is_appended_through_a_link(tmp_path):
    (tmp_path / "log").symlink_to(tmp_path / "precious")
    with pytest.raises(FileError, match="log is a link, and nothing is written through one"), writing(tmp_path / "log"):
        open_to_append(tmp_path / "log")
    assert not (tmp_path / "precious").exists()
    for _ in range(2):
        with open_to_append(tmp_path / "other") as file:
            file.write("line\n")
    assert (tmp_path / "other").read_text() == "line\nline\n"


def test_a_link_anywhere_in_a_directory_is_named(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "latest").symlink_to(tmp_path / "run")
    check_no_links(tmp_path / "latest")  # the user has named that one
    (tmp_path / "run" / "checkpoints" / "5").symlink_to(tmp_path)
    with pytest.raises(FileError, match="latest/checkpoints/5 is a link"):
        check_no_links(tmp_path / "latest")


REMOTE = ("gs://b/run", "s3://b/x.npz", "hdfs://n/x", "file:///x", "npz:gs://b/x.npz", "folder:S3://b", "az+x.y-z://b")
LOCAL = ("runs/a", "/data/sets/x.npz", "npz:/data/x.npz", "npz:x.npz", "folder:../a", "digits", "C:/run", "npz:C:/x",
         "localhost:8476", "module:function", "gamma=1", "a/gs://b", "", None, 3)  # fmt: skip


@pytest.mark.parametrize("path", [*REMOTE, *map(Path, REMOTE[:4])])  # a Path keeps one of the slashes
def test_a_path_of_another_machine_is_refused_by_name(path):
    with pytest.raises(ValueError, match=rf"^out='{str(path)[:3]}.*' is no path of this machine: mount it, or copy"):
        check_local("out", path)


@pytest.mark.parametrize("path", [*LOCAL, Path("runs/a"), Path("/a")])
def test_paths_of_this_machine_and_other_values_pass(path):
    check_local("out", path)


def test_arrays_are_read_back_and_anything_else_is_one_line(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {"x": np.arange(3.0), "labels": np.arange(3), "sure": np.array(True)}
    write_arrays(path, arrays)
    found = read_arrays(path, "do this")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    whole = path.read_bytes()
    np.save(tmp_path / "b.npy", np.arange(3.0))
    contents = [b"", whole[:40], whole[:-30], whole[: len(whole) // 2], bytes(200), (tmp_path / "b.npy").read_bytes()]
    contents += [np.random.default_rng(seed).bytes(300) for seed in range(5)] + [b"\x80\x04N.", b"PK\x03\x04"]
    for content in contents:
        path.write_bytes(content)
        check_line(path)
    for bad in (np.array([1.0, np.nan]), np.array([np.inf]), np.array(["a"]), np.array([None]), np.array([1j])):
        np.savez(path, x=np.ones(2), bad=bad)
        check_line(path)


def test_a_file_that_would_fill_the_memory_is_not_read(tmp_path):
    member = zipfile.ZipInfo("x.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(member, b"")
        member.file_size = 17 * 2**30  # in the directory of the archive
    with pytest.raises(FileError, match=r"\(its arrays would take 17 GiB\): do this"):
        read_arrays(tmp_path / "a.npz", "do this")


def test_a_file_that_takes_more_than_its_readers_limit_is_not_read(tmp_path, monkeypatch):
    write_arrays(tmp_path / "a.npz", {"x": np.zeros(2**18)})  # two MiB, packed into two KiB
    with pytest.raises(FileError, match=r"\(its arrays would take 2 MiB\): do this"):
        read_arrays(tmp_path / "a.npz", "do this", limit=2**20)
    assert len(read_arrays(tmp_path / "a.npz", "do this", limit=2**22)["x"]) == 2**18
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PHYS_PAGES": 1, "SC_PAGE_SIZE": 2**20}[name])
    with pytest.raises(FileError, match=r"its arrays: takes .* GiB, this machine has"):
        read_arrays(tmp_path / "a.npz", "do this")
    (tmp_path / "a.txt").write_bytes(b"12345")
    assert read_text(tmp_path / "a.txt", "do this", limit=5) == "12345"
    with pytest.raises(FileError, match=r"a\.txt cannot be read, .*larger than 0 MiB\): do this"):
        read_text(tmp_path / "a.txt", "do this", limit=4)


def test_what_is_not_asked_for_is_not_unpacked_and_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([1.0, np.nan]), bad=np.array([print]), text=np.array(["a"]))
    assert np.isnan(read_arrays(tmp_path / "a.npz", "do this", names=("x", "none"), finite=False)["x"][1])
    with pytest.raises(FileError, match="it holds no plain arrays"):
        read_arrays(tmp_path / "a.npz", "do this", finite=False)


READERS = {"a.npz": read_arrays, "a.json": read_json, "a.txt": read_text}


@pytest.mark.parametrize("name", READERS)
def test_nothing_is_read_through_a_link_or_from_a_pipe(name, tmp_path):
    WRITERS[name](tmp_path / name)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / name)
    with pytest.raises(FileError, match=rf"run/{name} is a link, and nothing is read through one"):
        READERS[name](tmp_path / "run" / name, "do this")
    (tmp_path / "run" / name).unlink()
    os.mkfifo(tmp_path / "run" / name)
    with pytest.raises(FileError, match="no regular file"):  # opening it would wait for ever
        READERS[name](tmp_path / "run" / name, "do this")
    with pytest.raises(FileError, match=f"{name} is neither a file nor a folder: remove it"):
        check_no_links(tmp_path / "run")


def test_a_file_that_the_user_names_may_be_a_link(tmp_path):
    write_arrays(tmp_path / "a.npz", {"x": np.ones(2)})
    (tmp_path / "b.npz").symlink_to(tmp_path / "a.npz")
    assert read_arrays(tmp_path / "b.npz", "do this", named=True)["x"].tolist() == [1, 1]


def check_line(path):
    with pytest.raises(FileError) as caught:
        read_arrays(path, "do this")
    text = str(caught.value)
    assert text.startswith(f"{path} cannot be read, it is cut or damaged (")
    assert text.endswith("): do this")
    assert "\n" not in text
    assert "pickle" not in text


@pytest.mark.parametrize("text", ["", "[1]", "null", "3", '"a"', '{"a": ', "\x00", "[" * 100_000, "NaN"])
def test_a_json_file_holds_an_object(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(FileError, match=r"^.*a\.json cannot be read, it is cut or damaged \(.+\): do this$"):
        read_json(tmp_path / "a.json", "do this")
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_json(tmp_path / "a.json", "do this") == {"a": 1}
