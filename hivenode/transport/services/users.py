"""UserService, and the user calls of NodePoolService and HiveService."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hivenode.encoding.claim import ClaimPurpose
from hivenode.errors import Code, HiveError
from hivenode.pb import hive_pb2, nodepool_pb2
from hivenode.pool.records import UserName, UserRecord, UserRole
from hivenode.runtime.ports import Accounts, MachineOwner
from hivenode.transport.interceptors.calls import Call
from hivenode.transport.services.handlers import Handler

WRONG_LOGIN: Final = "wrong user name or password"
"""One text for both, so that a login tells nobody which names exist."""


class UserHandlers:
    """Args: user_of: the user of a name in this node's own state."""

    def __init__(
        self, accounts: Accounts, owner: MachineOwner, user_of: Callable[[UserName], UserRecord | None]
    ) -> None:
        self._accounts = accounts
        self._owner = owner
        self._user_of = user_of

    def table(self) -> dict[str, Handler]:
        users, pool, hive = "/nodepool.UserService/", "/nodepool.NodePoolService/", "/hive.HiveService/"
        return {
            users + "Register": self.register,
            users + "Login": self.login,
            users + "GetBalance": self.balance,
            users + "Transfer": self.transfer,
            users + "RefreshToken": self.refresh,
            pool + "RegisterUser": self.register_user,
            pool + "LoginUser": self.login,
            hive + "WhoAmI": self.who_am_i,
            hive + "Logout": self.logout,
            hive + "ChangePassword": self.change_password,
            hive + "SetUserRole": self.set_role,
            hive + "ClaimAdmin": self.claim_admin,
            hive + "ClaimNode": self.claim_node,
            hive + "MakeClaim": self.make_claim,
        }

    async def _register(self, request: Any, call: Call) -> str:
        name = request.username
        try:
            return await self._accounts.register(name, request.password, request.email, call.caller)
        except HiveError as error:
            if error.code is Code.USER_EXISTS:
                raise HiveError(Code.USER_EXISTS, f"user {name} already exists") from error
            raise

    async def register(self, request: Any, call: Call) -> Any:
        await self._register(request, call)
        return nodepool_pb2.RegisterResponse(success=True, message=f"user {request.username} registered")

    async def register_user(self, request: Any, call: Call) -> Any:
        user_id = await self._register(request, call)
        return nodepool_pb2.RegisterUserResponse(
            success=True, message=f"user {request.username} registered", user_id=user_id
        )

    async def login(self, request: Any, call: Call) -> Any:
        try:
            token = await self._accounts.login(request.username, request.password, call.caller)
        except HiveError as error:
            if error.code in (Code.INVALID_PASSWORD, Code.USER_NOT_FOUND):
                raise HiveError(Code.INVALID_PASSWORD, WRONG_LOGIN) from error
            raise
        return nodepool_pb2.LoginResponse(success=True, message="logged in", token=token)

    async def balance(self, request: Any, call: Call) -> Any:
        name = request.username or call.session.username
        balance = await self._accounts.balance(call.session, name, call.caller)
        return nodepool_pb2.GetBalanceResponse(success=True, balance=balance)

    async def transfer(self, request: Any, call: Call) -> Any:
        receiver, amount = request.receiver_username, request.amount
        left = await self._accounts.transfer(call.session, receiver, amount, call.caller)
        return nodepool_pb2.TransferResponse(success=True, message=f"{amount} CPT sent to {receiver}", new_balance=left)

    async def refresh(self, request: Any, call: Call) -> Any:
        token = await self._accounts.refresh(call.token, call.caller)
        return nodepool_pb2.RefreshTokenResponse(success=True, message="token renewed", new_token=token)

    async def who_am_i(self, request: Any, call: Call) -> Any:
        session = call.session
        user = self._user_of(session.username)
        return hive_pb2.WhoAmIResponse(
            username=session.username,
            user_id=user.user_id if user else "",
            user_role=user.role.value if user else "",
            session_expires_ms=session.expires_ms,
        )

    async def logout(self, request: Any, call: Call) -> Any:
        await self._accounts.logout(call.token, call.caller)
        return hive_pb2.LogoutResponse()

    async def change_password(self, request: Any, call: Call) -> Any:
        old, new = request.old_password, request.new_password
        token = await self._accounts.change_password(call.token, old, new, call.caller)
        return hive_pb2.ChangePasswordResponse(token=token)

    async def set_role(self, request: Any, call: Call) -> Any:
        role = UserRole(request.user_role.lower())
        name = await self._accounts.set_role(call.session, request.username, role, call.caller)
        return hive_pb2.SetUserRoleResponse(username=name, user_role=role.value)

    async def claim_admin(self, request: Any, call: Call) -> Any:
        name = await self._accounts.claim_admin(call.session, request.claim, call.caller)
        return hive_pb2.ClaimAdminResponse(username=name)

    async def claim_node(self, request: Any, call: Call) -> Any:
        node_id, earned = await self._accounts.claim_node(call.session, request.claim, call.caller)
        return hive_pb2.ClaimNodeResponse(node_id=node_id, cpt_received=earned)

    async def make_claim(self, request: Any, call: Call) -> Any:
        purpose = ClaimPurpose(request.purpose.lower())
        claim = await self._owner.redeem(request.code, purpose, request.username)
        return hive_pb2.MakeClaimResponse(claim=claim)
