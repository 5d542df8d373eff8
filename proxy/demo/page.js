// Each part of the page works alone, shows its own state in words, and tries again when its connection is lost.
"use strict";

const element = (id) => document.getElementById(id);
// Relative to the page, so that it works wherever the app is mounted.
const address = (path) => new URL(path, location.href);

// kind: "live", "wait" or "lost"
function show(id, kind, text) {
  const status = element(id);
  status.className = `status ${kind}`;
  if (status.textContent !== text) status.textContent = text;
}

function readable(bytes) {
  const units = ["bytes", "KiB", "MiB", "GiB"];
  const power = bytes < 1 ? 0 : Math.min(3, Math.floor(Math.log2(bytes) / 10));
  return `${(bytes / 1024 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
}

function startClock() {
  let count = 0;
  show("clock-status", "wait", "connecting");
  const source = new EventSource(address("clock"));
  source.onmessage = (event) => {
    const clock = element("clock");
    clock.textContent = clock.dateTime = event.data;
    element("clock-count").textContent = ++count;
    show("clock-status", "live", "live");
  };
  // The browser reconnects by itself, except after an answer that is no event stream.
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) show("clock-status", "lost", "refused");
    else show("clock-status", "wait", "reconnecting");
  };
}

function startEcho() {
  const shown = 4;
  const sent = []; // When each message that has not come back was sent; answers keep the order.
  const controls = [element("echo-input"), element("echo-send"), element("echo-bytes")];
  let socket = null;
  let pause = 1000; // Milliseconds; doubles up to 10 s, so that a door that stays shut is not hammered.

  function enable(on) {
    for (const control of controls) control.disabled = !on;
  }

  function connect() {
    const target = address("echo");
    target.protocol = target.protocol === "https:" ? "wss:" : "ws:";
    show("echo-status", "wait", "connecting");
    socket = new WebSocket(target);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      pause = 1000;
      show("echo-status", "live", "live");
      enable(true);
    };
    socket.onmessage = (event) => {
      const took = performance.now() - sent.shift();
      const text = typeof event.data === "string" ? event.data : `${event.data.byteLength} bytes`;
      const line = document.createElement("li");
      for (const part of [text, `${took.toFixed(1)} ms`]) {
        line.append(Object.assign(document.createElement("span"), { textContent: part }));
      }
      element("echo-output").prepend(line);
      while (element("echo-output").children.length > shown) element("echo-output").lastChild.remove();
    };
    socket.onclose = (event) => {
      sent.length = 0;
      enable(false);
      show("echo-status", "lost", `closed, code ${event.code}`);
      setTimeout(connect, pause);
      pause = Math.min(pause * 2, 10000);
    };
  }

  function send(data) {
    sent.push(performance.now());
    socket.send(data);
  }

  element("echo-form").addEventListener("submit", (event) => {
    event.preventDefault();
    send(element("echo-input").value);
  });
  element("echo-bytes").addEventListener("click", () => send(crypto.getRandomValues(new Uint8Array(1024))));
  connect();
}

// Null where the browser has no digest (plain http, except on localhost) or the file is too large to hold at once.
async function digest(file) {
  if (!globalThis.crypto?.subtle || file.size > 64 * 1024 ** 2) return null;
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function startUpload() {
  const progress = element("upload-progress");
  const result = element("upload-result");
  const input = element("upload-file");

  function finish(kind, status, text) {
    show("upload-status", kind, status);
    result.textContent = text;
    input.disabled = false;
    input.value = ""; // So that the same file can be chosen again.
  }

  function upload(file) {
    input.disabled = true;
    progress.hidden = false;
    progress.value = 0;
    result.textContent = "";
    show("upload-status", "wait", "sending");
    // fetch() cannot tell how much has been sent.
    const request = new XMLHttpRequest();
    request.open("POST", address("upload"));
    request.responseType = "json";
    request.upload.onprogress = (event) => {
      progress.value = event.loaded / (event.total || 1);
      show("upload-status", "wait", `${readable(event.loaded)} sent`);
    };
    request.onerror = () => finish("lost", "failed", "The connection was lost.");
    request.onload = async () => {
      const answer = request.response;
      if (request.status !== 200) {
        finish("lost", "refused", `${request.status}: ${answer?.error ?? request.statusText}`);
        return;
      }
      const own = await digest(file).catch(() => null); // The file may have changed since; then there is no telling.
      const text = `${answer.bytes} bytes, sha256 ${answer.sha256}`;
      if (own === null) finish("live", "arrived", text);
      else if (own === answer.sha256) finish("live", "arrived intact", text);
      else finish("lost", "arrived altered", `${text}, but here it is ${own}`);
    };
    request.send(file);
  }

  input.addEventListener("change", () => {
    if (input.files.length) upload(input.files[0]);
  });
  input.disabled = false;
  show("upload-status", "live", "ready");
}

element("origin").textContent = location.host;
for (const base of document.querySelectorAll(".base")) base.textContent = address(".").href;
startClock();
startEcho();
startUpload();
