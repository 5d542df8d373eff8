"""Fetch the peers into a cache folder, and compile the two C programs. Nothing is installed on the machine.

Debian's packages are downloaded with what the machine lacks of their dependencies, and unpacked: no root, no service
started. npm's are installed at the versions named here. A peer that cannot be had is left out, with the reason.
"""

import functools
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.peers.children import libraries

HERE: Final = Path(__file__).resolve().parent
CACHE: Final = HERE.parent.parent / ".bench"

DEBIAN: Final = {"nginx": "usr/sbin/nginx", "haproxy": "usr/sbin/haproxy", "caddy": "usr/bin/caddy"}
"""The package of each, which is its name, and its program."""

NPM: Final = {"configurable-http-proxy": "5.3.0", "http-proxy": "1.18.1", "workerd": "1.20261117.1"}
"""Pinned, so that figures of different days are of the same programs."""

COMPILED: Final = "portico, compiled"
"""Portico's own packages as `make compiled` leaves them."""

C_PROGRAMS: Final = ("service", "load")
C_FLAGS: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")

INSTALL_TIMEOUT_S: Final = 300.0


class MissingError(Exception):
    """Something cannot be had on this machine; the text says what, and what would help."""


@dataclass(frozen=True)
class Peers:
    """What there is."""

    programs: dict[str, Path] = field(default_factory=dict)
    """By name: those of `DEBIAN`, of `NPM` (the package's folder), ``node``, `COMPILED` (the packages' folder)."""
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Why there is none, by name."""

    def find(self, name: str) -> Path:
        """Give a program's path, or say why there is none."""
        if name in self.programs:
            return self.programs[name]
        raise MissingError(self.missing.get(name, f"{name} was not asked for"))


def compile_programs(cache: Path = CACHE) -> dict[str, Path]:
    """Compile the service and the load, if their sources are newer than what is there.

    Raises:
        MissingError: There is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    cache.mkdir(parents=True, exist_ok=True)
    built = {}
    for name in C_PROGRAMS:
        source, program = HERE / f"{name}.c", cache / name
        newest = max(path.stat().st_mtime for path in (source, HERE / "tools.h"))
        if not program.exists() or program.stat().st_mtime < newest:
            if compiler is None:
                raise MissingError("no C compiler: apt-get install gcc libc6-dev")
            _run([compiler, *C_FLAGS, "-o", str(program), str(source)])
        built[name] = program
    return built


def install(wanted: set[str], cache: Path = CACHE) -> Peers:
    """Fetch those that are wanted and not there yet."""
    peers = Peers()
    if COMPILED in wanted:
        _note(peers, COMPILED, _compiled)
    for name in sorted(wanted & DEBIAN.keys()):
        _note(peers, name, functools.partial(_debian, name, cache))
    if wanted & NPM.keys():
        _note(peers, "node", _node)
        for name in sorted(wanted & NPM.keys()):
            _note(peers, name, functools.partial(_npm, name, cache))
    _note_versions(peers, cache)
    return peers


def _note(peers: Peers, name: str, fetch: Callable[[], Path]) -> None:
    try:
        peers.programs[name] = fetch()
    except MissingError as error:
        peers.missing[name] = str(error)


def _compiled() -> Path:
    packages = HERE.parent.parent / ".compiled" / "packages"
    if not packages.exists():
        raise MissingError("not compiled: see what `make compiled` says")
    return packages


def _debian(name: str, cache: Path) -> Path:
    root = cache / "debian"
    program = root / DEBIAN[name]
    if program.exists():
        return program
    if (found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")) is not None:
        return Path(found)
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise MissingError(f"no {name} on this machine, and no apt-get to fetch it with")
    archives = cache / "archives" / name
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    # Without locking: nothing is installed, so nothing of the system's is written to.
    download = ["apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends", "--download-only"]
    download += ["-o", "Debug::NoLocking=true", "-o", f"Dir::Cache::archives={archives.resolve()}", name]
    try:
        _run(download)
    except MissingError as error:
        # The lists of packages may be old or not there at all.
        if os.geteuid() != 0:
            raise MissingError(f"{error}; `sudo apt-get update` may help") from error
        _run(["apt-get", "update", "--quiet=2"])
        _run(download)
    root.mkdir(exist_ok=True)
    for archive in sorted(archives.glob("*.deb")):
        _run(["dpkg", "-x", str(archive), str(root)])
    if not program.exists():
        raise MissingError(f"Debian's package {name} has no {DEBIAN[name]}")
    return program


def _node() -> Path:
    if (node := shutil.which("node")) is None:
        raise MissingError("no node: apt-get install nodejs npm")
    return Path(node)


def _npm(name: str, cache: Path) -> Path:
    folder = cache / "npm" / "node_modules" / name
    if not folder.exists():
        if shutil.which("npm") is None:
            raise MissingError("no npm: apt-get install nodejs npm")
        # Without scripts of their own: the programs lie in the packages as they are.
        (cache / "npm").mkdir(exist_ok=True)
        install = ["npm", "install", "--prefix", str(cache / "npm"), "--no-audit", "--no-fund", "--ignore-scripts"]
        _run([*install, f"{name}@{NPM[name]}"])
    return folder


def _note_versions(peers: Peers, cache: Path) -> None:
    asked = {"nginx": "-v", "haproxy": "-v", "caddy": "version", "node": "--version"}
    environment = {**os.environ, **libraries(cache)}
    for name, path in peers.programs.items():
        if name == COMPILED:
            continue
        if name in NPM:
            peers.versions[name] = NPM[name]
            continue
        answer = subprocess.run([path, asked[name]], capture_output=True, text=True, check=False, env=environment)
        lines = (answer.stdout + answer.stderr).strip().splitlines()
        peers.versions[name] = lines[0] if lines else "unknown"


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=INSTALL_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"{command[0]} did not work: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise MissingError(f"{command[0]} failed: {lines[-1]}")
