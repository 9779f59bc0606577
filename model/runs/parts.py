"""Which test rows are seen, unseen and controls for a run, and which protocols contradict its training."""

from __future__ import annotations

from collections.abc import Callable

from ...pipeline.protocols import Protocol, load_protocol
from ...pipeline.shardset import ShardSet, ShardSetError
from ..errors import RunError, WrongUseError
from .folder import Run


def own_protocol(run: Run) -> Protocol | None:
    """The protocol that the run was trained under. Raises RunError where its file is gone or was edited."""
    try:
        return load_protocol(run.protocol) if run.protocol else None
    except ValueError as error:
        raise RunError(f"the run's own protocol cannot be used: {error}; name one with --protocol") from error


def check_parts(protocol: Protocol, shard_set: ShardSet, run: Run) -> None:
    """Raises WrongUseError where a source trained on would count as unseen or, real or fake, one not trained on as seen.

    In attribution a class without training rows is none the less the run's own; training has said so.
    """
    trained = run.data["n_train"]
    if leaked := [name for name in (*protocol.unseen, *protocol.controls) if name in trained]:
        raise WrongUseError(
            f"protocol {protocol.name} has {', '.join(leaked)} outside its seen sources; the run was trained on it"
        )
    present = shard_set.document["generators"]
    untrained = [name for name in protocol.seen if name in present and name not in trained]
    if untrained and protocol.task == "detection":
        raise WrongUseError(
            f"protocol {protocol.name} counts {', '.join(untrained)} as seen; the run was not trained on it"
        )


def test_parts(
    shard_set: ShardSet, run: Run, protocol: Protocol | None, *, say: Callable[[str], None]
) -> dict[str, ShardSet]:
    """Test rows: seen, unseen, controls, all labelled by the run's classes."""
    test = shard_set.select(split="test")
    if protocol is None:
        absent = [name for name in run.classes if name not in shard_set.document["generators"]]
        if absent:
            raise ShardSetError(f"{shard_set.root} lacks the run's class {absent[0]}; evaluate on a set that has it")
        seen = test.select(generators=run.classes)
        none = seen.select(split="train").select(split="test")
        parts = {"seen": seen, "unseen": none, "controls": none}
    else:
        if protocol.classes != run.classes:
            raise WrongUseError(
                f"protocol {protocol.name} has the classes {', '.join(protocol.classes)}; the run was trained on "
                f"{', '.join(run.classes)}"
            )
        parts = {part: test.select(protocol=protocol, part=part) for part in ("seen", "unseen", "controls")}
    if len(parts["seen"]) == 0:
        raise ShardSetError(f"{shard_set.root} has no test rows of the run's classes; build the test split")
    if missing := parts["seen"].missing_sources:
        say(f"warning: the protocol names sources that the shard set lacks: {', '.join(missing)}")
    return parts
