from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("node_id", "hive_id", "role", "phase", "version", "api_address", "peer_address", "peer_addresses", "leader_node_id", "leader_address", "term", "commit_index", "applied_index", "members", "nodes", "copies", "users", "tasks_pending", "tasks_running", "tasks_ended", "ledger_height", "supply", "executor", "executor_note", "warnings", "trust")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    HIVE_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    API_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    LEADER_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    LEADER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    TASKS_PENDING_FIELD_NUMBER: _ClassVar[int]
    TASKS_RUNNING_FIELD_NUMBER: _ClassVar[int]
    TASKS_ENDED_FIELD_NUMBER: _ClassVar[int]
    LEDGER_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    SUPPLY_FIELD_NUMBER: _ClassVar[int]
    EXECUTOR_FIELD_NUMBER: _ClassVar[int]
    EXECUTOR_NOTE_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    hive_id: str
    role: str
    phase: str
    version: str
    api_address: str
    peer_address: str
    peer_addresses: _containers.RepeatedScalarFieldContainer[str]
    leader_node_id: str
    leader_address: str
    term: int
    commit_index: int
    applied_index: int
    members: _containers.RepeatedCompositeFieldContainer[Member]
    nodes: int
    copies: int
    users: int
    tasks_pending: int
    tasks_running: int
    tasks_ended: int
    ledger_height: int
    supply: int
    executor: str
    executor_note: str
    warnings: _containers.RepeatedScalarFieldContainer[str]
    trust: str
    def __init__(self, node_id: _Optional[str] = ..., hive_id: _Optional[str] = ..., role: _Optional[str] = ..., phase: _Optional[str] = ..., version: _Optional[str] = ..., api_address: _Optional[str] = ..., peer_address: _Optional[str] = ..., peer_addresses: _Optional[_Iterable[str]] = ..., leader_node_id: _Optional[str] = ..., leader_address: _Optional[str] = ..., term: _Optional[int] = ..., commit_index: _Optional[int] = ..., applied_index: _Optional[int] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., nodes: _Optional[int] = ..., copies: _Optional[int] = ..., users: _Optional[int] = ..., tasks_pending: _Optional[int] = ..., tasks_running: _Optional[int] = ..., tasks_ended: _Optional[int] = ..., ledger_height: _Optional[int] = ..., supply: _Optional[int] = ..., executor: _Optional[str] = ..., executor_note: _Optional[str] = ..., warnings: _Optional[_Iterable[str]] = ..., trust: _Optional[str] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("member_id", "node_id", "voter", "match_index", "alive")
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    VOTER_FIELD_NUMBER: _ClassVar[int]
    MATCH_INDEX_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    member_id: str
    node_id: str
    voter: bool
    match_index: int
    alive: bool
    def __init__(self, member_id: _Optional[str] = ..., node_id: _Optional[str] = ..., voter: _Optional[bool] = ..., match_index: _Optional[int] = ..., alive: _Optional[bool] = ...) -> None: ...

class ListNodesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListNodesResponse(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    def __init__(self, nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("node_id", "hostname", "role", "owner", "alive", "status", "addresses", "cpu_cores", "memory_gb", "cpu_score", "gpu_score", "gpu_memory_gb", "gpu_name", "location", "docker_status", "executor", "executor_note", "slots", "slots_free", "trust_level", "last_heartbeat_ms")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    CPU_CORES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_GB_FIELD_NUMBER: _ClassVar[int]
    CPU_SCORE_FIELD_NUMBER: _ClassVar[int]
    GPU_SCORE_FIELD_NUMBER: _ClassVar[int]
    GPU_MEMORY_GB_FIELD_NUMBER: _ClassVar[int]
    GPU_NAME_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    DOCKER_STATUS_FIELD_NUMBER: _ClassVar[int]
    EXECUTOR_FIELD_NUMBER: _ClassVar[int]
    EXECUTOR_NOTE_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FREE_FIELD_NUMBER: _ClassVar[int]
    TRUST_LEVEL_FIELD_NUMBER: _ClassVar[int]
    LAST_HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    hostname: str
    role: str
    owner: str
    alive: bool
    status: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    cpu_cores: int
    memory_gb: int
    cpu_score: int
    gpu_score: int
    gpu_memory_gb: int
    gpu_name: str
    location: str
    docker_status: str
    executor: str
    executor_note: str
    slots: int
    slots_free: int
    trust_level: int
    last_heartbeat_ms: int
    def __init__(self, node_id: _Optional[str] = ..., hostname: _Optional[str] = ..., role: _Optional[str] = ..., owner: _Optional[str] = ..., alive: _Optional[bool] = ..., status: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., cpu_cores: _Optional[int] = ..., memory_gb: _Optional[int] = ..., cpu_score: _Optional[int] = ..., gpu_score: _Optional[int] = ..., gpu_memory_gb: _Optional[int] = ..., gpu_name: _Optional[str] = ..., location: _Optional[str] = ..., docker_status: _Optional[str] = ..., executor: _Optional[str] = ..., executor_note: _Optional[str] = ..., slots: _Optional[int] = ..., slots_free: _Optional[int] = ..., trust_level: _Optional[int] = ..., last_heartbeat_ms: _Optional[int] = ...) -> None: ...

class WhoAmIRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WhoAmIResponse(_message.Message):
    __slots__ = ("username", "user_id", "user_role", "session_expires_ms")
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ROLE_FIELD_NUMBER: _ClassVar[int]
    SESSION_EXPIRES_MS_FIELD_NUMBER: _ClassVar[int]
    username: str
    user_id: str
    user_role: str
    session_expires_ms: int
    def __init__(self, username: _Optional[str] = ..., user_id: _Optional[str] = ..., user_role: _Optional[str] = ..., session_expires_ms: _Optional[int] = ...) -> None: ...

class LogoutRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LogoutResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ChangePasswordRequest(_message.Message):
    __slots__ = ("old_password", "new_password")
    OLD_PASSWORD_FIELD_NUMBER: _ClassVar[int]
    NEW_PASSWORD_FIELD_NUMBER: _ClassVar[int]
    old_password: str
    new_password: str
    def __init__(self, old_password: _Optional[str] = ..., new_password: _Optional[str] = ...) -> None: ...

class ChangePasswordResponse(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class SetUserRoleRequest(_message.Message):
    __slots__ = ("username", "user_role")
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    USER_ROLE_FIELD_NUMBER: _ClassVar[int]
    username: str
    user_role: str
    def __init__(self, username: _Optional[str] = ..., user_role: _Optional[str] = ...) -> None: ...

class SetUserRoleResponse(_message.Message):
    __slots__ = ("username", "user_role")
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    USER_ROLE_FIELD_NUMBER: _ClassVar[int]
    username: str
    user_role: str
    def __init__(self, username: _Optional[str] = ..., user_role: _Optional[str] = ...) -> None: ...

class ClaimAdminRequest(_message.Message):
    __slots__ = ("claim",)
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    claim: bytes
    def __init__(self, claim: _Optional[bytes] = ...) -> None: ...

class ClaimAdminResponse(_message.Message):
    __slots__ = ("username",)
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    username: str
    def __init__(self, username: _Optional[str] = ...) -> None: ...

class ClaimNodeRequest(_message.Message):
    __slots__ = ("claim",)
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    claim: bytes
    def __init__(self, claim: _Optional[bytes] = ...) -> None: ...

class ClaimNodeResponse(_message.Message):
    __slots__ = ("node_id", "cpt_received")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CPT_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    cpt_received: int
    def __init__(self, node_id: _Optional[str] = ..., cpt_received: _Optional[int] = ...) -> None: ...

class MakeClaimRequest(_message.Message):
    __slots__ = ("code", "purpose", "username")
    CODE_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    code: str
    purpose: str
    username: str
    def __init__(self, code: _Optional[str] = ..., purpose: _Optional[str] = ..., username: _Optional[str] = ...) -> None: ...

class MakeClaimResponse(_message.Message):
    __slots__ = ("claim",)
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    claim: bytes
    def __init__(self, claim: _Optional[bytes] = ...) -> None: ...

class TaskOptions(_message.Message):
    __slots__ = ("memory_gb", "cpu_score", "gpu_score", "gpu_memory_gb", "location", "gpu_name", "priority", "dependencies", "time_limit_s", "retries")
    MEMORY_GB_FIELD_NUMBER: _ClassVar[int]
    CPU_SCORE_FIELD_NUMBER: _ClassVar[int]
    GPU_SCORE_FIELD_NUMBER: _ClassVar[int]
    GPU_MEMORY_GB_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    GPU_NAME_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DEPENDENCIES_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_S_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    memory_gb: int
    cpu_score: int
    gpu_score: int
    gpu_memory_gb: int
    location: str
    gpu_name: str
    priority: str
    dependencies: _containers.RepeatedScalarFieldContainer[str]
    time_limit_s: int
    retries: int
    def __init__(self, memory_gb: _Optional[int] = ..., cpu_score: _Optional[int] = ..., gpu_score: _Optional[int] = ..., gpu_memory_gb: _Optional[int] = ..., location: _Optional[str] = ..., gpu_name: _Optional[str] = ..., priority: _Optional[str] = ..., dependencies: _Optional[_Iterable[str]] = ..., time_limit_s: _Optional[int] = ..., retries: _Optional[int] = ...) -> None: ...

class UploadTaskHeader(_message.Message):
    __slots__ = ("task_id", "options")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    options: TaskOptions
    def __init__(self, task_id: _Optional[str] = ..., options: _Optional[_Union[TaskOptions, _Mapping]] = ...) -> None: ...

class UploadTaskPiece(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: UploadTaskHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[UploadTaskHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadTaskStreamResponse(_message.Message):
    __slots__ = ("task_id", "cpt_held", "copies")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    CPT_HELD_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    cpt_held: int
    copies: int
    def __init__(self, task_id: _Optional[str] = ..., cpt_held: _Optional[int] = ..., copies: _Optional[int] = ...) -> None: ...

class GetTaskRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class TaskDetail(_message.Message):
    __slots__ = ("task_id", "state", "note", "priority", "node_id", "attempt", "submitted_ms", "assigned_ms", "started_ms", "ended_ms", "exit_code", "data_bytes", "result_bytes", "log_bytes", "result_sha256", "cost_per_minute", "cpt_held", "cpt_paid", "dependencies", "time_limit_s")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_MS_FIELD_NUMBER: _ClassVar[int]
    ASSIGNED_MS_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    ENDED_MS_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    DATA_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESULT_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOG_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESULT_SHA256_FIELD_NUMBER: _ClassVar[int]
    COST_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    CPT_HELD_FIELD_NUMBER: _ClassVar[int]
    CPT_PAID_FIELD_NUMBER: _ClassVar[int]
    DEPENDENCIES_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_S_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    state: str
    note: str
    priority: str
    node_id: str
    attempt: int
    submitted_ms: int
    assigned_ms: int
    started_ms: int
    ended_ms: int
    exit_code: int
    data_bytes: int
    result_bytes: int
    log_bytes: int
    result_sha256: str
    cost_per_minute: int
    cpt_held: int
    cpt_paid: int
    dependencies: _containers.RepeatedScalarFieldContainer[str]
    time_limit_s: int
    def __init__(self, task_id: _Optional[str] = ..., state: _Optional[str] = ..., note: _Optional[str] = ..., priority: _Optional[str] = ..., node_id: _Optional[str] = ..., attempt: _Optional[int] = ..., submitted_ms: _Optional[int] = ..., assigned_ms: _Optional[int] = ..., started_ms: _Optional[int] = ..., ended_ms: _Optional[int] = ..., exit_code: _Optional[int] = ..., data_bytes: _Optional[int] = ..., result_bytes: _Optional[int] = ..., log_bytes: _Optional[int] = ..., result_sha256: _Optional[str] = ..., cost_per_minute: _Optional[int] = ..., cpt_held: _Optional[int] = ..., cpt_paid: _Optional[int] = ..., dependencies: _Optional[_Iterable[str]] = ..., time_limit_s: _Optional[int] = ...) -> None: ...

class ListTasksRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTasksResponse(_message.Message):
    __slots__ = ("tasks",)
    TASKS_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[TaskDetail]
    def __init__(self, tasks: _Optional[_Iterable[_Union[TaskDetail, _Mapping]]] = ...) -> None: ...

class WatchTaskRequest(_message.Message):
    __slots__ = ("task_id", "log_offset", "attempt")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    LOG_OFFSET_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    log_offset: int
    attempt: int
    def __init__(self, task_id: _Optional[str] = ..., log_offset: _Optional[int] = ..., attempt: _Optional[int] = ...) -> None: ...

class TaskUpdate(_message.Message):
    __slots__ = ("state", "note", "log", "final", "attempt")
    STATE_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    state: str
    note: str
    log: bytes
    final: bool
    attempt: int
    def __init__(self, state: _Optional[str] = ..., note: _Optional[str] = ..., log: _Optional[bytes] = ..., final: _Optional[bool] = ..., attempt: _Optional[int] = ...) -> None: ...

class DownloadResultRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class ResultPiece(_message.Message):
    __slots__ = ("size_bytes", "sha256", "data")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    sha256: str
    data: bytes
    def __init__(self, size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class ManageNodeRequest(_message.Message):
    __slots__ = ("node_id",)
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    def __init__(self, node_id: _Optional[str] = ...) -> None: ...

class NodeManaged(_message.Message):
    __slots__ = ("node_id",)
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    def __init__(self, node_id: _Optional[str] = ...) -> None: ...

class CreateJoinTokenRequest(_message.Message):
    __slots__ = ("rights", "lifetime_s")
    RIGHTS_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_S_FIELD_NUMBER: _ClassVar[int]
    rights: str
    lifetime_s: int
    def __init__(self, rights: _Optional[str] = ..., lifetime_s: _Optional[int] = ...) -> None: ...

class CreateJoinTokenResponse(_message.Message):
    __slots__ = ("token", "expires_ms")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_MS_FIELD_NUMBER: _ClassVar[int]
    token: str
    expires_ms: int
    def __init__(self, token: _Optional[str] = ..., expires_ms: _Optional[int] = ...) -> None: ...

class ListPendingRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListPendingResponse(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[PendingNode]
    def __init__(self, nodes: _Optional[_Iterable[_Union[PendingNode, _Mapping]]] = ...) -> None: ...

class PendingNode(_message.Message):
    __slots__ = ("node_id", "hostname", "addresses", "wants", "is_in")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    IS_IN_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    hostname: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    wants: str
    is_in: bool
    def __init__(self, node_id: _Optional[str] = ..., hostname: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., wants: _Optional[str] = ..., is_in: _Optional[bool] = ...) -> None: ...

class ApproveNodeRequest(_message.Message):
    __slots__ = ("node_id", "rights")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    RIGHTS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    rights: str
    def __init__(self, node_id: _Optional[str] = ..., rights: _Optional[str] = ...) -> None: ...

class LeaveHiveRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LeaveHiveResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class JoinHiveRequest(_message.Message):
    __slots__ = ("address", "abandon", "token")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ABANDON_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    address: str
    abandon: bool
    token: str
    def __init__(self, address: _Optional[str] = ..., abandon: _Optional[bool] = ..., token: _Optional[str] = ...) -> None: ...

class JoinHiveResponse(_message.Message):
    __slots__ = ("hive_id",)
    HIVE_ID_FIELD_NUMBER: _ClassVar[int]
    hive_id: str
    def __init__(self, hive_id: _Optional[str] = ...) -> None: ...

class MakeSnapshotRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MakeSnapshotResponse(_message.Message):
    __slots__ = ("path", "index", "term", "size_bytes", "sha256")
    PATH_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    path: str
    index: int
    term: int
    size_bytes: int
    sha256: str
    def __init__(self, path: _Optional[str] = ..., index: _Optional[int] = ..., term: _Optional[int] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class ChallengeRequest(_message.Message):
    __slots__ = ("caller_record", "caller_nonce", "hive_id")
    CALLER_RECORD_FIELD_NUMBER: _ClassVar[int]
    CALLER_NONCE_FIELD_NUMBER: _ClassVar[int]
    HIVE_ID_FIELD_NUMBER: _ClassVar[int]
    caller_record: bytes
    caller_nonce: bytes
    hive_id: str
    def __init__(self, caller_record: _Optional[bytes] = ..., caller_nonce: _Optional[bytes] = ..., hive_id: _Optional[str] = ...) -> None: ...

class ChallengeResponse(_message.Message):
    __slots__ = ("callee_record", "callee_nonce", "hive_id", "signature", "phase", "hive_created_ms", "members", "leader_node_id", "leader_addresses", "confirmed", "instance", "former_hives", "recoveries", "closed")
    CALLEE_RECORD_FIELD_NUMBER: _ClassVar[int]
    CALLEE_NONCE_FIELD_NUMBER: _ClassVar[int]
    HIVE_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    HIVE_CREATED_MS_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    LEADER_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    LEADER_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    FORMER_HIVES_FIELD_NUMBER: _ClassVar[int]
    RECOVERIES_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    callee_record: bytes
    callee_nonce: bytes
    hive_id: str
    signature: bytes
    phase: str
    hive_created_ms: int
    members: int
    leader_node_id: str
    leader_addresses: _containers.RepeatedScalarFieldContainer[str]
    confirmed: _containers.RepeatedScalarFieldContainer[str]
    instance: str
    former_hives: _containers.RepeatedScalarFieldContainer[str]
    recoveries: _containers.RepeatedScalarFieldContainer[bytes]
    closed: bool
    def __init__(self, callee_record: _Optional[bytes] = ..., callee_nonce: _Optional[bytes] = ..., hive_id: _Optional[str] = ..., signature: _Optional[bytes] = ..., phase: _Optional[str] = ..., hive_created_ms: _Optional[int] = ..., members: _Optional[int] = ..., leader_node_id: _Optional[str] = ..., leader_addresses: _Optional[_Iterable[str]] = ..., confirmed: _Optional[_Iterable[str]] = ..., instance: _Optional[str] = ..., former_hives: _Optional[_Iterable[str]] = ..., recoveries: _Optional[_Iterable[bytes]] = ..., closed: _Optional[bool] = ...) -> None: ...

class ProveRequest(_message.Message):
    __slots__ = ("caller_node_id", "callee_nonce", "hive_id", "signature")
    CALLER_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CALLEE_NONCE_FIELD_NUMBER: _ClassVar[int]
    HIVE_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    caller_node_id: str
    callee_nonce: bytes
    hive_id: str
    signature: bytes
    def __init__(self, caller_node_id: _Optional[str] = ..., callee_nonce: _Optional[bytes] = ..., hive_id: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class ProveResponse(_message.Message):
    __slots__ = ("ticket",)
    TICKET_FIELD_NUMBER: _ClassVar[int]
    ticket: str
    def __init__(self, ticket: _Optional[str] = ...) -> None: ...

class RaftFrame(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, messages: _Optional[_Iterable[bytes]] = ...) -> None: ...

class RaftFrameAck(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InviteRequest(_message.Message):
    __slots__ = ("hive_id",)
    HIVE_ID_FIELD_NUMBER: _ClassVar[int]
    hive_id: str
    def __init__(self, hive_id: _Optional[str] = ...) -> None: ...

class InviteResponse(_message.Message):
    __slots__ = ("record",)
    RECORD_FIELD_NUMBER: _ClassVar[int]
    record: bytes
    def __init__(self, record: _Optional[bytes] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("record", "from_lan", "token_key", "token_signature")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    FROM_LAN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_KEY_FIELD_NUMBER: _ClassVar[int]
    TOKEN_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    record: bytes
    from_lan: bool
    token_key: bytes
    token_signature: bytes
    def __init__(self, record: _Optional[bytes] = ..., from_lan: _Optional[bool] = ..., token_key: _Optional[bytes] = ..., token_signature: _Optional[bytes] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("hive_id", "members", "leader_node_id", "leader_addresses", "voter_rights", "node_ids", "voter_ids", "later_sequence", "applied_index")
    HIVE_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    LEADER_NODE_ID_FIELD_NUMBER: _ClassVar[int]
    LEADER_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    VOTER_RIGHTS_FIELD_NUMBER: _ClassVar[int]
    NODE_IDS_FIELD_NUMBER: _ClassVar[int]
    VOTER_IDS_FIELD_NUMBER: _ClassVar[int]
    LATER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    hive_id: str
    members: _containers.RepeatedScalarFieldContainer[bytes]
    leader_node_id: str
    leader_addresses: _containers.RepeatedScalarFieldContainer[str]
    voter_rights: bool
    node_ids: _containers.RepeatedScalarFieldContainer[str]
    voter_ids: _containers.RepeatedScalarFieldContainer[str]
    later_sequence: int
    applied_index: int
    def __init__(self, hive_id: _Optional[str] = ..., members: _Optional[_Iterable[bytes]] = ..., leader_node_id: _Optional[str] = ..., leader_addresses: _Optional[_Iterable[str]] = ..., voter_rights: _Optional[bool] = ..., node_ids: _Optional[_Iterable[str]] = ..., voter_ids: _Optional[_Iterable[str]] = ..., later_sequence: _Optional[int] = ..., applied_index: _Optional[int] = ...) -> None: ...

class WorkerFrame(_message.Message):
    __slots__ = ("event", "stream")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    event: bytes
    stream: bytes
    def __init__(self, event: _Optional[bytes] = ..., stream: _Optional[bytes] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OrderFrame(_message.Message):
    __slots__ = ("order",)
    ORDER_FIELD_NUMBER: _ClassVar[int]
    order: bytes
    def __init__(self, order: _Optional[bytes] = ...) -> None: ...

class FetchBlobRequest(_message.Message):
    __slots__ = ("sha256", "size_bytes", "offset")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size_bytes: int
    offset: int
    def __init__(self, sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class BlobPiece(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class StoreBlobPiece(_message.Message):
    __slots__ = ("sha256", "size_bytes", "data")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size_bytes: int
    data: bytes
    def __init__(self, sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class StoreBlobResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReadLogRequest(_message.Message):
    __slots__ = ("user", "task_id", "attempt", "offset", "follow")
    USER_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    user: str
    task_id: str
    attempt: int
    offset: int
    follow: bool
    def __init__(self, user: _Optional[str] = ..., task_id: _Optional[str] = ..., attempt: _Optional[int] = ..., offset: _Optional[int] = ..., follow: _Optional[bool] = ...) -> None: ...

class LogPiece(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class FetchSnapshotRequest(_message.Message):
    __slots__ = ("sha256", "offset")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    offset: int
    def __init__(self, sha256: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class SnapshotPiece(_message.Message):
    __slots__ = ("data", "crc32")
    DATA_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    crc32: int
    def __init__(self, data: _Optional[bytes] = ..., crc32: _Optional[int] = ...) -> None: ...

class ManageHiveRequest(_message.Message):
    __slots__ = ("action", "node_id", "rights", "lifetime_ms")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    RIGHTS_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_MS_FIELD_NUMBER: _ClassVar[int]
    action: str
    node_id: str
    rights: str
    lifetime_ms: int
    def __init__(self, action: _Optional[str] = ..., node_id: _Optional[str] = ..., rights: _Optional[str] = ..., lifetime_ms: _Optional[int] = ...) -> None: ...

class ManageHiveResponse(_message.Message):
    __slots__ = ("node_id", "expires_ms", "pending")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_MS_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    expires_ms: int
    pending: _containers.RepeatedCompositeFieldContainer[PendingNode]
    def __init__(self, node_id: _Optional[str] = ..., expires_ms: _Optional[int] = ..., pending: _Optional[_Iterable[_Union[PendingNode, _Mapping]]] = ...) -> None: ...

class ListMembersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListMembersResponse(_message.Message):
    __slots__ = ("records", "applied_index")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedScalarFieldContainer[bytes]
    applied_index: int
    def __init__(self, records: _Optional[_Iterable[bytes]] = ..., applied_index: _Optional[int] = ...) -> None: ...

class CompareDigestRequest(_message.Message):
    __slots__ = ("version", "member_id", "index", "digest")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MEMBER_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    version: int
    member_id: str
    index: int
    digest: bytes
    def __init__(self, version: _Optional[int] = ..., member_id: _Optional[str] = ..., index: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class CompareDigestResponse(_message.Message):
    __slots__ = ("verdict",)
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    verdict: str
    def __init__(self, verdict: _Optional[str] = ...) -> None: ...
