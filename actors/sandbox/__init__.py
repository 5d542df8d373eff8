"""The state model of one sandbox, pure: no runtime, files, clock or randomness.

::

    ids         names and secrets that cannot be wrong
    events      what has happened: frozen, versioned, the vocabulary of the log
    state       evolve(state, event) -> state; fold; snapshot
    sessions    what a browser shows in place of a secret
    decide      decide(state, command, now) -> events, or a refusal
    admission   admit(state, visit, now) -> grant, refusal or need to wake; still_holds(state, grant, now)

It can be driven by hand::

    state = fold(decide(None, CreateSandbox(SandboxId("my-app")), now=0.0))
    events = decide(state, ExposePort(8080, minted=PortToken("k3v9x0q2m7t1z8aa")), now=1.0)

This is the model to property-test changes against; `actors.testing` has strategies and a state machine for it.
"""

from actors.sandbox.admission import NEEDS_WAKE as NEEDS_WAKE
from actors.sandbox.admission import Admission as Admission
from actors.sandbox.admission import CutBecause as CutBecause
from actors.sandbox.admission import Grant as Grant
from actors.sandbox.admission import NeedsWake as NeedsWake
from actors.sandbox.admission import RefusedBecause as RefusedBecause
from actors.sandbox.admission import VisitRequest as VisitRequest
from actors.sandbox.admission import admit as admit
from actors.sandbox.admission import sign_in as sign_in
from actors.sandbox.admission import still_holds as still_holds
from actors.sandbox.decide import REVOCATIONS as REVOCATIONS
from actors.sandbox.decide import BeginRun as BeginRun
from actors.sandbox.decide import Command as Command
from actors.sandbox.decide import CreateSandbox as CreateSandbox
from actors.sandbox.decide import CreateShare as CreateShare
from actors.sandbox.decide import DestroySandbox as DestroySandbox
from actors.sandbox.decide import EndRun as EndRun
from actors.sandbox.decide import ExposePort as ExposePort
from actors.sandbox.decide import FireAlarm as FireAlarm
from actors.sandbox.decide import Hibernate as Hibernate
from actors.sandbox.decide import NoteExit as NoteExit
from actors.sandbox.decide import RedeemShare as RedeemShare
from actors.sandbox.decide import Refusal as Refusal
from actors.sandbox.decide import RefusalReason as RefusalReason
from actors.sandbox.decide import RevokeShare as RevokeShare
from actors.sandbox.decide import RotatePreviewAuth as RotatePreviewAuth
from actors.sandbox.decide import Rules as Rules
from actors.sandbox.decide import SetPreviewAuth as SetPreviewAuth
from actors.sandbox.decide import SetSleepAfter as SetSleepAfter
from actors.sandbox.decide import StopSandbox as StopSandbox
from actors.sandbox.decide import UnexposePort as UnexposePort
from actors.sandbox.decide import decide as decide
from actors.sandbox.events import AsleepPolicy as AsleepPolicy
from actors.sandbox.events import ContainerSpec as ContainerSpec
from actors.sandbox.events import Event as Event
from actors.sandbox.events import HostHeader as HostHeader
from actors.sandbox.events import HostnameShared as HostnameShared
from actors.sandbox.events import PortExposed as PortExposed
from actors.sandbox.events import PortUnexposed as PortUnexposed
from actors.sandbox.events import PreviewAuthGraceEnded as PreviewAuthGraceEnded
from actors.sandbox.events import PreviewAuthRotated as PreviewAuthRotated
from actors.sandbox.events import PreviewAuthSet as PreviewAuthSet
from actors.sandbox.events import RunEnd as RunEnd
from actors.sandbox.events import RunEnded as RunEnded
from actors.sandbox.events import RunStarted as RunStarted
from actors.sandbox.events import SandboxCreated as SandboxCreated
from actors.sandbox.events import SandboxDestroyed as SandboxDestroyed
from actors.sandbox.events import SandboxStopped as SandboxStopped
from actors.sandbox.events import ServiceExited as ServiceExited
from actors.sandbox.events import ShareCreated as ShareCreated
from actors.sandbox.events import ShareExpired as ShareExpired
from actors.sandbox.events import ShareRedeemed as ShareRedeemed
from actors.sandbox.events import ShareRevoked as ShareRevoked
from actors.sandbox.events import SleepAfterSet as SleepAfterSet
from actors.sandbox.ids import Port as Port
from actors.sandbox.ids import PortToken as PortToken
from actors.sandbox.ids import PreviewToken as PreviewToken
from actors.sandbox.ids import SandboxId as SandboxId
from actors.sandbox.ids import Seal as Seal
from actors.sandbox.ids import ShareId as ShareId
from actors.sandbox.state import Exposure as Exposure
from actors.sandbox.state import PreviewAuth as PreviewAuth
from actors.sandbox.state import SandboxState as SandboxState
from actors.sandbox.state import Sharing as Sharing
from actors.sandbox.state import Status as Status
from actors.sandbox.state import evolve as evolve
from actors.sandbox.state import fold as fold
from actors.sandbox.state import next_alarm as next_alarm
from actors.sandbox.state import restore as restore
from actors.sandbox.state import snapshot as snapshot
