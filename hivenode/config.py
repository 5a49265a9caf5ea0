"""The one frozen configuration of a daemon: flag > HIVENODE_* environment > config.toml > default.

`config.toml` is read from the data directory. Every field has a unit in its name and a reason beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import platformdirs
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from hivenode.encoding.node_record import Role
from hivenode.errors import Code, HiveError

CONFIG_FILE: Final = "config.toml"
_HOST_PORT: Final = re.compile(r"^(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):(\d{1,5})$")


def default_data_dir() -> Path:
    """Where a daemon of this user keeps its data unless told otherwise."""
    return Path(platformdirs.user_data_dir("hivenode", appauthor=False))


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` in parts. Raises ValueError with the wanted form."""
    match = _HOST_PORT.match(address)
    if match is None or int(match[2]) > 65535:
        raise ValueError(f"{address!r} is no address: write host:port, as 192.168.1.20:50052")
    return match[1].strip("[]"), int(match[2])


class Config(BaseSettings):
    """All that a daemon can be told. Times end in _s or _ms, sizes in _bytes, _mib or _gib."""

    model_config = SettingsConfigDict(env_prefix="HIVENODE_", frozen=True, extra="forbid")

    role: Role = Role.AUTO
    """auto does all that the machine can; pool runs no tasks; worker never votes; master submits and runs none."""
    data_dir: Path = Field(default_factory=default_data_dir)
    """Identity, log, agreed state, ledger and blobs; mode 0700."""
    listen: str = "127.0.0.1:50051"
    """The documented API in plain text, for programs of this machine."""
    peer_listen: str = "0.0.0.0:50052"
    """Peers and remote programs; port 0 takes a free one."""
    advertise: Annotated[tuple[str, ...], NoDecode] = ()
    """Peer addresses to tell others instead of the ones of this machine's interfaces, as behind a port forward."""
    bootstrap: Annotated[tuple[str, ...], NoDecode] = ()
    """Peer addresses to try besides mDNS, as across subnets."""
    mdns: bool = True
    """Whether to announce and look on the local network."""
    mdns_interfaces: Annotated[tuple[str, ...], NoDecode] = ()
    """Addresses of the interfaces to use for mDNS; empty for all but those of containers and VPNs."""
    mdns_group: str = Field("", pattern=r"^[A-Za-z0-9._-]{0,32}$")
    """Nodes of different groups pass over each other's announcements: two hives on one network, on purpose."""
    trust: Literal["lan", "token", "approve"] = "lan"
    """How machines come into a hive that this node forms: lan takes those of the same network, as voters in the first hour; token
    and approve take nobody unasked, and make a fresh node form its own hive instead of joining one that it meets."""
    insecure: bool = False
    """Allows the plain-text API on an address that is not loopback."""

    election_timeout_min_ms: int = Field(1_000, ge=50, le=60_000)
    """A LAN's slow moments end well within a second; failover takes this long at most twice."""
    election_timeout_max_ms: int = Field(2_000, ge=51, le=120_000)
    """Twice the least, so that two candidates seldom wake together."""
    heartbeat_interval_ms: int = Field(150, ge=10, le=10_000)
    """Six chances within the least election timeout."""
    founding_quiet_ms: int = Field(1_000, ge=0, le=60_000)
    """How long the set of confirmed fresh peers must stand still before one forms a hive."""
    founding_listen_ms_max: int = Field(3_000, ge=0, le=60_000)
    """How long a fresh machine waits at most before it forms or joins."""

    supply_cpt: int = Field(1_000_000_000_000, ge=1, le=1 << 60)
    """All CPT that will ever exist in a hive that this node forms."""
    signup_grant_cpt: int = Field(1_000, ge=0, le=1_000_000)
    """What a new user receives from the treasury."""
    signup_grants_per_day_max: int = Field(10_000, ge=0, le=1_000_000)
    """Past it a new account starts with nothing, so that nobody drains the treasury by registering."""
    session_hours: int = Field(24, ge=1, le=24)
    """How long a token is valid (API document)."""
    registrations_per_minute_max: int = Field(600, ge=1, le=1_000_000)
    """By address; a registration costs an Argon2 hash of some 50 ms."""
    logins_per_minute_max: int = Field(600, ge=1, le=1_000_000)
    """By address; a login costs as much as a registration."""
    wrong_passwords_per_minute_max: int = Field(20, ge=1, le=1_000_000)
    """By account, from wherever they come: more than a person mistypes, and a guesser gets 28,800 a day."""

    executor: Literal["auto", "docker", "sandbox", "process", "none"] = "auto"
    """auto takes Docker where an engine answers, else the sandbox; process has no isolation and must be asked for."""
    docker_host: str = ""
    """Address of the Docker engine; empty for DOCKER_HOST or the usual socket."""
    slots: int = Field(0, ge=0, le=1_024)
    """Tasks that run at once; 0 takes two for each core, since tasks often wait."""
    location: str = Field("", max_length=64)
    """What the node says of its place, as Asia/Taipei."""
    task_memory_mib_max: int = Field(2_048, ge=16, le=1 << 20)
    """Memory of a task that asks for none."""
    task_disk_mib_max: int = Field(2_048, ge=1, le=1 << 20)
    """What a task may write."""
    task_processes_max: int = Field(256, ge=1, le=65_536)
    """Processes and threads of a task."""
    task_log_mib_max: int = Field(64, ge=1, le=4_096)
    """stdout and stderr of a task."""
    upload_mib_max: int = Field(4_096, ge=1, le=1 << 20)
    """A streamed task archive; one message carries 100 MB at most."""
    disk_reserve_mib: int = Field(512, ge=0, le=1 << 24)
    """Free space under which new work is refused, so that what is accepted can still be written."""
    keep_days: int = Field(7, ge=1, le=3_650)
    """How long ended tasks, their logs and results are kept."""
    pip_index_url: str = ""
    """Where a task's requirements come from; empty for pip's own setting."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("listen", "peer_listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        split_address(value)
        return value

    @field_validator("bootstrap", "advertise", "mdns_interfaces", mode="before")
    @classmethod
    def _is_list(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("bootstrap", "advertise")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            split_address(address)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        given: Mapping[str, Any] = init_settings()
        folder = Path(str(given.get("data_dir") or env_settings().get("data_dir") or default_data_dir()))
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=folder / CONFIG_FILE)


def load_config(**flags: Any) -> Config:
    """The configuration from flags (None: not given), environment, file and defaults.

    Raises:
        HiveError: INVALID_ARGUMENT, naming each wrong field and what it may be.
    """
    try:
        config = Config(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise HiveError(Code.INVALID_ARGUMENT, "wrong configuration: " + "; ".join(lines)) from error
    except ValueError as error:  # a config.toml that is no TOML
        raise HiveError(Code.INVALID_ARGUMENT, f"{CONFIG_FILE} cannot be read: {error}") from error
    if config.election_timeout_max_ms <= config.election_timeout_min_ms:
        raise HiveError(Code.INVALID_ARGUMENT, "election_timeout_max_ms must be greater than election_timeout_min_ms")
    return config
