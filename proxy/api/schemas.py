"""What the native API takes and gives: one struct for each request and answer.

Requests refuse fields they do not know, and values of another type: a misspelt setting that is ignored is worse than
an error. Answers may gain fields, so clients ignore the ones they do not know. The same structs are the source of
``/openapi.json`` and what `proxy.client` decodes into; nothing in here knows of HTTP or of the runtime.

What a schema cannot say (a reserved port, an id that is taken otherwise) the state model decides, with its own words.
"""

import atexit
import gc
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, UnsetType, field

from proxy.api.discreet import Discreet

SECONDS_MAX: Final = 366 * 24 * 3600
"""A year: no wait, grace or expiry of ours is meant to be longer."""

ENV_MAX: Final = 256
ARGUMENTS_MAX: Final = 1024
TEXT_MAX: Final = 32 * 1024
"""Of a command, an argument, or a value in an environment; Linux takes 128 KiB (MAX_ARG_STRLEN)."""

KEY_NAME_MAX: Final = 64

SandboxName = Annotated[
    str,
    Meta(
        # The reserved names are refused here too, so that the document says all there is to say of an id.
        pattern=r"^(?!(?:[wW]{3}|[aA][pP][iI]|[aA][dD][mM][iI][nN]|[rR][oO]{2}[tT]|[sS][yY][sS][tT][eE][mM]"
        r"|[cC][lL][oO][uU][dD][fF][lL][aA][rR][eE]|[wW][oO][rR][kK][eE][rR][sS])$)"
        r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,38}[A-Za-z0-9])?$",
        min_length=1,
        max_length=40,
        description="A sandbox's id; upper case is folded.",
        examples=["my-app", "sb-1a2b3c4d"],
    ),
]
PortNumber = Annotated[int, Meta(ge=1, le=65535, description="A TCP port.", examples=[8080])]
DomainName = Annotated[
    str,
    Meta(
        pattern=r"^(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?$",
        min_length=1,
        # So that the longest first label still fits in front of it.
        max_length=189,
    ),
]
# Hyphens in the third and fourth place are for international names in their ASCII form (RFC 5890 section 2.3.1); which
# of these are names at all no pattern can say.
Hostname = Annotated[
    str,
    Meta(
        pattern=r"^(?:(?!(?!xn)[A-Za-z0-9]{2}--)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+"
        r"(?!localhost\.?$)(?!(?!xn)[A-Za-z0-9]{2}--)[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?$",
        min_length=3,
        max_length=253,
        description="A whole hostname, international ones in their ASCII form; upper case is folded.",
        examples=["preview.my-app.com"],
    ),
]
PortTokenText = Annotated[
    str, Meta(pattern=r"^[a-z0-9_]{1,16}$", min_length=1, max_length=16, description="The secret part of a hostname.")
]
PreviewTokenText = Annotated[
    str,
    Meta(
        pattern=r"^(?:auto|[!-~]{16,512})$",
        min_length=4,
        max_length=512,
        description="`auto` to have one minted, or one's own: 16 visible ASCII characters or more.",
    ),
]
Seconds = Annotated[float, Meta(ge=0, le=SECONDS_MAX, description="Seconds.")]
SomeSeconds = Annotated[float, Meta(gt=0, le=SECONDS_MAX, description="Seconds, more than none.")]
Time = Annotated[str, Meta(description="A time in UTC, as ISO 8601 has it.", examples=["2026-11-22T15:30:00+00:00"])]
Label = Annotated[
    str,
    Meta(
        min_length=1, max_length=128, pattern=r"^[ -~\u00a1-\u00ac\u00ae-\u0377]+$", description="A label for people."
    ),
]
KeyName = Annotated[str, Meta(min_length=1, max_length=KEY_NAME_MAX, pattern=r"^[^\x00-\x1f\x7f]*$")]
Scope = Annotated[
    str,
    Meta(
        pattern=r"^(?:admin|read|sandbox:[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?)$",
        max_length=48,
        description="`admin`: all; `read`: look at all but secrets; `sandbox:ID`: all, of one sandbox.",
        examples=["admin", "read", "sandbox:my-app"],
    ),
]
Word = Annotated[str, Meta(max_length=TEXT_MAX, pattern=r"^[^\x00]*$")]
# No environment variable has "=" in its name, and none is without one.
VariableName = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[^=\x00]+$")]
Command = Annotated[
    Annotated[str, Meta(min_length=1, max_length=TEXT_MAX, pattern=r"^[^\x00]*[^\s\x00][^\x00]*$")]
    | Annotated[
        list[Word],
        # The program is not empty: said here, and looked at where commands are.
        Meta(
            min_length=1,
            max_length=ARGUMENTS_MAX,
            extra_json_schema={"prefixItems": [{"type": "string", "minLength": 1, "pattern": r"^[^\x00]+$"}]},
        ),
    ],
    Meta(description="Text for `/bin/sh -c`, or a list to be executed as it is."),
]
Environment = Annotated[dict[VariableName, Word], Meta(max_length=ENV_MAX)]
ProcessName = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", min_length=1, max_length=64, description="A process's id.")
]
SignalNumber = Annotated[int, Meta(ge=1, le=64, description="A signal's number: 15 ends politely, 9 at once.")]

AsleepWord = Literal["wake", "stale"]
HostHeaderWord = Literal["localhost", "preserve"]
RestartWord = Literal["never", "on-failure", "always"]
SleepAfter = Annotated[float, Meta(ge=1, le=SECONDS_MAX, description="Idle seconds.")]


# msgspec 0.22 now and then ends the interpreter with SIGSEGV: when structs that hold each other are collected at its
# exit, what is known of one's fields is freed after the field's own struct (StructInfo_dealloc in TypeNode_Free). What
# is frozen is not collected; the process ends anyway.
atexit.register(gc.freeze)


class Request(Discreet, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Base of what is sent to the API."""


class Answer(Discreet, frozen=True, kw_only=True):
    """Base of what the API answers."""


# Problems.


class Problem(Answer, frozen=True, kw_only=True):
    """What every refusal looks like."""

    error: str
    """For people; may change."""
    code: str
    """For programs; stable."""


class IncompleteRevocation(Problem, frozen=True, kw_only=True):
    """What was asked for is done and kept: new visits are refused. But some live ones have not ended in time."""

    remaining: Annotated[int, Meta(description="Live requests and streams that had been told to end and had not.")]
    token: Annotated[str, Meta(description="The preview token that is in force, told this once.")] | UnsetType = UNSET
    """Of a call that sets one."""


# Sandboxes.


class ContainerRequest(Request, frozen=True, kw_only=True):
    """Where a sandbox's services run."""

    kind: Annotated[str, Meta(min_length=1, max_length=64)] = "process"
    options: dict[str, str | bool | int] = field(default_factory=dict)
    """What the kind wants to know. `process` takes `sleep`: `stop` (default) ends the processes when the sandbox goes
    to sleep, and the wake starts them again; with `freeze` they stand still and keep what they have in memory. Kept in
    the log in clear: no secrets."""


class PreviewAuthRequest(Request, frozen=True, kw_only=True):
    """A gate in front of all of a sandbox's previews."""

    scheme: Literal["bearer"] = "bearer"
    token: PreviewTokenText = "auto"  # noqa: S105  a word, not a password


class CreateSandbox(Request, frozen=True, kw_only=True):
    """What a sandbox is to be like. What is left out is as it is, or, of a new one, the default."""

    id: SandboxName | None = None
    """None: one is made up."""
    container: ContainerRequest | None = None
    open_ports: bool | None = None
    """Whether `sb-…-p8080` hostnames reach every port without a token."""
    when_asleep: AsleepWord | None = None
    """What a visitor with a right credential meets while the sandbox is asleep."""
    sleep_after: SleepAfter | UnsetType | None = UNSET
    """Idle seconds after which it goes to sleep; null: never."""
    preview_auth: PreviewAuthRequest | None = None
    """Makes it private from its first moment. One that exists already must have just that token."""


class ChangeSandbox(Request, frozen=True, kw_only=True):
    """What is to be otherwise from now on; what is left out stays as it is."""

    sleep_after: SleepAfter | UnsetType | None = UNSET
    """Idle seconds after which it goes to sleep; null: never."""


class Port(Answer, frozen=True, kw_only=True):
    """An exposed port."""

    port: int
    url: str | None
    """The preview URL. Null to keys that may only look: it is a secret."""
    name: str | None
    token: str | None
    """The secret in the URL; null where `url` is."""
    host_header: HostHeaderWord
    """Which Host the service sees."""
    status: Literal["active", "asleep"]


class Sandbox(Answer, frozen=True, kw_only=True):
    """A sandbox as it was when asked."""

    id: str
    status: Literal["running", "asleep", "stopped"]
    container: str
    """The kind of place its services run in."""
    open_ports: bool
    when_asleep: AsleepWord
    sleep_after: float | None = None
    preview_auth: bool
    """Whether visitors must bear a token."""
    ports: list[Port]
    created_at: str | None = None
    """Null if nobody knows any more: its log was made short by a Portico that did not keep it."""
    preview_auth_token: str | None = None
    """Told once, in the answer to the request that set the gate."""


class SandboxList(Answer, frozen=True, kw_only=True):
    """A page of sandboxes, by id."""

    sandboxes: list[Sandbox]
    next: str | None
    """Ask again with `after` set to this; null at the end."""


class Closed(Answer, frozen=True, kw_only=True):
    """What a revocation cut."""

    closed: int
    """Live requests and streams that were ended."""


class Destroyed(Closed, frozen=True, kw_only=True):
    """What destroying a sandbox cut."""

    existed: bool = True
    """False: there was none of that name (any more), so nothing was destroyed."""


# Ports.


class ExposePort(Request, frozen=True, kw_only=True):
    """A preview URL to be; what is left out stays as it is."""

    name: Label | None = None
    token: PortTokenText | None = None
    """None keeps the token it has, or mints one."""
    host_header: HostHeaderWord | None = None
    domain: DomainName | None = None
    """The base domain for the URL; None: the server's first."""
    wake_on_websocket: bool | None = None
    """Whether a WebSocket handshake wakes the sandbox."""


class PortList(Answer, frozen=True, kw_only=True):
    """The exposed ports of a sandbox, by number."""

    ports: list[Port]


# Shares.


class CreateShare(Request, frozen=True, kw_only=True):
    """A link that opens a private preview for whoever holds it."""

    expires_in: SomeSeconds
    once: bool = False
    """Whether it opens for one browser only."""
    custom_hostname: Hostname | None = None
    """A custom hostname that leads to the port, for the link to be on; null: a hostname of its own."""


class Share(Answer, frozen=True, kw_only=True):
    """A link that was given away."""

    id: str
    port: int
    expires_at: str
    once: bool
    url: str | None = None
    """Told once, when it is made."""
    custom_hostname: str | None = None
    """The custom hostname that it is for; null: it has a hostname of its own."""


class ShareList(Answer, frozen=True, kw_only=True):
    """The links of a port that are in force."""

    shares: list[Share]


# The gate.


class SetPreviewAuth(Request, frozen=True, kw_only=True):
    """The token that visitors must bear from now on."""

    token: PreviewTokenText = "auto"  # noqa: S105  a word, not a password


class PreviewAuth(Answer, frozen=True, kw_only=True):
    """The token that is in force, told this once."""

    token: str


class RotatePreviewAuth(Request, frozen=True, kw_only=True):
    """Another token in place of the one that is in force."""

    grace: Seconds = 0.0
    """For how long the old one opens too."""
    token: PreviewTokenText = "auto"  # noqa: S105  a word, not a password


class RotatedPreviewAuth(Answer, frozen=True, kw_only=True):
    """The new token, told this once."""

    token: str
    closed: int
    """Live requests and streams that had leaned on the old one and were ended."""


# Processes.


class StartProcess(Request, frozen=True, kw_only=True):
    """A service to be started."""

    command: Command
    cwd: Annotated[str, Meta(max_length=4096, pattern=r"^[^\x00]*$")] | None = None
    env: Environment = field(default_factory=dict)
    id: ProcessName | None = None
    restart: RestartWord = "never"
    """What happens when it exits by itself; the pauses grow from a tenth of a second to a minute."""


class Process(Answer, frozen=True, kw_only=True):
    """A service of the current run, or one that is frozen while its sandbox sleeps."""

    id: str
    command: str
    pid: int
    status: Literal["running", "restarting", "frozen", "exited"]
    exit_code: int | None
    """Of its last end; null while it runs; minus the signal's number if a signal ended it."""
    restarts: int = 0
    """How often it was started again after it had exited by itself."""


class ProcessList(Answer, frozen=True, kw_only=True):
    """The processes of the current run, exited ones included, in order of start."""

    processes: list[Process]


class Kill(Request, frozen=True, kw_only=True):
    """A signal to be sent."""

    signal: SignalNumber = 15


class WaitForPort(Request, frozen=True, kw_only=True):
    """A port that a process is to listen on."""

    port: PortNumber
    timeout: Annotated[float, Meta(gt=0, le=600)] = 30.0


class Exec(Request, frozen=True, kw_only=True):
    """A command to be run to its end."""

    command: Command
    cwd: Annotated[str, Meta(max_length=4096, pattern=r"^[^\x00]*$")] | None = None
    env: Environment = field(default_factory=dict)
    timeout: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    """Seconds after which it is killed."""


class ExecResult(Answer, frozen=True, kw_only=True):
    """How a command ended."""

    exit_code: int
    stdout: str
    """As UTF-8; what is none is replaced."""
    stderr: str
    truncated: bool
    """Whether more was printed than is kept."""


# The past, and why.


class Moment(Answer, frozen=True, kw_only=True):
    """One record of a sandbox's log, secrets masked."""

    sequence: int
    epoch: int
    time: Time
    event: str
    # Any: the plain values of whatever event it is.
    fields: dict[str, Any]


class History(Answer, frozen=True, kw_only=True):
    """A sandbox's log, oldest first."""

    events: list[Moment]


class Step(Answer, frozen=True, kw_only=True):
    """One question that was asked on the way of a request; the last one decided."""

    question: str
    answer: str
    because: str


class Outcome(Answer, frozen=True, kw_only=True):
    """What a visitor gets."""

    status: int | None
    """Null where the answer is not the router's: it is the service's, which is not asked, or, on a base domain, this
    API's."""
    code: str
    """Of the router's answer; else `ADMITTED`, `WAKES` (first, that is), `OWN_PAGE`, `SHARE_OPENS` or
    `NOT_A_PREVIEW`."""
    text: str
    """The same in words."""


class Explanation(Answer, frozen=True, kw_only=True):
    """The chain of decisions for a URL."""

    url: str
    """Without its token and query."""
    sandbox: str | None
    """The one that the host names, whether it exists or not."""
    steps: list[Step]
    outcome: Outcome


# Keys.


class CreateKey(Request, frozen=True, kw_only=True):
    """A key to be made."""

    name: KeyName
    scope: Scope


class Key(Answer, frozen=True, kw_only=True):
    """A key of the API, without its secret."""

    id: str
    name: str
    scope: str
    created_at: Time


class NewKey(Key, frozen=True, kw_only=True):
    """A key, and its secret this once: only a digest of it is kept."""

    key: str


class KeyList(Answer, frozen=True, kw_only=True):
    """The keys in force."""

    keys: list[Key]


# Custom domains.


class BindDomain(Request, frozen=True, kw_only=True):
    """What a whole hostname is to lead to."""

    sandbox: SandboxName
    port: PortNumber


class Challenge(Answer, frozen=True, kw_only=True):
    """How the owner of a hostname shows that it is theirs: either of two ways will do. No secret."""

    txt_name: str
    """Where a TXT record is looked for,"""
    txt_value: str
    """and what it must hold, among whatever else is there."""
    http_path: str
    """What is fetched from the hostname by plain HTTP, and must answer 200 with"""
    http_body: str
    """this, and nothing else but white space."""


class CustomDomain(Answer, frozen=True, kw_only=True):
    """A hostname that a sandbox has asked for, and the port that it leads to."""

    hostname: str
    sandbox: str
    port: int
    verified: bool
    """Whether it serves, while that port is exposed."""
    challenge: Challenge


class CustomDomainList(Answer, frozen=True, kw_only=True):
    """A page of hostnames that were asked for, by name."""

    domains: list[CustomDomain]
    next: str | None
    """Ask again with `after` set to this; null at the end."""


# Health.


class Health(Answer, frozen=True, kw_only=True):
    """The server is there."""

    status: Literal["ok"]
