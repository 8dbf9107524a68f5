"""Archives in memory: what is read, what is refused, and every way to be cut short."""

import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from subpop.datasets import archives
from subpop.datasets.archives import files_in, is_archive
from subpop.types import BadInput

FILES = {f"set/{i}.txt": np.random.default_rng(i).bytes(20_000) for i in range(5)}


def tar(path: Path, files: dict[str, bytes], members: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in members:
            archive.addfile(member)
    return path


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make(path: Path, files: dict[str, bytes]) -> Path:
    return (zipped if path.suffix == ".zip" else tar)(path, files)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_wanted_files_come_back_and_nothing_is_written(tmp_path, name):
    path = make(tmp_path / name, FILES)
    assert is_archive(path)
    assert files_in(path, lambda name: name != "set/3.txt") == {k: v for k, v in FILES.items() if k != "set/3.txt"}
    assert list(tmp_path.iterdir()) == [path]
    assert not is_archive(Path("a.txt"))


CUTS = [(name, share) for name in ("a.tar", "a.tar.gz", "a.zip") for share in (0.0, 0.001, 0.3, 0.61, 0.9)]


@pytest.mark.parametrize(("name", "share"), [*CUTS, ("a.tar.gz", 0.9999), ("a.zip", 0.9999)])  # a plain tar ends in padding
def test_an_archive_cut_short_is_refused(tmp_path, name, share):
    path = make(tmp_path / name, FILES)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BadInput, match=r"a\.(tar|tar\.gz|zip) cannot be read to its end .*fetch it again"):
        files_in(path, lambda name: True)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_a_flipped_byte_is_refused(tmp_path, name):
    path = make(tmp_path / name, FILES)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(BadInput, match="damaged"):
        files_in(path, lambda name: True)


@pytest.mark.parametrize("archive", ["a.tar", "a.zip"])
@pytest.mark.parametrize("name", ["../out.txt", "set/../../out.txt", "/etc/out.txt", "..\\out.txt", "C:\\out.txt"])
def test_a_name_outside_is_refused_even_if_it_is_not_wanted(tmp_path, archive, name):
    path = make(tmp_path / archive, {**FILES, name: b"x"})
    with pytest.raises(BadInput, match="outside its folder"):
        files_in(path, lambda name: name.startswith("set/"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    member = tarfile.TarInfo("set/9.txt")
    member.type, member.linkname = kind, "set/1.txt"
    with pytest.raises(BadInput, match=r"'set/9\.txt', which is a link or a device"):
        files_in(tar(tmp_path / "a.tar", FILES, (member,)), lambda name: True)


def test_a_zipped_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("set/9.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BadInput, match="link"):
        files_in(tmp_path / "a.zip", lambda name: True)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_a_file_too_large_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(archives, "LARGEST", 20_000)
    path = make(tmp_path / name, {**FILES, "set/bomb": bytes(20_001)})
    with pytest.raises(BadInput, match=r"'set/bomb', which has 20001 bytes"):
        files_in(path, lambda name: True)
    assert files_in(make(tmp_path / f"b{name}", FILES), lambda name: True) == FILES


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_files_too_large_together_are_refused_before_they_are_read(tmp_path, monkeypatch, name):
    path = make(tmp_path / name, FILES)
    monkeypatch.setattr(archives, "LARGEST_SUM", 60_000)
    asked = []
    with pytest.raises(BadInput, match="more than 60000 bytes when unpacked, the most allowed"):
        files_in(path, lambda name: bool(asked.append(name)))
    assert asked == ([f"set/{i}.txt" for i in range(3)] if name == "a.tar.gz" else [])
    monkeypatch.setattr(archives, "LARGEST_SUM", 120_000)  # a tar file is padded
    assert files_in(path, lambda name: True) == FILES


def test_what_follows_the_end_of_a_tar_file_counts(tmp_path, monkeypatch):
    path = tar(tmp_path / "a.tar.gz", FILES)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(10_000_000)))
    assert files_in(path, lambda name: True) == FILES
    monkeypatch.setattr(archives, "LARGEST_SUM", 1_000_000)
    with pytest.raises(BadInput, match="more than 1000000 bytes"):
        files_in(path, lambda name: True)


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_given_twice_is_refused(tmp_path, name):
    path = make(tmp_path / name, FILES)
    if name == "a.tar":
        with tarfile.open(path, "a") as archive:
            archive.addfile(tarfile.TarInfo("./set/1.txt"))
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("set/1.txt", b"other")
    with pytest.raises(BadInput, match=r"set/1\.txt', which occurs twice"):
        files_in(path, lambda name: True)


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.tar.gz")
    with pytest.raises(BadInput, match="not a regular file"):
        files_in(tmp_path / "a.tar.gz", lambda name: True)
