"""Models of the Hugging Face Hub by name, from a server on this machine that answers as the Hub does."""

import http.server
import json
import os
import subprocess
import sys
import threading

import pytest

import keras_splitmask as ks
from tests.interchange.files_test import make_encoder

pytest.importorskip("huggingface_hub")
COMMIT = "0" * 40
CODE = """
import sys
import keras_splitmask as ks
for name in sys.argv[1:]:
    try:
        encoder = ks.interchange.load_encoder(name, lambda report: print(len(report.loaded), "weights"))
        print(encoder.image_shape)
    except ValueError as error:
        print(error)
"""


@pytest.fixture
def served(tmp_path):
    """The address of a server of the models in a folder, and that folder."""
    models = tmp_path / "models"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            # api/models/OWNER/NAME, the same with /tree/COMMIT at the end, or OWNER/NAME/resolve/COMMIT/FILE.
            parts = self.path.partition("?")[0].strip("/").split("/")
            of_all = parts[0] == "api"
            model = models.joinpath(*(parts[2:4] if of_all else parts[:2]))
            file = model / parts[-1]
            if of_all and model.is_dir():
                files = [
                    {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": path.name}
                    for path in sorted(model.iterdir())
                ]
                of_model = {"id": "/".join(parts[2:4]), "sha": COMMIT}
                content = json.dumps(files if "tree" in parts else of_model).encode()
            else:
                content = file.read_bytes() if file.is_file() and not of_all else None
            self.send_response(200 if content is not None else 404)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{parts[-1]}"')
            self.send_header("Content-Type", "application/json" if of_all else "application/octet-stream")
            self.send_header("Content-Length", str(len(content or b"")))
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound" if model.is_dir() else "RepoNotFound")
            self.end_headers()
            if content and self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", models
        server.shutdown()


@pytest.mark.backend
def test_models_by_name(served, tmp_path):
    address, models = served
    ks.interchange.save_encoder(make_encoder(), models / "someone" / "vit")
    (models / "someone" / "text").mkdir()
    (models / "someone" / "text" / "config.json").write_text("{}")
    names = ["hf:someone/vit", "hf:someone/vit@main", "hf:someone/text", "hf:someone/missing", "hf:no name"]

    def output(address):
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "*"}
        command = [sys.executable, "-c", CODE, *names]
        child = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return child.stdout.splitlines()

    *found, empty, missing, wrong = output(address)
    count = len(ks.interchange.load_encoder(models / "someone" / "vit", lambda report: None).weights)
    assert found == 2 * [f"{count} weights", str(make_encoder().image_shape)]
    assert empty == "Expected model.safetensors or pytorch_model.bin in the model hf:someone/text, received neither."
    assert missing.startswith("Expected a model of the Hugging Face Hub, received hf:someone/missing (")
    assert wrong.startswith("Expected a model of the Hugging Face Hub, received hf:no name (")
    # Without the network, what was downloaded is found, and the rest is one line.
    *found, _, missing, _ = output("http://127.0.0.1:9")
    assert found[:2] == [f"{count} weights", str(make_encoder().image_shape)]
    assert missing.startswith("Expected a model of the Hugging Face Hub, received hf:someone/missing (")
