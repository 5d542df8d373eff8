"""What callers may catch.

Sorted by what the catcher should do next, not by where the error arose::

    PorticoError                   everything below; `code` is stable, the text is for people
      InvalidNameError             an id, port, token or hostname is not of its form (also a ValueError)
      SecurityError                refused on purpose: reserved port, token in use, too many ports
      CustomDomainRequiredError    this domain cannot carry preview URLs: choose another
      SandboxNotFoundError         there is no such sandbox
      DomainNotFoundError          the sandbox has not asked for that hostname
      DomainNotVerifiedError       what shows that it is the claimant's is not there, or not yet
      SandboxStoppedError          it was stopped for good
      SandboxMismatchError         it exists, but was created otherwise than asked for now
      ShareNotFoundError           there is no such share (any more)
      ShareSpentError              the share opens one session, and has
      RetryableError               nothing is known to have changed: the same call may succeed later
        MailboxFullError           too many messages wait
        TooManyVisitsError         too many visits are under way
        TooManyWakesError          visitors have had it woken too often of late
        ActorBrokenError           an append failed; the sandbox is being rebuilt from its log
        QuarantinedError           it broke too often; it is left alone for a while
        ShuttingDownError          the runtime is closing
      RevocationIncompleteError    new visits are refused, but some live ones did not end in time
      ContainerError               the container could not do it
        ContainerStartError        it did not start, or not in time
        NotListeningError          nothing accepted a connection on that port; `tried` says where
          PortTakenError           something did, but it is another program's
        UnsupportedError           this kind of container has no such operation
        ProcessNotFoundError       no process of that id in this run
      StoreError                   the store, not the sandbox
        StoreLockedError           another process owns the data folder
        AppendFailedError          a record may or may not be on disk: rebuild from the log
        FencedError                another activation has claimed the sandbox since
        LogCorruptError            an operator must look: `offset` says at which byte
        UnknownRecordError         the log was written by a newer version

Misuse by the caller's own code raises ValueError, TypeError or RuntimeError as usual.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Names raise these errors, so this arrow may exist for the type checker only.
    from actors.sandbox.ids import PreviewToken


class PorticoError(Exception):
    """Base of what Portico raises on purpose."""

    code = "PORTICO_ERROR"
    """Stable, upper case; the same string that HTTP answers carry."""


class InvalidNameError(PorticoError, ValueError):
    """An id, port, token or hostname is not of its form; the text names the rule."""

    code = "INVALID_NAME"


class SecurityError(PorticoError):
    """Refused on purpose: the text says which rule, and which port it is about."""

    code = "SECURITY"


class CustomDomainRequiredError(PorticoError):
    """The domain cannot carry preview URLs (``*.workers.dev``)."""

    code = "CUSTOM_DOMAIN_REQUIRED"
    status_code = 400


class SandboxNotFoundError(PorticoError):
    """There is no sandbox of that id."""

    code = "SANDBOX_NOT_FOUND"


class DomainNotFoundError(PorticoError):
    """The sandbox has not asked for that hostname."""

    code = "DOMAIN_NOT_FOUND"


class DomainNotVerifiedError(PorticoError):
    """What its challenge asks for was seen neither in the DNS nor at the hostname; `seen` says what was instead."""

    code = "DOMAIN_NOT_VERIFIED"

    def __init__(self, hostname: str, seen: Sequence[str]) -> None:
        super().__init__(f"{hostname} is not verified: {'; '.join(seen)}")
        self.seen = tuple(seen)
        """One line for each way, without anything that a stranger's site has said."""


class SandboxStoppedError(PorticoError):
    """The sandbox was stopped for good; its ports and processes are gone."""

    code = "SANDBOX_STOPPED"


class SandboxMismatchError(PorticoError):
    """The sandbox exists, but with other settings than the call asks for."""

    code = "SANDBOX_MISMATCH"


class ShareNotFoundError(PorticoError):
    """There is no such share: it was never made, or it has expired or been revoked, or the secret is not its own."""

    code = "SHARE_NOT_FOUND"


class ShareSpentError(PorticoError):
    """The share was to be redeemed once, and has been."""

    code = "SHARE_SPENT"


class RetryableError(PorticoError):
    """Nothing is known to have changed; the same call may be made again, and may succeed a little later."""

    code = "TRY_AGAIN"


class MailboxFullError(RetryableError):
    """More messages wait for this sandbox than its mailbox holds."""

    code = "OVERLOADED"


class TooManyVisitsError(RetryableError):
    """More visits are under way, or wait for a wake, than the sandbox may have."""

    code = "OVERLOADED"


class TooManyWakesError(RetryableError):
    """Visitors, or this one, have had sandboxes woken so often of late that another wake has to wait a while."""

    code = "OVERLOADED"


class ActorBrokenError(RetryableError):
    """An append failed during this call.

    The change may or may not have reached the disk; which one it is, the rebuilt actor will say.
    """

    code = "ACTOR_BROKEN"


class QuarantinedError(RetryableError):
    """The sandbox broke several times in a short while and is left alone until the window has passed."""

    code = "QUARANTINED"


class ShuttingDownError(RetryableError):
    """The runtime is closing and takes no new work."""

    code = "SHUTTING_DOWN"


class RevocationIncompleteError(PorticoError):
    """The revocation is durable and new visits are refused, but live visits outlasted the wait for their end."""

    code = "REVOCATION_INCOMPLETE"

    def __init__(self, message: str, *, remaining: int) -> None:
        super().__init__(message)
        self.remaining = remaining
        """How many visits had been told to end and had not."""
        self.token: PreviewToken | None = None
        """The preview token that was to be returned: it is in force, and told this once. Not shown by `repr`."""


class ContainerError(PorticoError):
    """The container could not do what was asked."""

    code = "CONTAINER"


class ContainerStartError(ContainerError):
    """The container did not start, or was not ready in time."""

    code = "CONTAINER_START"


class NotListeningError(ContainerError):
    """No address of the container accepted a connection on the port."""

    code = "NOT_LISTENING"

    def __init__(self, port: int, tried: Sequence[tuple[str, str]]) -> None:
        """Say what was tried.

        Args:
            port: The port, inside the container.
            tried: Pairs of address and what came of it, such as ``("127.0.0.1", "connection refused")``.
        """
        attempts = "; ".join(f"{address}: {outcome}" for address, outcome in tried)
        super().__init__(f"nothing answers on port {port} ({attempts})")
        self.port = port
        self.tried = tuple(tried)


class PortTakenError(NotListeningError):
    """Something accepts connections on the port, but it is another program of the same host."""

    code = "PORT_TAKEN"

    def __init__(self, port: int, outcome: str = "") -> None:
        """Say so.

        Args:
            port: The port.
            outcome: What came of the service that was to listen there.
        """
        super().__init__(port, [("127.0.0.1", "taken by another program")])
        self.args = (f"port {port} is taken by another program" + (f", and {outcome}" if outcome else ""),)


class UnsupportedError(ContainerError):
    """This kind of container has no such operation."""

    code = "UNSUPPORTED"


class ProcessNotFoundError(ContainerError):
    """No process of that id runs or ran in the current run."""

    code = "PROCESS_NOT_FOUND"


class StoreError(PorticoError):
    """The store failed, whatever the sandbox's state."""

    code = "STORE"


class StoreLockedError(StoreError):
    """Another process owns the data folder; the text says which, where it is known."""

    code = "STORE_LOCKED"


class AppendFailedError(StoreError):
    """A write or sync failed: whether the records are on disk is unknown until the log is read anew."""

    code = "APPEND_FAILED"


class FencedError(StoreError):
    """Another activation has claimed the sandbox; this one must stop answering."""

    code = "FENCED"


class LogCorruptError(StoreError):
    """A record is damaged, missing or out of order, with more behind it. Nothing is repaired silently."""

    code = "LOG_CORRUPT"

    def __init__(self, message: str, *, offset: int) -> None:
        super().__init__(message)
        self.offset = offset
        """Where the first bad record begins, in bytes from the start of the log."""


class UnknownRecordError(StoreError):
    """The log holds an event, or a version of one, that this Portico does not know. It is never skipped."""

    code = "UNKNOWN_RECORD"
