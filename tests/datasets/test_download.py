"""Downloads from a server on this machine: checksums, truncation, what is kept and what is left alone."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from subpop.datasets import DATASETS, DatasetSource, MissingData, load_dataset, source_of
from subpop.datasets.download import (
    RemoteFile,
    data_root,
    describe,
    fetch,
    fetch_command,
    fetch_files,
    require_files,
    verify,
    verify_files,
)
from subpop.types import BadInput

BODY = b"39, State-gov\n" * 20_000


class Handler(BaseHTTPRequestHandler):
    """/whole sends the file; /altered one other byte; /truncated half of what it announces; all else is a 404."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        sent = {"/whole": BODY, "/altered": b"x" + BODY[1:], "/truncated": BODY[: len(BODY) // 2]}.get(self.path)
        self.send_response(404 if sent is None else 200)
        self.send_header("Content-Length", str(len(BODY) if sent else 0))
        self.end_headers()
        self.wfile.write(sent or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.asked = []
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def remote(server: ThreadingHTTPServer, path: str, name: str = "rows.csv") -> RemoteFile:
    url = f"http://127.0.0.1:{server.server_address[1]}/{path}"
    return RemoteFile(name, url, hashlib.md5(BODY).hexdigest(), len(BODY))


def kept(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("progress", [True, False])
def test_a_missing_file_is_fetched_once(tmp_path, server, capfd, progress):
    files = (remote(server, "whole"), remote(server, "whole", "more.csv"))
    assert [state.state for state in verify_files("toy", files, tmp_path)] == ["missing", "missing"]
    assert [state.state for state in fetch_files("toy", files, tmp_path, progress)] == ["ok", "ok"]
    assert kept(tmp_path) == ["toy/more.csv", "toy/rows.csv"]
    assert (tmp_path / "toy" / "rows.csv").read_bytes() == BODY
    shown = capfd.readouterr()
    assert ("rows.csv" in shown.err and "280.0/280.0 kB" in shown.err) == progress
    assert shown.out == ""
    assert [state.state for state in fetch_files("toy", files, tmp_path, progress)] == ["ok", "ok"]
    assert server.asked == ["/whole", "/whole"]


@pytest.mark.parametrize("path", ["altered", "truncated"])
def test_a_download_that_differs_is_not_kept(tmp_path, server, path):
    file = remote(server, path)
    with pytest.raises(BadInput) as caught:
        fetch_files("toy", (file,), tmp_path)
    for part in (file.url, str(tmp_path / "toy" / "rows.csv")):
        assert part in str(caught.value)
    assert kept(tmp_path) == []


def test_an_altered_download_names_both_checksums(tmp_path, server):
    found = hashlib.md5(b"x" + BODY[1:]).hexdigest()
    with pytest.raises(BadInput, match=f"{hashlib.md5(BODY).hexdigest()}.*{found}"):
        fetch_files("toy", (remote(server, "altered"),), tmp_path)


def test_a_missing_page_and_a_dead_server_are_bad_input(tmp_path, server):
    with pytest.raises(BadInput, match=r"cannot fetch .*404"):
        fetch_files("toy", (remote(server, "nowhere"),), tmp_path)
    dead = RemoteFile("rows.csv", "http://127.0.0.1:9/rows.csv", "0" * 32, 1)
    with pytest.raises(BadInput, match=r"cannot fetch .*yourself"):
        fetch_files("toy", (dead,), tmp_path)
    assert kept(tmp_path) == []


def test_a_different_file_in_the_way_is_left_alone(tmp_path, server):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "rows.csv").write_bytes(b"mine")
    file = remote(server, "whole")
    with pytest.raises(BadInput, match="left alone: move it away and run: subpop data fetch toy"):
        fetch_files("toy", (file,), tmp_path)
    assert (tmp_path / "toy" / "rows.csv").read_bytes() == b"mine"
    assert server.asked == []
    (state,) = verify_files("toy", (file,), tmp_path)
    assert (state.state, state.found_md5) == ("different", hashlib.md5(b"mine").hexdigest())
    assert state.found_md5 in str(state)


def test_files_that_are_there_are_used(tmp_path):
    file = RemoteFile("rows.csv", "http://127.0.0.1:9/rows.csv", "0" * 32, 1)
    with pytest.raises(MissingData, match=r"rows\.csv not found in .*subpop data fetch toy"):
        require_files("toy", (file,), tmp_path)
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "rows.csv").write_bytes(b"mine")
    assert require_files("toy", (file,), tmp_path) == [tmp_path / "toy" / "rows.csv"]


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path, server):
    (tmp_path / "toy").write_text("in the way")
    with pytest.raises(BadInput, match="cannot fetch"):
        fetch_files("toy", (remote(server, "whole"),), tmp_path)


# --- roots, names, records --------------------------------------------------------------------------------------------


def test_data_root_is_the_option_then_the_variable_then_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBPOP_DATA", str(tmp_path / "variable"))
    assert data_root(str(tmp_path / "option")) == tmp_path / "option"
    assert data_root(None) == tmp_path / "variable"
    monkeypatch.setenv("SUBPOP_DATA", "")
    assert data_root() == Path(pooch.os_cache("subpop"))
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="is a file"):
        data_root(tmp_path / "file")


def test_the_command_names_the_root_where_it_is_another(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBPOP_DATA", str(tmp_path))
    assert fetch_command("adult") == fetch_command("adult", tmp_path) == "subpop data fetch adult"
    assert fetch_command("adult", tmp_path / "a b") == f"subpop data fetch adult --data-root '{tmp_path}/a b'"


def test_records_of_all_data_sets(tmp_path):
    records = {record.name: record for record in describe(tmp_path)}
    assert list(records) == list(DATASETS)
    generated = {name for name, source in DATASETS.items() if source.licence == "generated"}
    assert {"mixture", "reviews"} <= generated
    assert {name for name, record in records.items() if record.ready} == generated | {"digits", "digits_images"}
    downloaded = {name for name, source in DATASETS.items() if source.files}
    assert {"adult", "cifar10", "imdb"} <= downloaded
    assert {name for name, record in records.items() if record.needs_files} == downloaded  # others by hand
    assert records["adult"].megabytes == 6.0
    assert "subpop data fetch adult" in records["adult"].command
    assert records["digits"].command == records["digits"].folder == ""
    assert verify("digits", tmp_path) == fetch("digits", tmp_path) == []
    assert [state.state for state in verify("adult", tmp_path)] == ["missing", "missing"]


def test_a_named_data_set_is_fetched(tmp_path, server, monkeypatch):
    files = (remote(server, "whole"),)
    monkeypatch.setitem(DATASETS, "toy", DatasetSource(lambda root: None, "a toy", "none", files))
    assert [str(state) for state in fetch("toy", tmp_path, progress=False)] == [f"toy: {tmp_path}/toy/rows.csv ok"]
    assert describe(tmp_path)[-1].ready


def test_an_unknown_name_suggests_the_nearest_or_lists_all(tmp_path):
    for ask in (source_of, load_dataset, lambda name: fetch(name, tmp_path), lambda name: verify(name, tmp_path)):
        with pytest.raises(BadInput, match=r"'adlut'; did you mean adult\?$"):
            ask("adlut")
        with pytest.raises(BadInput, match=r"'tables'; use one of digits, mixture, .*adult"):
            ask("tables")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((3,), "a string, not int"), ((None,), "a string, not NoneType"), (("adult", "a/folder"), "give .* a pathlib.Path")],
)
def test_arguments_of_another_type_are_refused(arguments, message):
    with pytest.raises(BadInput, match=message):
        load_dataset(*arguments)
