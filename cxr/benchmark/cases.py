"""Lists the benchmark's cases in their order, and what each of them does.

`read`, `parse` and `decode` bring every image from its shard, as the configured mode
does when it fills memory or streams; `batch` is what the training loop draws.
`augment` and `step` run on one resident batch; `trivial` is training with a network
that costs nothing, `train` with the network asked for. Nothing here is a copy:
readers, sources, augmentation and the compiled step are the ones that training
imports.
"""

INPUT = {
    "read": "records from the shards",
    "parse": "+ parsed, checksums verified",
    "decode": "+ decoded, reduced to the model's size",
    "batch": "shuffled batches, as training draws them",
}
COMPUTE = {
    "augment": "augmentation of a resident batch",
    "step": "forward, backward, update of a resident batch",
    "trivial": "whole training, network of no cost",
    "train": "whole training",
}
CASES = INPUT | COMPUTE
