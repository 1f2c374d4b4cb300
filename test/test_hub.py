"""Datasets by their Hugging Face id, fetched from a small server on this machine."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_frames import add_episodes

from nac_ros.core.errors import DatasetError
from nac_ros.datasets import hub
from nac_ros.datasets.factory import open_dataset

ID, COMMIT = "lab/pusht", "0123456789abcdef0123456789abcdef01234567"


class HubHandler(BaseHTTPRequestHandler):
    """The part of the Hub's API that a dataset download uses."""

    root: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *args) -> None:
        """Prints nothing."""

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        api, files = f"/api/datasets/{ID}", f"/datasets/{ID}/resolve/"
        if path == f"{api}/revision/broken":
            self._send_half()
        elif path in (api, *(f"{api}/revision/{name}" for name in ("main", "v1", COMMIT))):
            self._send(json.dumps(self._info()).encode(), "application/json", with_body)
        elif path.startswith(f"{api}/tree/"):
            self._send(json.dumps(self._tree()).encode(), "application/json", with_body)
        elif path.startswith(files):
            name = path.removeprefix(files).partition("/")[2]
            self._send((self.root / name).read_bytes(), "application/octet-stream", with_body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("X-Error-Message", "Repository not found")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send_half(self) -> None:
        """Sends half of the answer."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"{")

    def _names(self) -> list[str]:
        found = [p for p in self.root.rglob("*") if p.is_file()]
        return sorted(str(path.relative_to(self.root)) for path in found)

    def _info(self) -> dict:
        siblings = [{"rfilename": name} for name in self._names()]
        return {"id": ID, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}

    def _tree(self) -> list[dict]:
        return [
            {"type": "file", "path": n, "oid": "0" * 40, "size": (self.root / n).stat().st_size}
            for n in self._names()
        ]

    def _send(self, body: bytes, kind: str, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[str, list[str]]]:
    """The address of the server and the requested paths."""
    add_episodes(tmp_path / "served", [40, 40, 40, 40, 40])
    asked: list[str] = []
    handler = type("Handler", (HubHandler,), {"root": tmp_path / "served", "asked": asked})
    served = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_address[1]}", asked
    served.shutdown()
    served.server_close()
    thread.join()


def nac(tmp_path: Path, endpoint: str, *words, **more: str) -> subprocess.CompletedProcess:
    """Runs `nac` in a new process, since the library reads its environment once."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    environment = {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), **more}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-c", "from nac_ros.cli.main import main; raise SystemExit(main())"]
    return subprocess.run(
        [*command, *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )


def train(tmp_path: Path, endpoint: str, data: str, **more: str) -> subprocess.CompletedProcess:
    call = ("tokenizer", "train", "--tokenizer", "bin", "--data", data, "--out", tmp_path / "tok")
    return nac(tmp_path, endpoint, *call, **more)


def test_an_id_is_fetched_once_and_its_revision_is_stored_with_the_run(tmp_path, server):
    endpoint, asked = server
    done = train(tmp_path, endpoint, ID)
    assert done.returncode == 0, done.stderr
    (data,) = json.loads((tmp_path / "tok/run.json").read_text())["data"]
    assert (data["hub"], data["revision"], data["endpoint"]) == (ID, COMMIT, endpoint)
    assert any(path.endswith("meta/info.json") for path in asked)
    asked.clear()
    offline = nac(tmp_path, endpoint, "data", "info", ID, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0 and f"revision   {COMMIT}" in offline.stdout and not asked


def test_a_revision_can_be_given(tmp_path, server):
    endpoint, asked = server
    done = nac(tmp_path, endpoint, "data", "check", f"{ID}@v1")
    assert done.returncode == 0, done.stderr
    assert f"/api/datasets/{ID}/revision/v1" in asked


def test_an_unknown_id_is_rejected_in_one_sentence(tmp_path, server):
    endpoint, _ = server
    done = nac(tmp_path, endpoint, "data", "info", "lab/absent")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "no folder lab/absent" in done.stderr and f"{endpoint} has no such" in done.stderr


def test_no_network_or_an_empty_cache_is_rejected_in_one_sentence(tmp_path):
    unreachable = "http://127.0.0.1:9"
    done = nac(tmp_path, unreachable, "data", "info", ID)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"no folder {ID} here" in done.stderr and f"{unreachable} could not be" in done.stderr
    done = nac(tmp_path, unreachable, "data", "info", ID, HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and "HF_HUB_OFFLINE is set" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_silent_server_is_rejected_in_one_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = nac(tmp_path, endpoint, "data", "info", ID, HF_HUB_ETAG_TIMEOUT="1")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{endpoint} could not be reached (ReadTimeout)" in done.stderr


def test_an_interrupted_download_is_rejected_in_one_sentence(tmp_path, server):
    endpoint, _ = server
    done = nac(tmp_path, endpoint, "data", "info", f"{ID}@broken")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{endpoint} could not be reached (RemoteProtocolError)" in done.stderr


def test_without_a_network_the_cached_copy_is_used_and_reported(tmp_path, server):
    endpoint, _ = server
    assert nac(tmp_path, endpoint, "data", "info", ID).returncode == 0
    done = nac(tmp_path, "http://127.0.0.1:9", "data", "info", ID)
    assert done.returncode == 0 and f"revision   {COMMIT}" in done.stdout
    assert done.stderr.count("\n") == 1 and "the copy in the cache is used" in done.stderr


def test_an_impossible_id_is_not_reported_as_unreachable(tmp_path):
    done = nac(tmp_path, "http://127.0.0.1:9", "data", "info", "lab/push--t")
    assert done.returncode == 2 and "can have that name" in done.stderr


def test_only_valid_ids_are_requested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("absent", "a/b/c", "/lab/pusht", "../lab", "./lab/pusht/", "-x/y"):
        expected = path == "./lab/pusht/"  # pathlib turns it into lab/pusht
        assert hub.is_dataset_id(str(Path(path))) == expected, path
    with pytest.raises(DatasetError, match="no dataset at a/b/c"):
        open_dataset("a/b/c")


def test_a_local_folder_takes_precedence_over_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "fetch", lambda dataset: pytest.fail("it was asked for"))
    add_episodes(tmp_path / ID, [3, 4])
    assert len(open_dataset(ID).episodes) == 2
