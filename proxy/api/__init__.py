"""The management API: what owners drive over HTTP, on the base domain of a stand-alone server.

assembly           all of it, put together: `open_api`
app                routes to operations, and around each of them what all have in common
entrance           from a raw request to a call: key, path, scope, content
calls              how a call is declared, what its handler is given
sandboxes, shares, processes, logs, domains, administration   the native calls
opencomputer, opencomputer_exec, opencomputer_schemas   the calls of OpenComputer's published clients
sessions           commands that somebody talks with
present            how the state model's things look in answers
schemas            what goes in and out, native; discreet: what of it may be printed
openapi, docs_page the document, written from all that, and the page that shows it
keys               who may call: named, scoped, kept as digests only
idempotency        the same change asked for twice is made once
problems           which status an error has
"""
