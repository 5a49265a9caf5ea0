"""`hivenode user`: accounts and logins."""

from __future__ import annotations

import time

import click

from hivenode.cli import logins
from hivenode.cli.output import plain_values, print_json, say
from hivenode.cli.passwords import ask_password
from hivenode.cli.settings import current_settings, shared_options
from hivenode.errors import Code, HiveError


@click.group()
@shared_options
def user() -> None:
    """Accounts and logins."""


@user.command()
@click.argument("username")
@click.option("--email", default="", help="Address to keep with the account.")
@shared_options
def register(username: str, email: str) -> None:
    """Make an account. The password is asked for, or read from the first line of stdin."""
    from hivenode.cli.peer import USERS, connect
    from hivenode.pb import nodepool_pb2

    settings = current_settings()
    with connect(settings) as peer:
        password = ask_password(username, confirm=True)
        request = nodepool_pb2.RegisterRequest(username=username, password=password, email=email)
        peer.call(f"{USERS}Register", request, nodepool_pb2.RegisterResponse)
    if settings.json:
        print_json({"username": username})
    else:
        say(f"{username} is registered: log in with `hivenode user login {username}`")


@user.command()
@click.argument("username")
@shared_options
def login(username: str) -> None:
    """Log in, and stay so for 24 hours at every machine of the hive."""
    from hivenode.cli.peer import HIVE, USERS, connect
    from hivenode.pb import hive_pb2, nodepool_pb2

    settings = current_settings()
    with connect(settings) as peer:
        hive_id = peer.hive_id
        password = ask_password(username, confirm=False)
        request = nodepool_pb2.LoginRequest(username=username, password=password)
        peer.token = peer.call(f"{USERS}Login", request, nodepool_pb2.LoginResponse).token
        session = peer.call(f"{HIVE}WhoAmI", hive_pb2.WhoAmIRequest(), hive_pb2.WhoAmIResponse)
        token, expires_ms = peer.token, session.session_expires_ms
    logins.remember(hive_id, logins.Login(username=username, token=token, expires_ms=expires_ms))
    if settings.json:
        print_json({"username": username, "hive_id": hive_id, "expires_ms": expires_ms})
    else:
        say(f"{username} is logged in until {_moment(expires_ms)}")


@user.command()
@shared_options
def logout() -> None:
    """End the session everywhere and forget it here."""
    from hivenode.cli.peer import HIVE, connect
    from hivenode.pb import hive_pb2

    settings = current_settings()
    with connect(settings) as peer:
        standing = logins.find(peer.hive_id)
        if standing is not None:
            peer.token = standing.token
            try:
                peer.call(f"{HIVE}Logout", hive_pb2.LogoutRequest(), hive_pb2.LogoutResponse)
            except HiveError as error:
                # A session that has ended already is what was wanted.
                if error.code is not Code.INVALID_SESSION:
                    raise
            logins.forget(peer.hive_id)
    name = standing.username if standing is not None else None
    if settings.json:
        print_json({"username": name})
    else:
        say(f"{name} is logged out" if name else "nobody was logged in")


@user.command()
@shared_options
def password() -> None:
    """Change the password, and end all other sessions everywhere.

    The old and the new password are asked for, or read from the first two lines of stdin.
    """
    from hivenode.cli.peer import HIVE, connect
    from hivenode.pb import hive_pb2

    settings = current_settings()
    with connect(settings) as peer:
        hive_id, name = peer.hive_id, peer.log_in().username
        old = ask_password(name, confirm=False)
        new = ask_password(name, confirm=True, question=f"New password of {name}")
        request = hive_pb2.ChangePasswordRequest(old_password=old, new_password=new)
        peer.token = peer.call(f"{HIVE}ChangePassword", request, hive_pb2.ChangePasswordResponse).token
        session = peer.call(f"{HIVE}WhoAmI", hive_pb2.WhoAmIRequest(), hive_pb2.WhoAmIResponse)
        token, expires_ms = peer.token, session.session_expires_ms
    logins.remember(hive_id, logins.Login(username=name, token=token, expires_ms=expires_ms))
    if settings.json:
        print_json({"username": name, "hive_id": hive_id, "expires_ms": expires_ms})
    else:
        say(f"{name} has a new password; all other sessions have ended")


@user.command("claim-admin")
@shared_options
def claim_admin() -> None:
    """Become an admin of the hive, by owning this machine.

    The daemon's data directory must be readable, and the machine must hold the hive's log.
    """
    from hivenode.cli.claims import make_claim
    from hivenode.cli.peer import HIVE, connect
    from hivenode.pb import hive_pb2

    settings = current_settings()
    with connect(settings) as peer:
        name = peer.log_in().username
        claim = make_claim(peer, settings, "admin", name)
        peer.call(f"{HIVE}ClaimAdmin", hive_pb2.ClaimAdminRequest(claim=claim), hive_pb2.ClaimAdminResponse)
    if settings.json:
        print_json({"username": name, "user_role": "admin"})
    else:
        say(f"{name} is an admin of the hive")


@user.command()
@click.argument("username")
@click.argument("role", type=click.Choice(("user", "operator", "admin")))
@shared_options
def role(username: str, role: str) -> None:
    """Give USERNAME a ROLE. For admins."""
    from hivenode.cli.peer import HIVE, connect
    from hivenode.pb import hive_pb2

    settings = current_settings()
    with connect(settings) as peer:
        peer.log_in()
        request = hive_pb2.SetUserRoleRequest(username=username, user_role=role)
        done = peer.call(f"{HIVE}SetUserRole", request, hive_pb2.SetUserRoleResponse)
    if settings.json:
        print_json(plain_values(done))
    else:
        say(f"{done.username} is {'an' if role[0] in 'ao' else 'a'} {role} now")


@user.command()
@shared_options
def whoami() -> None:
    """Tell who is logged in."""
    from hivenode.cli.peer import HIVE, connect
    from hivenode.pb import hive_pb2

    settings = current_settings()
    with connect(settings) as peer:
        peer.log_in()
        session = peer.call(f"{HIVE}WhoAmI", hive_pb2.WhoAmIRequest(), hive_pb2.WhoAmIResponse)
    if settings.json:
        print_json(plain_values(session))
    else:
        until = _moment(session.session_expires_ms)
        say(f"{session.username} ({session.user_role}), logged in until {until}")


def _moment(time_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(time_ms / 1000))
