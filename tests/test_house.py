"""The shape of the house: who may import whom, what is exported, what every module must bring along.

These tests read the tree rather than run it. The plan itself is data, at the head of this file: a change of plan is
a change there, in the same commit as docs/architecture.md.
"""

import ast
import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("actors", "proxy")

# From the bottom to the top; a module may import from its own layer and from those before it. A folder's name stands
# for everything in it.
LAYERS: Mapping[str, Sequence[frozenset[str]]] = {
    "actors": (
        frozenset({"errors", "sandbox", "failures"}),
        frozenset({"store"}),
        frozenset({"core"}),
        frozenset({"files", "layout", "log", "workers", "filestore", "memorystore"}),
        frozenset({"containers"}),
        frozenset({"children", "visits", "messages", "surroundings", "recovery"}),
        frozenset({"held", "revival", "runs", "endings", "activation", "actor"}),
        frozenset({"domains"}),
        frozenset({"shares", "previews", "processes", "handle", "runtime", "history"}),
        frozenset({"testing"}),
    ),
    "proxy": (
        frozenset({"errors", "core"}),
        frozenset({"options", "patience", "accesslog"}),
        frozenset({"transport", "config", "logging", "descriptors", "pump", "local"}),
        frozenset({"upstream", "relay", "outlet", "farewell"}),
        frozenset({"door", "passage", "messages"}),
        frozenset({"application", "appsocket", "gatehouse"}),
        frozenset({"ledger"}),
        frozenset({"reception", "tunnel"}),
        frozenset({"connection", "pipe"}),
        frozenset({"lane"}),
        frozenset({"router", "embedding"}),
        frozenset({"bridge", "websockets"}),
        frozenset({"server", "asgi"}),
        frozenset({"testing", "host", "history", "explain"}),
        frozenset({"doctor", "loadtest", "domains"}),
        frozenset({"api"}),
        frozenset({"demo"}),
        frozenset({"client"}),
        frozenset({"cli"}),
    ),
}

# Pure: no clock, no randomness, no files, no sockets, no tasks. Names of modules, or of folders of them.
PURE = ("actors.errors", "actors.sandbox", "actors.store", "actors.core", "proxy.errors", "proxy.core")

# What pure code may import from outside. A list of what is allowed, because what is not has no end.
PURE_IMPORTS = frozenset(
    """
    __future__ abc base64 binascii bisect collections contextlib copy dataclasses datetime enum functools hashlib
    heapq hmac html ipaddress itertools json keyword math operator re string struct textwrap types typing
    unicodedata urllib.parse
    h11 msgpack msgspec
    """.split()  # noqa: SIM905  # as a list it would take a line for each word
)

# Ways to the clock and to the outside that need no import of their own, or come with an import that is allowed.
IMPURE_CALLS = frozenset({"open", "print", "input", "eval", "exec", "__import__", "now", "utcnow", "today"})

# All public names, one ``package.Name`` a line. Written out so that a name added or lost is seen in review, not
# first by a user.
EXPORTS = frozenset((ROOT / "tests" / "exports.txt").read_text(encoding="utf-8").split())

# Modules without a test file of the same name, and why none is needed.
TESTED_ELSEWHERE = {
    "actors.containers.base": "Protocols; actors.testing checks whoever implements them",
}

LINES_MAX = 600
"""Longer than anybody reads at a sitting; most files here have a third of it."""

TEST_LINES_MAX = 1000
"""Tests are looked up one at a time, not read through."""

# The keeper runs alone, without our packages on its path, so it cannot be taken apart.
LINES_UNLIMITED = frozenset({"CHANGELOG.md", "actors/containers/keeper.py"})
TEXT_SUFFIXES = frozenset({"", ".py", ".md", ".toml", ".yml", ".yaml", ".html", ".css", ".js", ".sh", ".json", ".txt"})
UNTRACKED_FOLDERS = frozenset({"__pycache__", "build", "dist", "portico-data", "results"})


@dataclass(frozen=True)
class Import:
    """One imported name, resolved to the module of ours it comes from where there is one."""

    line: int
    module: str
    """As written, made absolute: ``actors.errors`` in ``from actors.errors import SecurityError``."""
    name: str | None
    """``SecurityError`` there; None for ``import actors.errors``."""
    for_types_only: bool
    """Stands under ``if TYPE_CHECKING``: knowledge, but no dependency when the program runs."""


@dataclass(frozen=True)
class Module:
    """A Python file of ours."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def place(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def layer(self) -> str:
        """The second part of the name, which `LAYERS` speaks of; empty for a package's front page."""
        return self.name.partition(".")[2].partition(".")[0]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_modules(package: str) -> list[Module]:
    paths = sorted((ROOT / package).rglob("*.py"))
    return [Module(module_name(path), path, ast.parse(path.read_bytes(), str(path))) for path in paths]


MODULES = {module.name: module for package in PACKAGES for module in read_modules(package)}


def imports_of(name: str, tree: ast.Module, *, is_package: bool = False) -> Iterator[Import]:
    """Yield every import in a module, those inside functions too."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        typed = id(node) in typing_only
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, None, typed)
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")
            if node.level:
                above = above[: len(above) - node.level + is_package]
            base = ".".join(above) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                yield Import(node.lineno, module, alias.name, typed)


def all_imports() -> Iterator[tuple[Module, Import]]:
    for module in MODULES.values():
        for found in imports_of(module.name, module.tree, is_package=module.path.name == "__init__.py"):
            yield module, found


def target(found: Import) -> str | None:
    """Return the module of ours that an import runs, or None if it is none of ours."""
    if found.name is not None and f"{found.module}.{found.name}" in MODULES:
        return f"{found.module}.{found.name}"
    return found.module if found.module in MODULES else None


def within(name: str, places: Sequence[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def outside_allowed(module: str) -> bool:
    return module.partition(".")[0] in PURE_IMPORTS or module in PURE_IMPORTS


def cycles(graph: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """Return one cycle for each module that can reach itself, shortest first and without repeats."""
    found: dict[frozenset[str], list[str]] = {}
    for start in sorted(graph):
        paths = [[start]]
        seen: set[str] = set()
        while paths:
            path = paths.pop(0)
            for following in sorted(graph[path[-1]]):
                if following == start:
                    found.setdefault(frozenset(path), [*path, start])
                elif following not in seen:
                    seen.add(following)
                    paths.append([*path, following])
    return sorted(found.values(), key=len)


def assert_none(problems: Sequence[str], advice: str) -> None:
    if problems:
        pytest.fail("\n".join([*problems, "", advice]), pytrace=False)


# Who may import whom.


def test_actors_never_import_proxy() -> None:
    problems = [
        f"{module.place}:{found.line} imports {found.module}"
        for module, found in all_imports()
        if module.name.startswith("actors") and within(found.module, ["proxy"])
    ]
    assert_none(problems, "`actors` knows nothing of HTTP. Let the caller in `proxy` pass in what is needed.")


def test_proxy_imports_only_what_actors_exports() -> None:
    problems = []
    for module, found in all_imports():
        if not module.name.startswith("proxy") or not within(found.module, ["actors"]):
            continue
        if module.layer == "testing" and within(found.module, ["actors.testing"]):
            continue
        if target(found) != "actors":
            problems.append(f"{module.place}:{found.line} imports {target(found) or found.module}")
    advice = "`proxy` says `from actors import X`. Where X is missing, export it in actors/__init__.py, or ask why not."
    assert_none(problems, advice)


def test_pure_modules_import_only_pure_ones() -> None:
    problems = []
    for module, found in all_imports():
        if not within(module.name, PURE):
            continue
        ours = target(found)
        fine = (
            # What `actors` exports counts as words of the domain for `proxy.core`.
            within(ours, PURE) or (ours == "actors" and module.name.startswith("proxy"))
            if ours is not None
            else outside_allowed(found.module)
        )
        if not fine:
            problems.append(f"{module.place}:{found.line} imports {ours or found.module}")
    advice = (
        "Pure modules decide and never act: time, random bytes and what was read come in as arguments.\n"
        "If a module of the standard library is pure itself, add it to PURE_IMPORTS in tests/test_house.py."
    )
    assert_none(problems, advice)


def test_pure_modules_ask_no_clock_and_touch_no_file() -> None:
    problems = []
    for module in MODULES.values():
        if not within(module.name, PURE):
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in IMPURE_CALLS or re.search(r"\bdate(time)?\.(now|utcnow|today)$", called):
                    problems.append(f"{module.place}:{node.lineno} calls {called}()")
    assert_none(problems, "Pure modules are given the time and the bytes; see `decide(state, command, now)`.")


def test_only_testing_modules_import_testing_modules() -> None:
    problems = [
        f"{module.place}:{found.line} imports {target(found)}"
        for module, found in all_imports()
        if module.layer != "testing" and within(target(found) or "", ["actors.testing", "proxy.testing"])
    ]
    assert_none(problems, "`testing` needs pytest and hypothesis, which users of the server do not install.")


def test_imports_have_no_cycles() -> None:
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for module, found in all_imports():
        ours = target(found)
        if ours is not None and not found.for_types_only:
            graph[module.name].add(ours)
    problems = [" -> ".join(cycle) for cycle in cycles({name: frozenset(to) for name, to in graph.items()})]
    assert_none(problems, "Move what both need to a module below, or pass a function in.")


def test_imports_point_downwards() -> None:
    height = {
        (package, name): number
        for package, layers in LAYERS.items()
        for number, layer in enumerate(layers)
        for name in layer
    }
    problems = []
    for module, found in all_imports():
        package = module.name.partition(".")[0]
        ours = target(found)
        if ours is None or ours.partition(".")[0] != package or found.for_types_only or not module.layer:
            continue
        here, there = height.get((package, module.layer)), height.get((package, MODULES[ours].layer))
        if here is not None and there is not None and there > here:
            problems.append(f"{module.place}:{found.line} imports {ours}, which stands higher")
    assert_none(problems, "Imports point downwards only: see LAYERS in tests/test_house.py.")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_has_its_layer(package: str) -> None:
    known = frozenset().union(*LAYERS[package])
    there = {module.layer for module in MODULES.values() if module.name.startswith(f"{package}.")}
    problems = [f"{package}.{name} stands in no layer" for name in sorted(there - known)]
    assert_none(problems, "Put it into LAYERS in tests/test_house.py, as low as its imports allow.")


# What is exported.


def exported(package: str) -> frozenset[str]:
    """Return the names that a package's front page offers: ``from x import Y as Y``, and ``__all__``."""
    names: set[str] = set()
    for node in ast.walk(MODULES[package].tree):
        if isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names if alias.name == alias.asname}
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names |= set(ast.literal_eval(node.value))
    return frozenset(names)


@pytest.mark.parametrize("package", PACKAGES)
def test_exported_names_are_the_ones_agreed_on(package: str) -> None:
    names = {f"{package}.{name}" for name in exported(package)}
    agreed = {name for name in EXPORTS if name.startswith(f"{package}.")}
    problems = [f"{name} is new" for name in sorted(names - agreed)]
    problems += [f"{name} is gone" for name in sorted(agreed - names)]
    assert_none(problems, "Users build on these names. If it is meant, change tests/exports.txt and tell CHANGELOG.md.")


@pytest.mark.parametrize("package", PACKAGES)
def test_front_page_imports_nothing_without_exporting_it(package: str) -> None:
    offered = exported(package)
    problems = [
        f"{package}/__init__.py:{found.line} imports {found.name or found.module}"
        for found in imports_of(package, MODULES[package].tree, is_package=True)
        if found.name not in offered
    ]
    assert_none(problems, "The front page re-exports explicitly: `from .x import Y as Y`.")


@pytest.mark.parametrize("package", PACKAGES)
def test_exported_names_exist_and_say_what_they_are(package: str) -> None:
    loaded = importlib.import_module(package)
    problems = []
    for name in sorted(exported(package)):
        thing: object = getattr(loaded, name, None)
        if thing is None:
            problems.append(f"{package}.{name} does not exist")
        elif inspect.isclass(thing) or inspect.isfunction(thing):
            # Of its own: an inherited docstring, or the signature that dataclasses write, explains nothing.
            text = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
            if not text or text.startswith(f"{name}("):
                problems.append(f"{package}.{name} has no docstring")
    assert_none(problems, "Every public name says in a docstring what it is or does.")


# What every module brings along.


def test_every_module_has_its_test_file() -> None:
    problems = []
    for module in MODULES.values():
        if module.path.name in ("__init__.py", "__main__.py") or module.name in TESTED_ELSEWHERE:
            continue
        mirror = Path("tests") / module.path.relative_to(ROOT).with_name(f"test_{module.path.name}")
        if not (ROOT / mirror).exists():
            problems.append(f"{module.place} has no {mirror}")
    advice = "Its tests alone should cover it. Where that makes no sense, give the reason in TESTED_ELSEWHERE."
    assert_none(problems, advice)


def test_exceptions_from_the_rules_are_still_needed() -> None:
    problems = [f"{name}: there is no such module" for name in TESTED_ELSEWHERE if name not in MODULES]
    for name in TESTED_ELSEWHERE.keys() & MODULES.keys():
        path = MODULES[name].path.relative_to(ROOT)
        if (ROOT / "tests" / path.with_name(f"test_{path.name}")).exists():
            problems.append(f"{name}: has a test file of its own now")
    assert_none(problems, "Take it out of TESTED_ELSEWHERE.")


def test_every_module_opens_with_its_idea() -> None:
    problems = [
        f"{module.place} has no docstring"
        for module in MODULES.values()
        if not ast.get_docstring(module.tree) and ast.unparse(module.tree).strip()
    ]
    assert_none(problems, "Say what the module is, what would go wrong without it, and where its boundary lies.")


def test_every_benchmark_runs_by_itself() -> None:
    problems = [
        f"bench/{path.name} has no `if __name__ == '__main__':`"
        for path in sorted((ROOT / "bench").glob("[!_]*.py"))
        if "__name__ == '__main__'" not in ast.unparse(ast.parse(path.read_bytes()))
    ]
    assert_none(problems, "A benchmark answers one question and can be run alone. Helpers begin with an underscore.")


def test_every_example_is_run_by_a_test() -> None:
    runners = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "e2e").glob("test_*.py"))
    problems = [
        f"examples/{path.name} is run by none of tests/e2e"
        for path in sorted((ROOT / "examples").rglob("*.py"))
        if path.name not in runners
    ]
    assert_none(problems, "An example that nothing runs stops working, and it is the first thing people copy.")


@pytest.mark.parametrize("package", PACKAGES)
def test_package_says_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists(), "type checkers ignore our annotations without it (PEP 561)"


def test_compiled_modules_call_nothing_inside_a_slice() -> None:
    """mypyc 2.4 evaluates the bounds of a slice twice: ``rest[send(rest):]`` would send twice."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    included = settings["targets"]["wheel"]["hooks"]["mypyc"]["include"]
    assert included
    problems = [
        f"{place.removeprefix('/')}:{node.lineno}: {ast.unparse(node)}"
        for place in included
        for node in ast.walk(ast.parse((ROOT / place.removeprefix("/")).read_text(encoding="utf-8")))
        if isinstance(node, ast.Slice) and any(isinstance(part, ast.Call | ast.NamedExpr) for part in ast.walk(node))
    ]
    assert_none(problems, "Give what is called a name first.")


def test_tests_do_not_wait_for_the_clock() -> None:
    """A test that sleeps is slow on a fast machine and fails on a slow one."""
    problems = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for function in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(function, ast.AsyncFunctionDef) or not function.name.startswith("test_"):
                continue
            if {argument.arg for argument in function.args.args} & {"autojump_clock", "mock_clock"}:
                continue
            problems += [
                f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}"
                for node in ast.walk(function)
                if isinstance(node, ast.Call)
                and ast.unparse(node.func) in ("trio.sleep", "trio.sleep_until")
                and ast.unparse(node.args[0]) != "0"
            ]
    assert_none(problems, "Take the `autojump_clock` fixture, or wait for an event that says it has happened.")


# The tree as a whole.


def texts() -> Iterator[tuple[str, list[str]]]:
    """Yield the place and the lines of every text file of the project."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part not in (".ci", ".gitignore") for part in parts)
        if hidden or UNTRACKED_FOLDERS & {*parts} or path.suffix not in TEXT_SUFFIXES or not path.is_file():
            continue
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8").splitlines()


def test_no_file_is_too_long_to_read() -> None:
    problems = [
        f"{place} has {len(lines)} lines"
        for place, lines in texts()
        if len(lines) > (TEST_LINES_MAX if place.startswith("tests/") else LINES_MAX) and place not in LINES_UNLIMITED
    ]
    assert_none(problems, f"At most {LINES_MAX} lines: look for the second story in it, and give that its own file.")


def test_no_file_names_somebodys_machine() -> None:
    # Pieced together, so that this file does not find itself.
    folders = "|".join(("home", "Users", "root", "work"))
    hosts = "|".join(("py" + "pi", "python" + "hosted", "npm" + "js"))
    pattern = re.compile(rf"(?<![\w.:/}}-])/(?:{folders})/\w|(?:{hosts})\.(?:org|com)|(?:extra-)?index-" + "url")
    problems = [
        f"{place}:{number} {match[0]}"
        for place, lines in texts()
        for number, line in enumerate(lines, 1)
        if (match := pattern.search(line))
    ]
    assert_none(problems, "Paths of one machine and hosts of package registries have no place in the project.")


def test_links_between_documents_lead_somewhere() -> None:
    problems = []
    for place, lines in texts():
        if not place.endswith(".md"):
            continue
        for number, line in enumerate(lines, 1):
            for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", line):
                ours = "://" not in link and not link.startswith("mailto:")
                if ours and not (ROOT / place).parent.joinpath(link).exists():
                    problems.append(f"{place}:{number} links to {link}")
    assert_none(problems, "A moved file takes its links along.")


def test_changelog_begins_with_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    entries = re.findall(r"^## \[?([0-9][^\]\s]*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert entries[:1] == [version], "pyproject.toml and the top entry of CHANGELOG.md name different versions"


# The reader of imports, on which the rules above lean.


def test_imports_are_found_wherever_they_hide() -> None:
    source = """
import a.b
from .c import d
if TYPE_CHECKING:
    from e import f
def g():
    from .. import h
"""
    found = [(i.module, i.name, i.for_types_only) for i in imports_of("p.q.r", ast.parse(source))]
    assert sorted(found, key=str) == [
        ("a.b", None, False),
        ("e", "f", True),
        ("p", "h", False),
        ("p.q.c", "d", False),
    ]
    inside = imports_of("p.q", ast.parse("from .c import d"), is_package=True)
    assert [found.module for found in inside] == ["p.q.c"]


def test_cycles_are_found_once_each() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"d"}, "e": {"a"}}
    assert cycles({name: frozenset(to) for name, to in graph.items()}) == [["d", "d"], ["a", "b", "c", "a"]]
