import json
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
from torch import nn

import initio
from initio.api.live import Live
from initio.api.targets import Target
from initio.cli import serving, status
from initio.core.errors import InitioError
from initio.render.payload import payload
from render.pages import HOSTILE, payload_of

uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'initio[serve]'")
pytest.importorskip("starlette", reason="starlette is not installed: pip install 'initio[serve]'")


def make(width=16, depth=2):
    layers = [each for _ in range(depth) for each in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(16, width), *layers, nn.Linear(width, 4))


@pytest.fixture(scope="module")
def address():
    """A running server; its page is at the address."""
    with serving.bound("127.0.0.1", 0) as listener:
        app = serving.application(Live(Target("net:make", make), "8x16"), "secret")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/secret/"
        server.should_exit = True
        thread.join(20)


def ask(address, data=None, kind="application/json"):
    request = urllib.request.Request(address, data, {"Content-Type": kind} if data is not None else {})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def post(address, changes):
    status_, text = ask(f"{address}change", json.dumps(changes).encode())
    return status_, json.loads(text)


def test_the_page_and_its_answers_are_what_the_library_computes(address):
    status_, text = ask(address)
    assert status_ == 200
    assert "connect-src 'self'" in text
    plain = payload(initio.check(make, "8x16"))
    assert payload_of(text)["points"] == plain["points"]
    status_, data = post(address, {"batch": 32, "arguments": {"width": 24, "depth": 3}})
    assert status_ == 200
    changed = payload(initio.check(lambda: make(24, 3), "32x16"))
    assert [data[name] for name in ("points", "modules", "totals")] == json.loads(
        json.dumps([changed[name] for name in ("points", "modules", "totals")])
    )
    assert changed["totals"] != plain["totals"]


def test_strangers_are_turned_away(address):
    other = address.replace("secret", "guess")
    assert ask(other)[0] == 404
    assert ask(f"{other}change", b"{}")[0] == 404
    assert ask(address.replace("secret/", ""))[0] == 404
    assert ask(f"{address}change")[0] == 405
    assert ask(f"{address}change", b"{}", "text/plain")[0] == 415
    assert ask(f"{address}change", b"{" * 300_000)[0] == 413


def test_errors_are_answers(address):
    assert ask(f"{address}change", b"{")[0] == 400
    status_, data = post(address, {"arguments": {"width": "eval"}})
    assert status_ == 422
    assert "kind int" in data["error"]
    status_, data = post(address, {"sizes": {"0": [7]}})  # the model raises on it
    assert status_ == 200 or "shape" in data["error"]
    status_, data = post(address, {"arguments": {"width": -3}})
    assert status_ == 422
    assert "error" in data
    assert post(address, {})[0] == 200


def test_a_taken_port_and_a_far_host(capsys):
    with serving.bound("127.0.0.1", 0) as listener:
        port = str(listener.getsockname()[1])
        assert status(["serve", "initio.examples.residual:Model", "--port", port]) == 2
        assert f"port {port} of 127.0.0.1 cannot be taken" in " ".join(capsys.readouterr().err.split())
    assert status(["serve", "initio.examples.residual:Model", "--host", "0.0.0.0"]) == 2
    with pytest.raises(InitioError, match="loopback"):
        serving.bound("example.org", 0)


def test_the_command_prints_an_address_with_a_token(monkeypatch, capsys):
    seen = []

    def run(app, listener):
        seen.append(listener.getsockname())
        raise KeyboardInterrupt

    monkeypatch.setattr(serving, "run", run)
    assert status(["serve", "initio.examples.residual:Model", "--port", "0"]) == 0
    address = capsys.readouterr().out.strip()
    assert address.startswith(f"http://127.0.0.1:{seen[0][1]}/")
    assert len(address.rstrip("/").rpartition("/")[2]) >= 32
    with socket.socket() as again:
        again.bind(seen[0])  # the port is free again


def test_hostile_names_stay_data():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module(HOSTILE, nn.Linear(4, 4))

        def forward(self, x):
            return getattr(self, HOSTILE)(x)

    from initio.render.html import lively

    text = lively(Live(Target(HOSTILE, Named), "4x4").payload({"modules": {HOSTILE: {"gain": 2.0}}}))
    assert "<img" not in text
    assert text.count("</script>") == 3
