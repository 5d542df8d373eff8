"""Hot reloading through a preview URL: the sockets of Vite and of a webpack dev server, in a real browser.

A page is loaded, one of its sources is edited, and the page changes without being loaded again. Both page clients try
other addresses when the page's own does not answer, straight past the preview where browser and service share a
machine: so it is also looked at where their sockets went.

The servers come from npm, in the versions of `dev_servers/package.json`, into pytest's cache folder, once.
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import NO_SKIPS
from tests.e2e.preview import Preview, preview_server

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PACKAGES: Final = Path(__file__).with_name("dev_servers") / "package.json"
INSTALL_S: Final = 300
"""For npm, which fetches some 300 packages; it takes 20 s where the registry is near."""
NODE_MIN: Final = (20, 19)
"""What Vite 7 asks for; webpack asks for less."""
UP_S: Final = 60.0
RELOAD_MS: Final = 30_000
"""For an edit to be seen on the page; it takes a fraction of a second."""

PAGE: Final = '<!doctype html><title>hot</title><p id="text"></p><script type="module" src="/main.js"></script>'
MAIN: Final = """\
import { text } from "./text.js";
const show = (value) => { document.getElementById("text").textContent = value; };
show(text);
"""
VITE_ACCEPT: Final = 'import.meta.hot.accept("./text.js", (changed) => show(changed.text));\n'
WEBPACK_ACCEPT: Final = 'module.hot.accept("./text.js", () => show(text));\n'


def cannot_run(reason: str) -> None:
    if NO_SKIPS:
        pytest.fail(f"{reason}: let .ci/run install it", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def modules(request: pytest.FixtureRequest, require_program: Callable[[str], str]) -> Path:
    """The folder of the installed packages; installed now unless they are, in these versions."""
    node, npm = require_program("node"), require_program("npm")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(int(part) for part in version.removeprefix("v").split(".")[:2]) < NODE_MIN:
        cannot_run(f"node is {version}, and Vite 7 needs 20.19")
    cache = request.config.cache
    assert cache is not None, "these tests need pytest's cache provider"
    wanted = PACKAGES.read_bytes()
    folder = cache.mkdir("dev_servers") / hashlib.sha256(wanted).hexdigest()[:16]
    if not folder.exists():
        unfinished = folder.with_suffix(f".{os.getpid()}")
        unfinished.mkdir()
        (unfinished / "package.json").write_bytes(wanted)
        command = [npm, "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(
                command, cwd=unfinished, capture_output=True, text=True, timeout=INSTALL_S, check=False
            )
            if done.returncode:
                cannot_run(f"npm could not install the dev servers ({done.stderr.strip()[-500:]})")
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder / "node_modules"


@pytest.fixture(scope="module")
def preview(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preview]:
    with preview_server(tmp_path_factory.mktemp("preview")) as running:
        yield running


@contextmanager
def dev_server(folder: Path, command: list[str], port: int, ready: str) -> Iterator[None]:
    """Run a dev server in `folder` until the end of the block, which begins when it has printed `ready`."""
    process = subprocess.Popen(
        ["node", *command],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Its helpers go with it.
        start_new_session=True,
    )
    timer = threading.Timer(UP_S, process.kill)
    with process:
        try:
            timer.start()
            assert process.stdout is not None
            printed = []
            for line in process.stdout:
                printed.append(line)
                if ready in line:
                    break
            else:
                pytest.fail(f"it never was ready on port {port}:\n{''.join(printed)}")
            timer.cancel()
            # Read on, or it would block on a full pipe.
            reader = threading.Thread(target=process.stdout.read, daemon=True)
            reader.start()
            yield
        finally:
            timer.cancel()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    reader.join(UP_S)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def assert_edit_is_seen_without_reload(browser: Browser, preview: Preview, port: int, source: Path) -> None:
    """Load the page of the dev server on `port` by its preview, edit `source`, and see the page change."""
    host = preview.expose(port)
    with browser.new_context() as context:
        page = context.new_page()
        sockets: list[str] = []
        problems: list[str] = []
        page.on("websocket", lambda opened: sockets.append(urlsplit(opened.url).netloc))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"http://{host}/")
        expect(page.locator("#text")).to_have_text("before", timeout=RELOAD_MS)
        wait_for_socket(page, sockets)
        page.evaluate("window.loadedOnce = true")
        source.write_text('export const text = "after";\n', encoding="utf-8")
        expect(page.locator("#text")).to_have_text("after", timeout=RELOAD_MS)
        assert page.evaluate("window.loadedOnce") is True, "the page was loaded again"
        assert set(sockets) == {host}, "a socket went past the preview"
        assert problems == []


def wait_for_socket(page: Page, sockets: list[str]) -> None:
    """Wait until the page's client has asked for its socket: an edit before that is not announced to it."""
    if not sockets:
        page.wait_for_event("websocket", timeout=RELOAD_MS)


def write_sources(folder: Path, main: str) -> Path:
    """Write the page's sources; return the one to edit."""
    (folder / "index.html").write_text(PAGE, encoding="utf-8")
    (folder / "main.js").write_text(main, encoding="utf-8")
    text = folder / "text.js"
    text.write_text('export const text = "before";\n', encoding="utf-8")
    return text


def test_vite_replaces_a_module_through_a_preview(
    browser: Browser, preview: Preview, modules: Path, tmp_path: Path
) -> None:
    source, port = write_sources(tmp_path, MAIN + VITE_ACCEPT), free_port()
    command = [str(modules / "vite" / "bin" / "vite.js"), "--host", "127.0.0.1", "--port", str(port), "--strictPort"]
    with dev_server(tmp_path, command, port, f":{port}"):
        assert_edit_is_seen_without_reload(browser, preview, port, source)


def test_webpack_dev_server_replaces_a_module_through_a_preview(
    browser: Browser, preview: Preview, modules: Path, tmp_path: Path
) -> None:
    source, port = write_sources(tmp_path, MAIN + WEBPACK_ACCEPT), free_port()
    served: dict[str, object] = {"host": "127.0.0.1", "port": port, "hot": "only"}
    # Its page client asks for the server's own port, on whatever host the page came from. Behind any proxy it must be
    # told to ask where the page did; port 0 says so.
    served["client"] = {"webSocketURL": "auto://0.0.0.0:0/ws"}
    # What is static is watched as well, and loads the page again: the sources must not be in it.
    served["static"] = {"directory": str(tmp_path / "public"), "watch": False}
    (tmp_path / "public").mkdir()
    (tmp_path / "index.html").rename(tmp_path / "public" / "index.html")
    config = {
        "mode": "development",
        "entry": str(tmp_path / "main.js"),
        "output": {"filename": "main.js"},
        "resolveLoader": {"modules": [str(modules)]},
        "devServer": served,
    }
    (tmp_path / "webpack.config.json").write_text(json.dumps(config), encoding="utf-8")
    command = [str(modules / "webpack-cli" / "bin" / "cli.js"), "serve", "--config", "webpack.config.json"]
    with dev_server(tmp_path, command, port, "compiled successfully"):
        assert_edit_is_seen_without_reload(browser, preview, port, source)
