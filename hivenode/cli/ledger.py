"""`hivenode ledger`: CPT, in whole tokens."""

from __future__ import annotations

import click

from hivenode.cli.output import print_json, say
from hivenode.cli.settings import INT64_MAX, current_settings, shared_options


@click.group()
@shared_options
def ledger() -> None:
    """Balances and transfers of CPT."""


@ledger.command()
@shared_options
def balance() -> None:
    """Tell your balance."""
    from hivenode.cli.peer import USERS, connect
    from hivenode.pb import nodepool_pb2

    settings = current_settings()
    with connect(settings) as peer:
        username = peer.log_in().username
        request = nodepool_pb2.GetBalanceRequest(username=username)
        answer = peer.call(f"{USERS}GetBalance", request, nodepool_pb2.GetBalanceResponse)
    if settings.json:
        print_json({"username": username, "balance": answer.balance})
    else:
        say(f"{username} has {answer.balance} CPT")


@ledger.command()
@click.argument("receiver")
@click.argument("amount", type=click.IntRange(min=1, max=INT64_MAX))
@shared_options
def transfer(receiver: str, amount: int) -> None:
    """Give AMOUNT CPT to RECEIVER. It happens once, however often the connection breaks."""
    from hivenode.cli.peer import USERS, connect
    from hivenode.pb import nodepool_pb2

    settings = current_settings()
    with connect(settings) as peer:
        username = peer.log_in().username
        request = nodepool_pb2.TransferRequest(receiver_username=receiver, amount=amount)
        answer = peer.call(f"{USERS}Transfer", request, nodepool_pb2.TransferResponse)
    if settings.json:
        document = {"username": username, "receiver": receiver, "amount": amount, "balance": answer.new_balance}
        print_json(document)
    else:
        say(f"{receiver} received {amount} CPT; you have {answer.new_balance} left")
