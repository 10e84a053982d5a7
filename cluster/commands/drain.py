"""`baton drain`: a node without workers, before maintenance."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.fleet.node_drain import NodeStatus
    from cluster.local.every_fleet import EveryFleet


def command(
    node: Annotated[
        str, typer.Argument(metavar="NODE", help="Its address, or its id or the beginning of that.", show_default=False)
    ] = "",
    undo: Annotated[bool, typer.Option("--undo", help="It may have workers again.")] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.0, help="Seconds to wait until it is empty; it goes on by itself.")
    ] = 600.0,
) -> None:
    """Empty a node: what is there is started elsewhere first, and no worker comes back to it. Without NODE: list them.

    baton drain 10.0.0.3

    baton drain 10.0.0.3 --undo

    Requests that run are finished, as by a change of the config. The mark is the node's own: one that Ray was started
    on anew is another node.
    """
    from cluster.commands.status import find
    from cluster.local.every_fleet import EveryFleet

    fleets = EveryFleet(find()[1])
    if not node:
        _list(fleets.nodes())
        return
    node_id = fleets.drain_node(node, undo=undo)
    if undo:
        typer.echo(f"{node} may have workers again")
        return
    found = _follow(fleets, node_id, timeout)
    shown = found.shown if found is not None else node
    typer.echo(f"{shown} is {'empty' if found is not None else 'gone'}: safe to take down")


def _list(nodes: "Sequence[NodeStatus]") -> None:
    for node in nodes:
        marks = [mark for mark, holds in (("head", node.is_head), ("drained", node.is_drained)) if holds]
        has = [*node.workers, *([f"{node.num_ingress_replicas} x ingress"] if node.num_ingress_replicas else [])]
        said = f" [{', '.join(marks)}]" if marks else ""
        typer.echo(f"{node.node_id[:8]}  {node.address}{said}  {', '.join(has) or 'empty'}")


def _follow(fleets: "EveryFleet", node_id: str, timeout_s: float) -> "NodeStatus | None":
    from cluster.local.node_drain import NodeDrain

    said = [""]

    def say(text: str) -> None:
        if text != said[0]:
            typer.echo(text, err=True)
        said[0] = text

    return NodeDrain(fleet=fleets, move_ingress=fleets.move_ingress, report=say, timeout_s=timeout_s).follow(node_id)
