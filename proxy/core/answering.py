"""What a service answered, written for the client: the step between the two machines of the engine."""

from collections.abc import Sequence

from proxy.core.exchange import (
    ExchangeEvent,
    Informational,
    ResponseContent,
    ResponseEnded,
    ResponseStarted,
    SwitchedProtocols,
)
from proxy.core.headers import Forwarding
from proxy.core.http1 import ResponseHead
from proxy.core.serving import ServerConnection


def write_events(http: ServerConnection, forwarding: Forwarding, events: Sequence[ExchangeEvent]) -> bytes:
    """Return what the client is to be sent, in one piece.

    Args:
        http: The machine of the client's connection; it frames the answer.
        forwarding: What becomes of the fields.
        events: What the service's bytes meant, in order.

    Raises:
        BadResponseError: The content does not have the length that was stated. Close the connection.
    """
    out = []
    for event in events:
        if isinstance(event, ResponseContent):
            out.append(http.content(event.data))
        elif isinstance(event, ResponseStarted):
            out.append(http.respond(_forwarded(event.head, forwarding), event.framing))
        elif isinstance(event, ResponseEnded):
            out.append(http.end(event.trailers))
        elif isinstance(event, Informational):
            out.append(http.informational(_forwarded(event.head, forwarding)))
        elif isinstance(event, SwitchedProtocols):
            out.append(http.switch_protocols(_forwarded(event.head, forwarding)))
    return out[0] if len(out) == 1 else b"".join(out)


def _forwarded(head: ResponseHead, forwarding: Forwarding) -> ResponseHead:
    if head.lines is not None:
        head.wires = forwarding.write_plain_response(head.lines)
    else:
        head.fields = forwarding.forward_response(head.fields)
    return head
