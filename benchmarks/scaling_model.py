"""Predicts training on many workers from a step, a link and a number of bytes.

Every function is one formula; docs/scaling.md holds what they say of the figures that
`benchmarks.scaling` has measured, and tests/test_scaling.py holds both to each other.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Link:
    """What connects workers.

    Attributes:
      latency_s: seconds of a message between two workers, whatever it holds.
      bytes_per_s: of one worker's messages, one way.
    """

    latency_s: float
    bytes_per_s: float


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step of one worker alone.

    Attributes:
      seconds: of its own share of the batch.
      reduced_bytes: what is summed over the workers: gradients and statistics.
      collectives: in how many calls.
    """

    seconds: float
    reduced_bytes: int
    collectives: int


def all_reduce_s(nbytes: float, workers: int, link: Link) -> float:
    """Returns the seconds of a ring's all-reduce.

    2 (n - 1) rounds, in each of which every worker sends 1 / n of the bytes (Patarasu
    and Yuan, Bandwidth optimal all-reduce algorithms, 2009).
    """
    rounds = 2 * (workers - 1)
    return rounds * (link.latency_s + nbytes / workers / link.bytes_per_s)


def nodes_all_reduce_s(
    nbytes: float, nodes: int, devices: int, *, inside: Link, between: Link
) -> float:
    """Returns the seconds of an all-reduce over nodes of several devices each.

    A sum inside every node, a ring between the nodes, in which a node's devices share
    its network, and the way back (as NCCL's hierarchical algorithms).
    """
    return all_reduce_s(nbytes, devices, inside) + all_reduce_s(nbytes, nodes, between)


def step_s(step: Step, reduce_s: float) -> float:
    """Returns the seconds of a step on many workers.

    Nothing overlaps: TensorFlow packs all gradients into one all-reduce, which begins
    when the last of them is there. So this is an upper bound for engines that overlap.

    Args:
      step: of one worker alone.
      reduce_s: of all its collectives together.
    """
    return step.seconds + reduce_s


def collectives_s(step: Step, workers: int, link: Link) -> float:
    """Returns the seconds of a step's collectives on a ring of workers."""
    bare = all_reduce_s(0, workers, link)
    return bare * (step.collectives - 1) + all_reduce_s(
        step.reduced_bytes, workers, link
    )


def efficiency(step: Step, reduce_s: float) -> float:
    """Returns the share of workers' computing that remains, 0..1."""
    return step.seconds / step_s(step, reduce_s)


def fitted(sizes: list[int], seconds: list[float], workers: int) -> Link:
    """Returns the link that explains measured all-reduces best.

    Least squares of relative errors, as sizes span four decades.

    Args:
      sizes: bytes of each.
      seconds: of each.
      workers: that took part.
    """
    rounds = 2 * (workers - 1)
    rows = [
        (rounds / s, rounds * size / workers / s)
        for size, s in zip(sizes, seconds, strict=True)
    ]
    # Normal equations of rows @ (latency, 1 / bandwidth) = 1.
    aa = sum(a * a for a, _ in rows)
    ab = sum(a * b for a, b in rows)
    bb = sum(b * b for _, b in rows)
    sa, sb = sum(a for a, _ in rows), sum(b for _, b in rows)
    scale = aa * bb - ab * ab
    latency = (sa * bb - sb * ab) / scale
    return Link(max(latency, 0.0), scale / (aa * sb - ab * sa))


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a film costs, wherever it is the n-th that counts.

    Attributes:
      plan_bytes: of memory, while a set is planned.
      reader_bytes: of memory in every worker, as long as it trains.
      stored_bytes: on disk or in a bucket.
      convert_core_s: seconds of a core that convert it.
      hash_bytes_per_s: of the thread that compares shards with the manifest.
    """

    plan_bytes: float
    reader_bytes: float
    stored_bytes: float
    convert_core_s: float
    hash_bytes_per_s: float


def plan_gib(films: float, costs: Costs) -> float:
    """Returns the memory of the plan of a set, GiB."""
    return films * costs.plan_bytes / 2**30


def worker_gib(films: float, costs: Costs) -> float:
    """Returns what every worker keeps to know where each film lies, GiB."""
    return films * costs.reader_bytes / 2**30


def stored_tib(films: float, costs: Costs) -> float:
    """Returns the size of the set, TiB."""
    return films * costs.stored_bytes / 2**40


def hashing_h(films: float, costs: Costs) -> float:
    """Returns the hours of the check of all shards that every worker makes."""
    return films * costs.stored_bytes / costs.hash_bytes_per_s / 3600


def conversion_h(films: float, cores: int, costs: Costs) -> float:
    """Returns the hours of a conversion on so many cores."""
    return films * costs.convert_core_s / cores / 3600


def epoch_s(films: float, workers: int, images_per_s: float, share: float) -> float:
    """Returns the seconds of an epoch.

    Args:
      films: of the training split.
      workers: that share it.
      images_per_s: of one worker alone.
      share: `efficiency` of all of them.
    """
    return films / (workers * images_per_s * share)
