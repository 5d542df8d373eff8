"""What is shown of structs: of every one that the API and its client have, whatever is put into it."""

import importlib
import pkgutil
from collections.abc import Iterator

import msgspec
import pytest
import rich.pretty

import proxy.api
import proxy.client
from proxy.api import schemas
from proxy.api.calls import Reply
from proxy.api.discreet import PLAIN, Discreet
from proxy.api.keys import KeyRecord
from proxy.api.opencomputer_schemas import OcCreate, OcPreview, OcRotated
from proxy.client import AsyncClient, AsyncProcess, AsyncSandbox, Client, Process, Sandbox
from proxy.client.calls import Call, PreviewURL
from proxy.client.dialogue import Done

SECRET = "hunter2"

SECRETIVE = ("token", "key", "secret", "digest", "url", "env", "command", "cmd", "args", "cwd", "std", "auth", "query")
"""No field with one of these in its name is plain."""


def modules() -> Iterator[str]:
    for package in (proxy.api, proxy.client):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            yield found.name


def structs() -> list[type[msgspec.Struct]]:
    """Return every struct that is defined in the API or its client, those for a file of our own aside."""
    found = []
    for name in modules():
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == name:
                found.append(value)
    return [kind for kind in found if not kind.__name__.startswith("_") and kind is not Discreet]


STRUCTS = structs()


def test_every_struct_is_looked_at() -> None:
    assert {schemas.NewKey, schemas.Port, OcCreate, PreviewURL, KeyRecord} <= set(STRUCTS)
    assert len(STRUCTS) > 60


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_only_what_is_known_to_be_plain_is_shown(kind: type[msgspec.Struct]) -> None:
    assert issubclass(kind, Discreet)
    for name in kind.__struct_fields__:
        plain = not PLAIN.isdisjoint((name, f"{kind.__name__}.{name}"))
        # A constructor looks at nothing, so any field takes any value.
        values: list[object] = [SECRET, [SECRET], {SECRET: SECRET}, [[SECRET]], SECRET.encode(), [{SECRET: 1}]]
        for value in values:
            one = kind(**{**dict.fromkeys(kind.__struct_fields__), name: value})
            shown = plain and value is SECRET
            for text in (repr(one), str(one), f"{[one]}", rich.pretty.pretty_repr(one)):
                assert (SECRET in text) == shown, name


def test_no_plain_field_is_named_like_a_secret() -> None:
    assert not [name for name in PLAIN if any(word in name.lower() for word in SECRETIVE)]


def test_every_plain_field_is_one() -> None:
    names = {name for kind in STRUCTS for name in kind.__struct_fields__}
    names |= {f"{kind.__name__}.{name}" for kind in STRUCTS for name in kind.__struct_fields__}
    assert names >= PLAIN


def test_what_is_no_secret_is_shown() -> None:
    port = schemas.Port(port=8080, url=SECRET, name="web", token=SECRET, host_header="localhost", status="active")
    ports = schemas.PortList(ports=[port])
    shown = "Port(port=8080, url=****, name='web', token=****, host_header='localhost', status='active')"
    assert repr(ports) == f"PortList(ports=[{shown}])"
    asked = schemas.CreateSandbox(id="my-app", preview_auth=schemas.PreviewAuthRequest(token=SECRET))
    assert repr(asked).startswith("CreateSandbox(id='my-app', container=None, ")
    assert repr(asked).endswith("sleep_after=UNSET, preview_auth=PreviewAuthRequest(scheme='bearer', token=****))")


def test_nor_do_the_faces_of_the_client_show_what_they_hold() -> None:
    info = schemas.Process(id="web", command=SECRET, pid=1, status="running", exit_code=None)
    with Client("http://localhost:1", api_key=SECRET) as client:
        one: object
        for one in (client, Sandbox(client, "my-app"), Process(client, "my-app", info), info):
            assert SECRET not in repr(one)
    other = AsyncClient("http://localhost:1", api_key=SECRET)
    for one in (other, AsyncSandbox(other, "my-app"), AsyncProcess(other, "my-app", info)):
        assert SECRET not in repr(one)
    for value in (Done(SECRET.encode()), Reply(200, {"token": SECRET}), Call("PUT", "/", str, None, (("a", SECRET),))):
        assert SECRET not in repr(value)


@pytest.mark.parametrize(
    "one",
    [
        schemas.NewKey(id="k", name="n", scope="read", created_at="t", key=SECRET),
        schemas.RotatedPreviewAuth(token=SECRET, closed=0),
        schemas.Share(id="s", port=1, expires_at="t", once=False, url=SECRET),
        schemas.StartProcess(command=["x", SECRET], env={"A": SECRET}),
        schemas.Moment(sequence=1, epoch=1, time="t", event="e", fields={"token": SECRET}),
        OcRotated(previewAuthToken=SECRET, scheme="bearer"),
        OcCreate(envs={"A": SECRET}),
        PreviewURL(id="i", sandbox="s", port=1, hostname=SECRET, created_at="t"),
        OcPreview(
            id="i",
            sandboxId="s",
            orgId="o",
            hostname=SECRET,
            port=1,
            sslStatus="active",
            authConfig={"token": SECRET},
            createdAt="t",
        ),
    ],
)
def test_secrets_are_in_no_text(one: object) -> None:
    assert SECRET not in repr(one)
    assert "****" in repr(one)
