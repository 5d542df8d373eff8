"""`portico key`: who may use the management API.

Of a server that was named, over its API; of a data folder, in its file of keys, whether a server runs or not: a server
that does reads the file anew.
"""

from typing import Annotated

import cyclopts
from cyclopts import Parameter

from proxy.api import schemas
from proxy.api.keys import KeyFileError, KeyRing, KeysFullError
from proxy.api.present import shown_key, shown_time
from proxy.cli.base import EXIT_FAILED, EXIT_USAGE, app, fail
from proxy.cli.remote import HERE, Where, ask, data_folder, named_server, print_json, print_line, print_table, say

key = cyclopts.App(name="key", help="Make, list and revoke keys of the management API.")
app.command(key)


@key.command
def create(name: Annotated[str, Parameter(name="NAME")], /, *, scope: str = "admin", where: Where = HERE) -> None:
    """Make a key, and print it, this once.

    Only a digest of it is kept.

    Example: portico key create laptop --scope sandbox:my-app

    Parameters
    ----------
    name
        Whose it is, for people.
    scope
        What it may do. admin: everything; read: look at all but secrets; sandbox:ID: everything, of one sandbox.
        Default admin.
    """
    if named_server(where) is not None:
        made = ask(where, lambda client: client.create_key(name, scope))
    else:
        try:
            record, text = _ring(where).create(name, scope)
        except ValueError as error:
            fail(str(error), EXIT_USAGE)
        except (KeyFileError, KeysFullError) as error:
            fail(str(error), EXIT_FAILED)
        made = schemas.NewKey(id=record.id, name=name, scope=scope, created_at=shown_time(record.created_at), key=text)
    if where.json:
        print_json(made)
        return
    print_line(made.key)
    say(f"{made.id}; the key is not shown again")


@key.command(name="list")
def list_(*, where: Where = HERE) -> None:
    """List the keys, without their secrets."""
    if named_server(where) is not None:
        found = ask(where, lambda client: client.list_keys())
    else:
        try:
            records = _ring(where).records()
        except KeyFileError as error:
            fail(str(error), EXIT_FAILED)
        found = [shown_key(one) for one in records]
    if where.json:
        print_json(found)
        return
    print_table(
        ("id", "name", "scope", "created"), [(one.id, one.name, one.scope, one.created_at) for one in found], "no keys"
    )


@key.command
def revoke(key_id: Annotated[str, Parameter(name="ID")], /, *, where: Where = HERE) -> None:
    """Revoke a key: it opens nothing from now on.

    Parameters
    ----------
    key_id
        As portico key list shows it.
    """
    if named_server(where) is not None:
        ask(where, lambda client: client.revoke_key(key_id))
    else:
        try:
            found = _ring(where).revoke(key_id)
        except KeyFileError as error:
            fail(str(error), EXIT_FAILED)
        if not found:
            fail(f"there is no key {key_id}", EXIT_FAILED)
    if where.json:
        print_json({"revoked": key_id})
    else:
        say(f"revoked {key_id}")


def _ring(where: Where) -> KeyRing:
    return KeyRing(data_folder(where))
