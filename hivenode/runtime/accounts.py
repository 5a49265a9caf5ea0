"""Users, sessions and money as the API asks for them: fills `ports.Accounts`.

Rules:
1. What changes something is proposed, and the application of the command decides; nothing is decided here that agreed
   state could see differently, save passwords and rates, which only the leader can judge.
2. A negative answer from local state ("no such user", "no such session") counts only after a read barrier, since this node
   may be behind.
3. A token is good while its signature is by a node with voter right, and its session stands in agreed state. So logout and
   expiry hold everywhere, and a worker's key can make no token.
4. A repeated call gets the first one's answer: the request key covers what the caller meant (`requests.derived`), and the
   session that `refresh` or `change_password` opens is named after the call, the old one and the key, so that a repetition finds
   it though the old is closed, and is taken for none of the other call, which may ask for less. So these two, and `logout`, take
   the token itself: its session may have ended by their own doing.
5. A login costs the same whether the user exists or not: one Argon2 verification, of a hash of nobody's password if need be.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from hivenode.config import Config
from hivenode.encoding.canonical import DecodeError
from hivenode.encoding.node_record import NodeRecord, SignedNodeRecord, node_id_of
from hivenode.encoding.records import decode_record
from hivenode.encoding.state_view import ReadView
from hivenode.errors import Code, HiveError, InvariantError, ensure
from hivenode.identity import Identity
from hivenode.pool import queries, validation
from hivenode.pool.commands import (
    ChangePassword,
    ClaimAdmin,
    ClaimNode,
    CloseSession,
    LogIn,
    RefreshSession,
    RegisterUser,
    Reply,
    SetUserRole,
    Transfer,
)
from hivenode.pool.events import Event, NodeChanged, NodeRemoved, StateReplaced
from hivenode.pool.keys import fold
from hivenode.pool.records import NodeKind, NodeRights, SessionRecord, UserRecord, UserRole
from hivenode.runtime.passwords import PasswordHashing
from hivenode.runtime.ports import Agreement, Caller, Leadership
from hivenode.runtime.rate_limit import RateLimit, origin_key
from hivenode.runtime.refusals import Refusals
from hivenode.runtime.requests import accepted, derived, keep_ms
from hivenode.runtime.tokens import (
    TokenCache,
    TokenClaims,
    TokenSigner,
    check_time,
    invalid_session,
    open_token,
    signer_of,
)

_BARRIER_S: Final = 5.0
"""`authenticate` has no deadline of its own; an election is over by then, or the hive has no quorum."""
REGISTERING_ADDRESSES: Final = 10
"""The hive takes the registrations of so many addresses that each make as many as they may: a user stays for ever."""
_HOUR_MS: Final = 3_600_000
_SESSION_ID_BYTES: Final = 16


class HiveAccounts:
    """Fills `ports.Accounts`.

    Args:
        agreement, leadership: the hive as this node sees it.
        identity: signs the tokens that this node issues while it leads.
        config: rates and the length of a session.
        clock_ms: monotonic, for the rates: who sets the clock of the wall gives nobody more tries, and takes none.
    """

    def __init__(
        self,
        agreement: Agreement,
        leadership: Leadership,
        identity: Identity,
        config: Config,
        *,
        clock_ms: Callable[[], int],
    ) -> None:
        self._clock_ms = clock_ms
        self._agreement = agreement
        self._leadership = leadership
        self._signer = TokenSigner(identity)
        self._session_ms = config.session_hours * _HOUR_MS
        self._passwords = PasswordHashing()
        self._refusals = Refusals()
        self._tokens = TokenCache()
        self._registrations = RateLimit("registrations from this address", config.registrations_per_minute_max)
        of_all = REGISTERING_ADDRESSES * config.registrations_per_minute_max
        self._registrations_of_all = RateLimit("registrations in this hive", of_all)
        self._logins_here = RateLimit("logins from this address", config.logins_per_minute_max)
        self._wrong_passwords = RateLimit("wrong passwords for this user", config.wrong_passwords_per_minute_max)
        self._unsubscribe = agreement.subscribe(self._on_events)

    async def aclose(self) -> None:
        """Ends what runs beside the calls."""
        self._unsubscribe()
        await self._passwords.aclose()

    async def register(self, username: str, password: str, email: str, caller: Caller) -> str:
        """A new user; returns the user id. Raises USER_EXISTS, INVALID_ARGUMENT, RATE_LIMITED, OVERLOADED."""
        validation.check_username(username)
        validation.check_email(email)
        origin = origin_key(caller.origin)
        self._count(self._registrations, caller)
        self._registrations_of_all.take("", self._clock_ms())
        password_hash = await self._passwords.hash(password, caller.deadline_s)
        reply = await self._agreement.propose(
            RegisterUser(username=username, password_hash=password_hash, email=email),
            deadline_s=caller.deadline_s,
            # The address owns the request: under the user's name a stranger could fill up what is remembered for the user.
            owner=derived("origin", origin),
            key=derived("register", caller.idempotency_key, username, email),
            keep_ms=keep_ms(caller),
        )
        return accepted(reply).text

    async def login(self, username: str, password: str, caller: Caller) -> str:
        """Opens a session; returns its token. INVALID_PASSWORD for an unknown user as well, after the same work."""
        self._count(self._logins_here, caller)
        await self._leadership.read_barrier(caller.deadline_s)
        user = await self._checked(username, password, caller)
        key = derived("login", caller.idempotency_key)
        reply = await self._agreement.propose(
            LogIn(
                session_id=secrets.token_hex(_SESSION_ID_BYTES),
                username=user.username,
                checked_hash=user.password_hash,
                lifetime_ms=self._session_ms,
            ),
            deadline_s=caller.deadline_s,
            owner=user.username,
            key=key,
            keep_ms=keep_ms(caller),
        )
        return self._token_of(accepted(reply).text)

    def _count(self, limit: RateLimit, caller: Caller) -> None:
        """Counts for the caller's address, and for the worker that made it up or not. Raises RATE_LIMITED."""
        if caller.through:
            limit.take(f"node:{caller.through}", self._clock_ms())
        limit.take(origin_key(caller.origin), self._clock_ms())

    async def _checked(self, username: str, password: str, caller: Caller) -> UserRecord:
        """The user whose password this is. Raises INVALID_PASSWORD; RATE_LIMITED after too many wrong ones."""
        tries = derived("user", fold(username))
        # Counted before the check, so that many tries at once are no way round it; a right password is not counted.
        self._wrong_passwords.take(tries, self._clock_ms())
        user = queries.user(self._agreement.view(), username)
        known_hash = None if user is None else user.password_hash
        try:
            matched = await self._passwords.matches(password, known_hash, caller.deadline_s)
        except HiveError as error:
            # Nobody was told whether it is right: else a stranger who fills the line would lock users out. A caller that hung
            # up stays counted, or tries that are cut off in time would be guesses for nothing.
            if error.code is Code.OVERLOADED:
                self._wrong_passwords.give_back(tries)
            raise
        if user is None or not matched:
            raise HiveError(Code.INVALID_PASSWORD, "wrong user name or password")
        self._wrong_passwords.give_back(tries)
        return user

    async def refresh(self, token: str, caller: Caller) -> str:
        """A new session and token for the user of a standing one, which ends. Raises INVALID_SESSION."""
        claims = await self._claims(token)
        await self._leadership.read_barrier(caller.deadline_s)
        successor = _successor("refresh", claims, caller)
        if queries.session(self._agreement.view(), successor) is None:
            session = await self.authenticate(token)
            reply = await self._agreement.propose(
                RefreshSession(session_id=session.session_id, new_session_id=successor, lifetime_ms=self._session_ms),
                deadline_s=caller.deadline_s,
                owner=session.username,
                key=derived("refresh", claims.session_id, caller.idempotency_key),
                keep_ms=keep_ms(caller),
            )
            accepted(reply)
        return self._token_of(successor)

    async def logout(self, token: str, caller: Caller) -> None:
        """Closes the session of a token everywhere; one that is closed already is no error. Raises INVALID_SESSION."""
        claims = await self._claims(token)
        await self._close_session(claims.session_id, claims.username, caller)

    async def change_password(self, token: str, old: str, new: str, caller: Caller) -> str:
        """Ends all sessions of the user and opens one, whose token is returned. Raises INVALID_SESSION, INVALID_PASSWORD."""
        claims = await self._claims(token)
        await self._leadership.read_barrier(caller.deadline_s)
        successor = _successor("password", claims, caller)
        if queries.session(self._agreement.view(), successor) is not None:
            # An earlier try was done. The old token opens nothing any more, so the new password must be right.
            await self._checked(claims.username, new, caller)
            return self._token_of(successor)
        session = await self.authenticate(token)
        user = await self._checked(session.username, old, caller)
        new_hash = await self._passwords.hash(new, caller.deadline_s)
        reply = await self._agreement.propose(
            ChangePassword(
                session_id=session.session_id,
                checked_hash=user.password_hash,
                password_hash=new_hash,
                new_session_id=successor,
                lifetime_ms=self._session_ms,
            ),
            deadline_s=caller.deadline_s,
            owner=session.username,
            key=derived("password", claims.session_id, caller.idempotency_key),
            keep_ms=keep_ms(caller),
        )
        return self._token_of(accepted(reply).text)

    def role_of(self, session: SessionRecord) -> UserRole:
        """What the session's user may do, as local state has it now: a role is never read from a token."""
        user = queries.user(self._agreement.view(), session.username)
        return UserRole.USER if user is None else user.role

    async def set_role(self, session: SessionRecord, username: str, role: UserRole, caller: Caller) -> str:
        """Gives a user a role; returns the user's name. Raises PERMISSION_DENIED unless an admin asks, USER_NOT_FOUND."""
        validation.check_username(username)
        reply = await self._agreement.propose(
            SetUserRole(session_id=session.session_id, username=username, role=role),
            deadline_s=caller.deadline_s,
            owner=session.username,
            key=derived("role", caller.idempotency_key, username, role.value),
            keep_ms=keep_ms(caller),
        )
        return accepted(reply).text

    async def claim_admin(self, session: SessionRecord, claim: bytes, caller: Caller) -> str:
        """Makes the session's user an admin by a machine's claim; returns the user's name. Raises PERMISSION_DENIED."""
        return (await self._claim(ClaimAdmin(session_id=session.session_id, signed_claim=claim), session, caller)).text

    async def claim_node(self, session: SessionRecord, claim: bytes, caller: Caller) -> tuple[str, int]:
        """Gives a machine's earnings to the session's user; its id, and CPT that it had earned. Raises PERMISSION_DENIED."""
        reply = await self._claim(ClaimNode(session_id=session.session_id, signed_claim=claim), session, caller)
        return reply.text, reply.number

    async def _claim(self, command: ClaimAdmin | ClaimNode, session: SessionRecord, caller: Caller) -> Reply:
        reply = await self._agreement.propose(
            command,
            deadline_s=caller.deadline_s,
            owner=session.username,
            key=derived("claim", caller.idempotency_key, command.signed_claim.hex()),
            keep_ms=keep_ms(caller),
        )
        return accepted(reply)

    async def authenticate(self, token: str) -> SessionRecord:
        """The standing session of a token, from local state (any replica). Raises INVALID_SESSION."""
        session = self._standing(token)
        if session is None:
            await self._leadership.read_barrier(_BARRIER_S)
            session = self._standing(token)
        if session is None:
            raise invalid_session()
        return session

    async def balance(self, session: SessionRecord, username: str, caller: Caller) -> int:
        """The CPT of the session's own user (also for an empty name); an admin may ask for anybody's; linearizable.

        Raises:
            HiveError: PERMISSION_DENIED, USER_NOT_FOUND, NO_LEADER.
        """
        await self._leadership.read_barrier(caller.deadline_s)
        view = self._agreement.view()
        wanted = username or session.username
        if fold(wanted) == fold(session.username):
            return queries.balance(view, session.username)
        if not self.role_of(session).includes(UserRole.ADMIN):
            raise HiveError(Code.PERMISSION_DENIED, "you can ask for your own balance only")
        if queries.user(view, wanted) is None:
            raise HiveError(Code.USER_NOT_FOUND, f"there is no user {validation.shown(wanted)}")
        return queries.balance(view, wanted)

    async def transfer(self, session: SessionRecord, receiver: str, amount: int, caller: Caller) -> int:
        """Moves whole CPT; returns the sender's new balance. Raises INSUFFICIENT_BALANCE and what `propose` raises."""
        validation.check_amount(amount)
        validation.check_username(receiver)
        reply = await self._agreement.propose(
            Transfer(session_id=session.session_id, receiver=receiver, amount=amount),
            deadline_s=caller.deadline_s,
            owner=session.username,
            key=caller.idempotency_key,
            keep_ms=keep_ms(caller),
        )
        return accepted(reply).number

    async def _close_session(self, session_id: str, username: str, caller: Caller) -> None:
        reply = await self._agreement.propose(
            CloseSession(session_id=session_id),
            deadline_s=caller.deadline_s,
            owner=username,
            key=derived("close", session_id),
            keep_ms=keep_ms(caller),
        )
        if reply.code != Code.INVALID_SESSION:
            accepted(reply)

    def _token_of(self, session_id: str) -> str:
        """The token of a session that agreed state has here."""
        session = queries.session(self._agreement.view(), session_id)
        if session is None:  # closed by another call meanwhile
            raise invalid_session()
        return self._signer.sign(session, self._leadership.hive_id())

    def _standing(self, token: str) -> SessionRecord | None:
        """The session of a token as local state has it; None when it, or the token's signer, is not there (yet)."""
        claims = self._known_claims(token)
        if claims is None:
            return None
        check_time(claims, self._agreement.now_ms())
        session = queries.session(self._agreement.view(), claims.session_id)
        if session is None or session.username != claims.username:
            return None
        return session

    async def _claims(self, token: str) -> TokenClaims:
        """What a token says, its signature checked; whether its session stands is another question."""
        claims = self._known_claims(token)
        if claims is None:
            await self._leadership.read_barrier(_BARRIER_S)
            claims = self._known_claims(token)
        if claims is None:
            raise invalid_session()
        check_time(claims, self._agreement.now_ms())
        return claims

    def _known_claims(self, token: str) -> TokenClaims | None:
        """Checked claims; None when the signer is no node with voter right as far as local state knows."""
        claims = self._tokens.get(token)
        if claims is not None:
            return claims
        signer = signer_of(token)
        public_key = _voter_key(self._agreement.view(), signer)
        if public_key is None:
            if queries.node(self._agreement.view(), signer) is not None:
                self._refusals.name(signer, "a token signed without voter right")
            return None
        hive_id = self._leadership.hive_id()
        claims = open_token(token, signer=signer, public_key=public_key, hive_id=hive_id)
        self._tokens.put(token, claims)
        return claims

    def _on_events(self, events: tuple[Event, ...]) -> None:
        """A node with other rights or keys makes other tokens good: what was checked is checked again."""
        if any(isinstance(event, NodeChanged | NodeRemoved | StateReplaced) for event in events):
            self._tokens.clear()


def _successor(operation: str, claims: TokenClaims, caller: Caller) -> str:
    """The id of the session that this call opens in place of a token's: the same for each repetition of it."""
    return derived("s", operation, claims.session_id, caller.idempotency_key)


def _voter_key(view: ReadView, node_id: str) -> bytes | None:
    """The public key (32 bytes) of a node with voter right in agreed state."""
    entry = queries.node(view, node_id)
    if entry is None or entry.kind is not NodeKind.HIVE or entry.rights is not NodeRights.VOTER:
        return None
    try:
        signed = decode_record(SignedNodeRecord, entry.signed_record)
        record = decode_record(NodeRecord, signed.record)
    except DecodeError as error:
        raise InvariantError(f"the agreed record of node {node_id} cannot be decoded") from error
    ensure(node_id_of(record.public_key) == node_id, f"the agreed record of node {node_id} is another node's")
    return record.public_key
