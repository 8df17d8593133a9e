"""The compiled training step and the evaluation pass, under any strategy.

The step has three parts, each once: augmentation on the device, which XLA compiles in
any case, the core (forward, loss, gradients), which it compiles where `jit_compile`
asks, and the update, which it compiles on a single device. The update is computed and
then, unless every replica's loss and gradients are finite, not taken: no condition of
the graph waits for the host, and nothing in a step is read back by Python.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from cxr.input import xla
from cxr.prediction.predictor import pad

# Loss scale of float16 training, as Micikevicius et al. 2018: start high, halve on
# overflow, double after a long run of finite steps.
_INITIAL_LOSS_SCALE = 2.0**15
_LOSS_SCALE_GROWTH_STEPS = 2000

Augment = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a step minimises.

    Attributes:
      head: `softmax` (categorical) or `sigmoid` (binary) cross-entropy.
      num_classes: C.
      label_smoothing: share of the target spread evenly over the classes.
      class_weights: float [C], each example's loss is multiplied by its class's.
      evidence: float32 [N, C], what is known of each example of the split beside the
        image, as log-probabilities: added to the logits, so that the network learns
        what it does not tell. Predictions are made without it.
    """

    head: str
    num_classes: int
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    evidence: np.ndarray | None = dataclasses.field(default=None, compare=False)

    def losses(
        self, logits: tf.Tensor, labels: tf.Tensor, indices: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Returns the loss of each example, float32 [B].

        Args:
          logits: float32 [B, C], or [B, 1] for a sigmoid head.
          labels: int32 [B] in 0..C-1.
          indices: int64 [B], of the examples in their split; for `evidence` only.
        """
        if self.evidence is not None:
            known = tf.gather(tf.constant(self.evidence, tf.float32), indices)
            if self.head == "sigmoid":
                known = known[:, 1:] - known[:, :1]
            logits += known
        smooth = self.label_smoothing
        if self.head == "sigmoid":
            targets = tf.cast(labels, tf.float32) * (1 - smooth) + smooth / 2
            losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits[:, 0])
        else:
            targets = tf.one_hot(labels, self.num_classes)
            targets = targets * (1 - smooth) + smooth / self.num_classes
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
        if self.class_weights is not None:
            losses *= tf.gather(tf.constant(self.class_weights, tf.float32), labels)
        return losses

    def predictions(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns the likeliest class of each example, int32 [B]."""
        if self.head == "sigmoid":
            return tf.cast(logits[:, 0] > 0, tf.int32)
        return tf.argmax(logits, axis=-1, output_type=tf.int32)


class TrainingStep:
    """The compiled training step with everything that it changes.

    Args:
      network: Keras model `[inputs, dropout_key] -> logits`; made, like the
        optimizer, under `strategy`'s scope.
      optimizer: Keras optimizer, not yet built.
      objective: the loss.
      augment: `(images, step, indices) -> inputs of the network`; None passes
        float32 images on.
      rates: learning rate of each step of the stage, float32 [steps].
      first_step: global step at which the stage began.
      step: global step to continue from.
      strategy: TensorFlow distribution strategy; the current one by default.
      loss_scaling: scale the loss, as float16 needs.
      jit_compile: compile the core with XLA.
      state_of: the model whose variables are the state; `network` by default.

    Attributes:
      step: global step, int64 variable.
      rate_factor: what multiplies `rates`, float32 variable.
      first_bad_step: first step whose loss or gradients were not finite, from
        which on nothing is updated; -1 as long as there was none.
    """

    def __init__(
        self,
        network: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        objective: Objective,
        *,
        augment: Augment | None = None,
        rates: np.ndarray,
        first_step: int = 0,
        step: int = 0,
        strategy: tf.distribute.Strategy | None = None,
        loss_scaling: bool = False,
        jit_compile: bool = False,
        state_of: keras.Model | None = None,
    ):
        self._network, self._optimizer = network, optimizer
        self._objective, self._augment = objective, augment
        self._strategy = strategy or tf.distribute.get_strategy()
        self._replicas = self._strategy.num_replicas_in_sync
        self._rates, self._first_step = tf.constant(rates, tf.float32), first_step
        self._loss_scaling, self._state_of = loss_scaling, state_of or network
        # A nested tf.function could not synchronise BatchNormalization over
        # replicas, so there is one only where XLA needs it.
        self._core = self._compute
        if jit_compile:
            self._core = tf.function(self._compute, jit_compile=True)
        # One pass over weights, moments and gradients, where Keras' optimizer runs some
        # twenty kernels a variable: VGG16's on an H100 .6 ms instead of 8. On a CPU it
        # takes back what choosing costs (5 % of VGG16's step at 224 px, 40 % at 32 px,
        # for the copies of old values), for .3 to 1.3 s of compiling a stage.
        self._update = xla.compiled(self._update_one)
        with self._strategy.scope():
            optimizer.build(network.trainable_variables)
            self._make_variables(step)
        self._function = tf.function(self._run, reduce_retracing=True)
        self._single: Callable | None = None
        self._shape: tf.TensorShape | None = None
        self.run_many = tf.function(self._run_many)

    def _make_variables(self, step: int) -> None:
        def scalar(value, dtype):
            return tf.Variable(
                value,
                dtype=dtype,
                trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )

        def total(dtype):
            return tf.Variable(
                tf.zeros((), dtype),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )

        self.step = scalar(step, tf.int64)
        self.rate_factor = scalar(1.0, tf.float32)
        self.first_bad_step = scalar(-1, tf.int64)
        self._scale = scalar(
            _INITIAL_LOSS_SCALE if self._loss_scaling else 1.0, tf.float32
        )
        self._good_steps = scalar(0, tf.int64)
        # float64: a sum over an epoch of per-example losses, without drift.
        self._loss_sum, self._correct = total(tf.float64), total(tf.int64)
        self._count = total(tf.int64)

    def run(self, batch: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> None:
        """Runs one step on `(images, labels, indices)`, updating all variables.

        Without replicas by the graph of the batch's shape, without asking each time
        which graph fits: 115 instead of 195 us of Python a step.
        """
        if self._replicas > 1:
            self._function(batch)
            return
        if batch[0].shape != self._shape:
            self._single = self._function.get_concrete_function(batch)
            self._shape = batch[0].shape
        assert self._single is not None
        self._single(batch)

    # --- the graph

    def _run_many(self, iterator, count: tf.Tensor) -> None:
        """Runs `count` steps on batches of an iterator without leaving the graph."""
        for _ in tf.range(count):
            self._run(next(iterator))

    def _run(self, batch: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> None:
        strategy = self._strategy
        kept, gradients, totals, bad_loss, bad = strategy.run(
            self._forward_backward, args=batch
        )
        sum_ = tf.distribute.ReduceOp.SUM
        any_bad = strategy.reduce(sum_, bad, axis=None) > 0
        any_bad_loss = strategy.reduce(sum_, bad_loss, axis=None) > 0
        usable = tf.logical_and(tf.logical_not(any_bad), self.first_bad_step < 0)
        rate = tf.gather(self._rates, self.step - self._first_step) * self.rate_factor
        self._optimizer.learning_rate.assign(rate)
        if self._replicas > 1:
            old = strategy.run(self._apply, args=(gradients, totals, usable))
            self._select([*kept, *old], usable)
        else:
            self._update(kept, gradients, totals, usable)
        self._watch(any_bad, any_bad_loss)
        self.step.assign_add(1)

    def _forward_backward(self, images, labels, indices):
        # BatchNormalization's moving statistics change in the forward pass: their
        # old values are kept until the step is known to be finite.
        kept = [tf.identity(v.value) for v in self._network.non_trainable_variables]
        if self._augment is None:
            inputs = tf.cast(images, tf.float32)
        else:
            inputs = self._augment(images, self.step.value(), indices)
        key = tf.stack([tf.fill(tf.shape(indices), self.step.value()), indices], axis=1)
        return kept, *self._core(inputs, key, labels, self._scale.value())

    def _compute(self, inputs, key, labels, scale):
        global_batch = tf.cast(tf.shape(labels)[0] * self._replicas, tf.float32)
        with tf.GradientTape() as tape:
            logits = self._network([inputs, key], training=True)
            losses = self._objective.losses(logits, labels, key[:, 1])
            # The optimizer sums over replicas, so each gives its share.
            loss = tf.reduce_sum(losses) / global_batch
            if self._network.losses:
                loss += tf.add_n(self._network.losses) / self._replicas
            scaled = loss * scale
        weights = [v.value for v in self._network.trainable_variables]
        gradients = [
            g / tf.cast(scale, g.dtype) for g in tape.gradient(scaled, weights)
        ]
        finite = [tf.reduce_all(tf.math.is_finite(g)) for g in gradients]
        bad_loss = tf.logical_not(tf.math.is_finite(loss))
        bad = tf.logical_or(bad_loss, tf.logical_not(tf.reduce_all(finite)))
        correct = tf.equal(self._objective.predictions(logits), labels)
        totals = (
            tf.reduce_sum(tf.cast(losses, tf.float64)),
            tf.reduce_sum(tf.cast(correct, tf.int64)),
            tf.size(labels, out_type=tf.int64),
        )
        return gradients, totals, tf.cast(bad_loss, tf.int32), tf.cast(bad, tf.int32)

    @property
    def _updated(self) -> list[keras.Variable]:
        """The variables that the optimizer changes."""
        return [*self._network.trainable_variables, *self._optimizer.variables]

    def _apply(self, gradients, totals, usable) -> list[tf.Tensor]:
        """Updates, be the step usable or not; returns the values of before."""
        old = [tf.identity(variable.value) for variable in self._updated]
        self._optimizer.apply(gradients, self._network.trainable_variables)
        for variable, value in zip(self._totals, totals, strict=True):
            variable.assign_add(tf.where(usable, value, tf.zeros_like(value)))
        return old

    def _update_one(self, kept, gradients, totals, usable) -> None:
        """Updates a single device: chooses between new and old in one pass."""
        old = self._apply(gradients, totals, usable)
        for variable, value in zip(self._changed, [*kept, *old], strict=True):
            variable.assign(tf.where(usable, variable.value, value))

    def _select(self, old, usable) -> None:
        """Takes back what a bad step changed, on every replica, without reducing."""

        def choose(variable, value, usable):
            variable.assign(tf.where(usable, variable, value))

        for variable, value in zip(self._changed, old, strict=True):
            self._strategy.extended.update(
                variable.value, choose, args=(value, usable), group=False
            )

    @property
    def _changed(self) -> list[keras.Variable]:
        """All that a step changes and that keeps its value if the step is bad."""
        return [*self._network.non_trainable_variables, *self._updated]

    def _watch(self, bad: tf.Tensor, bad_loss: tf.Tensor) -> None:
        """Remembers the first bad step; adapts the loss scale.

        Under loss scaling, gradients that overflow with a finite loss are an
        everyday event, answered by a smaller scale, and no fault.
        """
        fault = bad_loss if self._loss_scaling else bad
        first = tf.logical_and(fault, self.first_bad_step < 0)
        self.first_bad_step.assign(tf.where(first, self.step, self.first_bad_step))
        if not self._loss_scaling:
            return
        good = tf.where(bad, tf.zeros((), tf.int64), self._good_steps + 1)
        grown = good >= _LOSS_SCALE_GROWTH_STEPS
        factor = tf.where(bad, 0.5, tf.where(grown, 2.0, 1.0))
        self._scale.assign(self._scale * factor)
        self._good_steps.assign(tf.where(grown, tf.zeros((), tf.int64), good))

    # --- the state, as Python sees it

    @property
    def _totals(self) -> tuple[tf.Variable, ...]:
        return self._loss_sum, self._correct, self._count

    def read_totals(self) -> dict[str, float | None]:
        """Returns the epoch's mean loss and accuracy so far (waits for the step)."""
        loss_sum, correct, count = (float(v.numpy()) for v in self._totals)
        if not count:
            return {"loss": None, "accuracy": None}
        return {"loss": loss_sum / count, "accuracy": correct / count}

    def current_rate(self) -> float:
        """Returns the learning rate of the step that ran last, 0.001 as 0.001."""
        return float(str(self._optimizer.learning_rate.numpy()))

    def reset_totals(self) -> None:
        """Starts an epoch's sums anew."""
        for variable in self._totals:
            variable.assign(tf.zeros((), variable.dtype))

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns every number that the next step depends on, by name."""
        state = {
            f"model/{i:03d}": variable.numpy()
            for i, variable in enumerate(self._state_of.variables)
        }
        for i, variable in enumerate(self._optimizer.variables):
            state[f"optimizer/{i:03d}"] = variable.numpy()
        for name, variable in self._scalars().items():
            state[f"step/{name}"] = variable.numpy()
        return state

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned; ValueError where names differ."""
        expected = self.get_state()
        if set(state) != set(expected):
            odd = sorted(set(state) ^ set(expected))
            raise ValueError(f"the state does not fit this model: {odd[:4]} differ")
        with self._strategy.scope():
            for i, variable in enumerate(self._state_of.variables):
                variable.assign(state[f"model/{i:03d}"])
            for i, variable in enumerate(self._optimizer.variables):
                variable.assign(state[f"optimizer/{i:03d}"])
            for name, variable in self._scalars().items():
                _assign(variable, state[f"step/{name}"], self._holds_sums)

    @property
    def _holds_sums(self) -> bool:
        """Whether sums over all replicas are restored here; of several workers one."""
        return self._strategy.extended.should_checkpoint

    def _scalars(self) -> dict[str, tf.Variable]:
        return {
            "step": self.step,
            "rate_factor": self.rate_factor,
            "first_bad_step": self.first_bad_step,
            "scale": self._scale,
            "good_steps": self._good_steps,
            "loss_sum": self._loss_sum,
            "correct": self._correct,
            "count": self._count,
        }


def _assign(variable: tf.Variable, value: np.ndarray, here: bool) -> None:
    """Gives a variable a value, one that sums over replicas the sum.

    Assigned as a whole, such a sum is divided over the replicas and, in integers, loses
    what does not divide: 19 became 18.
    """
    if variable.synchronization != tf.VariableSynchronization.ON_READ:
        variable.assign(value)
        return
    for replica, part in enumerate(getattr(variable, "values", [variable])):
        part.assign(value if here and replica == 0 else np.zeros_like(value))


class BatchMap:
    """A function of whole splits, each example exactly once, on all replicas.

    Args:
      function: `(inputs [b, ...], indices int64 [b], argument) -> float32 [b, D]`,
        run on each replica's share.
      strategy: TensorFlow distribution strategy; the current one by default.
      gather: maps a worker's array to all workers', [workers, ...]; for several.
    """

    def __init__(
        self,
        function: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor],
        *,
        strategy: tf.distribute.Strategy | None = None,
        gather: Callable[[np.ndarray], np.ndarray] = lambda array: array[None],
    ):
        self._strategy = strategy or tf.distribute.get_strategy()
        self._gather = gather
        self._step = tf.function(
            lambda batch, argument: self._strategy.run(function, (*batch, argument))
        )

    def run(
        self,
        batches: tf.data.Dataset,
        *,
        count: int,
        batch_size: int,
        argument: int = 0,
        check: Callable[[], None] = lambda: None,
    ) -> np.ndarray:
        """Returns float32 [count, D], in the order of the batches.

        The last, partial batch is padded to `batch_size`, so that one graph
        serves all and every replica gets a share; the padding is cut off again.

        Args:
          batches: of `(inputs [b, ...], labels, indices)`, b <= batch_size.
          count: examples in `batches` together.
          batch_size: a multiple of the replicas.
          argument: passed on to the function as an int64 scalar.
          check: called before each batch; may raise to leave.
        """
        padded = batches.map(
            lambda inputs, _, indices: (
                pad(inputs, batch_size),
                pad(indices, batch_size),
            )
        )
        argument = tf.constant(argument, tf.int64)
        outputs = []
        for batch in _shares(padded, self._strategy, batch_size):
            check()
            shares = self._step(batch, argument)
            outputs += self._strategy.experimental_local_results(shares)
        found = np.concatenate([share.numpy() for share in outputs])
        # Workers have columns of each batch.
        by_batch = found.reshape(-(-count // batch_size), -1, found.shape[-1])
        whole = np.moveaxis(self._gather(by_batch), 0, 1)
        return whole.reshape(-1, found.shape[-1])[:count]


def _shares(
    batches: tf.data.Dataset, strategy: tf.distribute.Strategy, batch_size: int
) -> Iterator:
    """Iterates whole batches, of each the part of this process's replicas."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        yield from strategy.experimental_distribute_dataset(batches)
        return
    size = batch_size // strategy.num_replicas_in_sync

    def part(batch, context):
        at = context.replica_id_in_sync_group * size
        return tuple(tensor[at : at + size] for tensor in batch)

    for batch in batches:
        yield strategy.experimental_distribute_values_from_function(
            functools.partial(part, batch)
        )


def probabilities(network: keras.Model, head: str) -> Callable:
    """Returns the BatchMap function of a training network: float32 [b, C].

    Args:
      network: Keras model `[inputs, dropout_key] -> logits`.
      head: `softmax` or `sigmoid`; the latter gives two columns as well.
    """

    def function(inputs, indices, argument):
        del argument
        key = tf.stack([tf.zeros_like(indices), indices], axis=1)
        logits = network([tf.cast(inputs, tf.float32), key], training=False)
        if head == "softmax":
            return tf.nn.softmax(logits)
        positive = tf.sigmoid(logits)
        return tf.concat([1 - positive, positive], axis=1)

    return function
