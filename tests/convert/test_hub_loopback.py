"""Models by their names on the hub: the real library, against a server on this machine."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from reference_files import write_hf_bin
from tiny_lm import lm

from firstlight.lm import LM

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download of one repository asks for."""

    root: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            files = sorted(p.relative_to(self.root).as_posix() for p in self.root.rglob("*") if p.is_file())
            if "tree" in parts:
                held = [
                    {"type": "file", "path": f, "size": (self.root / f).stat().st_size, "oid": COMMIT} for f in files
                ]
            else:
                held = {
                    "id": "owner/name",
                    "sha": COMMIT,
                    "siblings": [{"rfilename": f} for f in files],
                    "private": False,
                    "downloads": 0,
                    "likes": 0,
                    "tags": [],
                }
            self._send(json.dumps(held).encode(), {"Content-Type": "application/json"}, body)
            return
        file = self.root / "/".join(parts[parts.index("resolve") + 2 :])
        self.asked.append(file.name)
        content = file.read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        self._send(content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}, body)

    def _send(self, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("old", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_name_on_the_hub_is_fetched_and_becomes_a_run(tmp_path, old):
    made = lm("llama", "bpe")
    made.save(tmp_path / "hub")
    if old:
        write_hf_bin(tmp_path / "hub", made.model, shards=2)
        made.tokenizer.save(tmp_path / "hub")
        (tmp_path / "hub" / "tokenizer.json").touch()
    (tmp_path / "hub" / "tf_model.h5").write_bytes(b"never asked for")
    handler = type("Here", (Hub,), {"root": tmp_path / "hub", "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    words = [sys.executable, "-m", "firstlight", "import", "owner/name", str(tmp_path / "run")]
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False
    )
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    read = LM.load_fp32(tmp_path / "run")
    assert torch.equal(read.model.head_weight, made.model.head_weight)
    assert read.tokenizer.encode("The sun") == made.tokenizer.encode("The sun")
    assert "tf_model.h5" not in handler.asked
    assert any(name.endswith(".bin") for name in handler.asked) is old
