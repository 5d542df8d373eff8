"""`portico explain`: why a preview URL gets the answer it gets, now or at a time past.

Asked of a server where one can be reached; else read from the logs of the data folder, which hold the same state.
"""

import time
from functools import partial
from typing import Annotated

from cyclopts import Parameter

from actors import Domain
from proxy.api import schemas
from proxy.api.present import shown_explanation
from proxy.cli.base import EXIT_USAGE, app, console, fail, run
from proxy.cli.remote import (
    HERE,
    Where,
    ask,
    local_server,
    named_server,
    print_json,
    print_line,
    print_table,
)
from proxy.cli.settings import SettingsFlags, resolve_settings
from proxy.core.diagnosis import BadURLError
from proxy.explain import explain_url, past_state
from proxy.history import parse_time


@app.command
def explain(
    url: Annotated[str, Parameter(name="URL")],
    /,
    *,
    at: str | None = None,
    where: Where = HERE,
) -> None:
    """Tell step by step why a visit to a URL is admitted or refused.

    The visit is one without a preview token. Nothing is woken by asking, and the service is not asked: a server tries
    whether it takes a connection. Works without a server, from the logs of the data folder; then the base domains are
    those of PORTICO_DOMAINS or the default. Tokens are masked.

    Example: portico explain http://8080-my-app-k3v9x0q2m7t1z8aa.localhost:8787/ --at 2026-11-22T15:30:00Z

    Parameters
    ----------
    url
        As expose_port() returned it.
    at
        Explain what it met at that time (2026-11-22T15:30:00Z, or seconds since 1970). Default: now.
    """
    try:
        moment = None if at is None else parse_time(at)
    except ValueError as error:
        fail(str(error), EXIT_USAGE)
    settings = resolve_settings(SettingsFlags(data_folder=where.data_folder)).settings
    if named_server(where) is not None or local_server(settings.data_folder) is not None:
        explained = ask(where, lambda client: client.explain(url, at=moment))
    else:
        asked = time.time() if moment is None else moment
        domains = [Domain(domain) for domain in settings.domains]

        async def read() -> schemas.Explanation:
            try:
                state_of = partial(past_state, settings.data_folder, asked)
                return shown_explanation(await explain_url(url, domains, state_of, asked))
            except BadURLError as error:
                fail(str(error), EXIT_USAGE)

        explained = run(read)
    if where.json:
        print_json(explained)
        return
    rows = [(step.question, step.answer, step.because) for step in explained.steps]
    print_table(("step", "answer", "because"), rows, "")
    outcome = explained.outcome
    status = "" if outcome.status is None else f"{outcome.status} "
    console().print()
    print_line(f"{status}{outcome.code}: {outcome.text}")
