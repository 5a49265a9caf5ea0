"""Changes of the configuration: how they are written in an entry, and what they make of a configuration.

Rules:
- A change takes effect when its entry is applied, on every member in log order, so all derive the same configuration.
- One changed member is a simple change. More make a joint configuration (thesis §4.3), which the leader leaves by itself
  as soon as the change is applied there.
- An outgoing voter cannot be a learner at once: it waits in `learners_next` until the joint configuration is left.

State table of a configuration:

| configuration | change with one member | change with more members | change with none |
|---|---|---|---|
| simple | simple | joint, auto-leave | refused |
| joint | refused | refused | simple |
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from hivenode.consensus.messages import ConfChange, ConfState, MemberId
from hivenode.encoding import canonical

CONF_CHANGE_VERSION: Final = 1
"""First field of every encoded change, so that a later shape can be told from this one."""


class InvalidConfChangeError(ValueError):
    """The change does not fit the configuration; the text says why."""


def encode_conf_change(change: ConfChange) -> bytes:
    """The canonical bytes of a change, as they stand in a `CONF_CHANGE` entry."""
    return canonical.encode(
        [CONF_CHANGE_VERSION, list(change.add_voters), list(change.add_learners), list(change.remove), change.context]
    )


def decode_conf_change(data: bytes) -> ConfChange:
    """Reads what `encode_conf_change` wrote.

    Raises:
        DecodeError: the bytes are not a change of a known version.
    """
    match canonical.decode(data):
        case [int(version), list(voters), list(learners), list(removed), bytes(context)] if (
            version == CONF_CHANGE_VERSION and all(isinstance(name, str) for name in [*voters, *learners, *removed])
        ):
            return ConfChange(
                add_voters=_ids(voters), add_learners=_ids(learners), remove=_ids(removed), context=context
            )
        case _:
            raise canonical.DecodeError("these bytes are not a configuration change of a known version")


def _ids(names: list[object]) -> tuple[MemberId, ...]:
    return tuple(MemberId(str(name)) for name in names)


def apply_change(conf: ConfState, change: ConfChange) -> ConfState:
    """The configuration after the change.

    Raises:
        InvalidConfChangeError: the change does not fit (see the state table), names a member twice, or leaves no voter.
    """
    if change.leaves_joint:
        return _leave_joint(conf)
    if conf.is_joint:
        raise InvalidConfChangeError("a joint configuration must be left before the next change")
    named = [*change.add_voters, *change.add_learners, *change.remove]
    if len(set(named)) != len(named):
        raise InvalidConfChangeError("a change may name a member once")
    outgoing = conf.voters if len(named) > 1 else frozenset()
    voters = (conf.voters | set(change.add_voters)) - set(change.add_learners) - set(change.remove)
    demoted = frozenset(change.add_learners) & outgoing
    learners = (conf.learners | set(change.add_learners)) - set(change.add_voters) - set(change.remove) - demoted
    if not voters:
        raise InvalidConfChangeError("a configuration needs a voter")
    return ConfState(
        voters=frozenset(voters),
        voters_outgoing=outgoing,
        learners=frozenset(learners),
        learners_next=demoted,
        auto_leave=bool(outgoing),
    )


def _leave_joint(conf: ConfState) -> ConfState:
    if not conf.is_joint:
        raise InvalidConfChangeError("the configuration is not joint")
    return replace(
        conf,
        voters_outgoing=frozenset(),
        learners=conf.learners | conf.learners_next,
        learners_next=frozenset(),
        auto_leave=False,
    )


def conf_fault(conf: ConfState) -> str | None:
    """What is wrong with a configuration, or None; a member without any configuration yet has an empty, sound one."""
    if conf.voters & conf.learners or conf.voters & conf.learners_next or conf.voters_outgoing & conf.learners:
        return "a member is voter and learner at once"
    if not conf.learners_next <= conf.voters_outgoing:
        return "a learner-to-be is no outgoing voter"
    if conf.auto_leave and not conf.is_joint:
        return "a simple configuration cannot be left"
    if not conf.voters and conf.members():
        return "there are members but no voter"
    return None
