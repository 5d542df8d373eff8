"""The actor runtime: sandboxes, their ports and tokens, and who may visit them. It knows nothing of HTTP.

::

    sandbox/     the state model, pure: ids, events, evolve, decide, admission, URLs
    core/        the runtime's own pure parts: records, lifecycle, mailbox, supervision
    log, store   one append-only log per sandbox; what storage must promise; files and memory
    containers/  where a service runs
    actor        the task of one sandbox in memory
    runtime      finds, starts and closes actors
    handle       `Sandbox`, what owners hold

What is exported here is the public interface, and all that `proxy` may use.
"""

from actors.containers import address_containers as address_containers
from actors.containers import process_containers as process_containers
from actors.containers.base import Container as Container
from actors.containers.base import ContainerContext as ContainerContext
from actors.containers.base import ContainerFactory as ContainerFactory
from actors.containers.base import ContainerProcess as ContainerProcess
from actors.containers.base import ExecResult as ExecResult
from actors.containers.base import ProcessExit as ProcessExit
from actors.containers.base import ProcessOptions as ProcessOptions
from actors.containers.base import ProcessStatus as ProcessStatus
from actors.containers.base import RestartPolicy as RestartPolicy
from actors.containers.base import Run as Run
from actors.containers.hooks import Hook as Hook
from actors.containers.hooks import HookCall as HookCall
from actors.containers.places import Places as Places
from actors.core.record import Tail as Tail
from actors.domains import Domains as Domains
from actors.errors import ActorBrokenError as ActorBrokenError
from actors.errors import AppendFailedError as AppendFailedError
from actors.errors import ContainerError as ContainerError
from actors.errors import ContainerStartError as ContainerStartError
from actors.errors import CustomDomainRequiredError as CustomDomainRequiredError
from actors.errors import DomainNotFoundError as DomainNotFoundError
from actors.errors import DomainNotVerifiedError as DomainNotVerifiedError
from actors.errors import FencedError as FencedError
from actors.errors import InvalidNameError as InvalidNameError
from actors.errors import LogCorruptError as LogCorruptError
from actors.errors import MailboxFullError as MailboxFullError
from actors.errors import NotListeningError as NotListeningError
from actors.errors import PorticoError as PorticoError
from actors.errors import PortTakenError as PortTakenError
from actors.errors import ProcessNotFoundError as ProcessNotFoundError
from actors.errors import QuarantinedError as QuarantinedError
from actors.errors import RetryableError as RetryableError
from actors.errors import RevocationIncompleteError as RevocationIncompleteError
from actors.errors import SandboxMismatchError as SandboxMismatchError
from actors.errors import SandboxNotFoundError as SandboxNotFoundError
from actors.errors import SandboxStoppedError as SandboxStoppedError
from actors.errors import SecurityError as SecurityError
from actors.errors import ShareNotFoundError as ShareNotFoundError
from actors.errors import ShareSpentError as ShareSpentError
from actors.errors import ShuttingDownError as ShuttingDownError
from actors.errors import StoreError as StoreError
from actors.errors import StoreLockedError as StoreLockedError
from actors.errors import TooManyVisitsError as TooManyVisitsError
from actors.errors import TooManyWakesError as TooManyWakesError
from actors.errors import UnknownRecordError as UnknownRecordError
from actors.errors import UnsupportedError as UnsupportedError
from actors.failures import where_raised as where_raised
from actors.files import replace_file as replace_file
from actors.filestore import FileStore as FileStore
from actors.handle import ExposedPort as ExposedPort
from actors.handle import IssuedToken as IssuedToken
from actors.handle import PortStatus as PortStatus
from actors.handle import Sandbox as Sandbox
from actors.history import Moment as Moment
from actors.history import describe_event as describe_event
from actors.history import describe_state as describe_state
from actors.history import read_history as read_history
from actors.history import state_at as state_at
from actors.history import unfold as unfold
from actors.memorystore import MemoryStore as MemoryStore
from actors.previews import PreviewURL as PreviewURL
from actors.processes import Process as Process
from actors.runtime import Runtime as Runtime
from actors.runtime import RuntimeStatistics as RuntimeStatistics
from actors.runtime import open_runtime as open_runtime
from actors.sandbox.admission import Admission as Admission
from actors.sandbox.admission import CutBecause as CutBecause
from actors.sandbox.admission import Grant as Grant
from actors.sandbox.admission import NeedsWake as NeedsWake
from actors.sandbox.admission import RefusedBecause as RefusedBecause
from actors.sandbox.admission import VisitRequest as VisitRequest
from actors.sandbox.admission import admit as admit
from actors.sandbox.decide import Rules as Rules
from actors.sandbox.domains import CHALLENGE_PATH as CHALLENGE_PATH
from actors.sandbox.domains import CustomHostname as CustomHostname
from actors.sandbox.domains import DomainBinding as DomainBinding
from actors.sandbox.domains import DomainChallenge as DomainChallenge
from actors.sandbox.domains import Proof as Proof
from actors.sandbox.events import AsleepPolicy as AsleepPolicy
from actors.sandbox.events import ContainerSpec as ContainerSpec
from actors.sandbox.events import HostHeader as HostHeader
from actors.sandbox.events import PortExposed as PortExposed
from actors.sandbox.ids import Port as Port
from actors.sandbox.ids import PortToken as PortToken
from actors.sandbox.ids import PreviewToken as PreviewToken
from actors.sandbox.ids import SandboxId as SandboxId
from actors.sandbox.ids import ShareId as ShareId
from actors.sandbox.sessions import read_named as read_named
from actors.sandbox.state import Exposure as Exposure
from actors.sandbox.state import SandboxState as SandboxState
from actors.sandbox.state import Sharing as Sharing
from actors.sandbox.state import Status as Status
from actors.sandbox.urls import BUILT_IN_PREFIX as BUILT_IN_PREFIX
from actors.sandbox.urls import SHARE_PATH as SHARE_PATH
from actors.sandbox.urls import Domain as Domain
from actors.sandbox.urls import PublicAddress as PublicAddress
from actors.sandbox.urls import built_in_hostname as built_in_hostname
from actors.sandbox.urls import first_label as first_label
from actors.sandbox.urls import preview_url as preview_url
from actors.shares import Share as Share
from actors.shares import ShareSession as ShareSession
from actors.shares import find_share as find_share
from actors.shares import judge_share as judge_share
from actors.shares import redeem_share as redeem_share
from actors.store import Store as Store
from actors.surroundings import Limits as Limits
from actors.visits import Visit as Visit
