import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from cxr.input import augmenters
from cxr.training import devices, models, steps

pytestmark = pytest.mark.slow  # each test compiles steps

BATCH = 8


@pytest.fixture(autouse=True)
def plain_policy():
    yield
    keras.config.set_dtype_policy("float32")


def two_devices():
    return devices.mirrored_cpus(("CPU:0", "CPU:1"))


def dense_network(dropout=0.0, norm=False, units=2, size=4):
    """A small net `[image, key] -> logits` whose parts can be switched."""
    image, key = keras.Input((size, size, 1)), keras.Input((2,), dtype="int64")
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(image))
    if norm:
        x = keras.layers.BatchNormalization(synchronized=True)(x)
    x = keras.layers.Flatten()(x)
    x = models.StatelessDropout(dropout, seed=3)(x, key)
    return keras.Model([image, key], keras.layers.Dense(units, dtype="float32")(x))


def make_step(
    strategy=None, optimizer=None, network=dense_network, head="softmax", **kw
):
    strategy = strategy or tf.distribute.get_strategy()
    keras.utils.set_random_seed(0)
    with strategy.scope():
        net = network()
        optimizer = (optimizer or keras.optimizers.SGD)()
    objective = steps.Objective(head, 2, **kw.pop("objective", {}))
    rates = kw.pop("rates", np.full(100, 0.1))
    step = steps.TrainingStep(
        net, optimizer, objective, rates=rates, strategy=strategy, **kw
    )
    return net, step


def batches(count=20, poison=None, value=np.nan, size=4):
    random = np.random.default_rng(0)
    shape = (count * BATCH, size, size, 1)
    images = random.integers(0, 256, shape).astype(np.float32)
    labels = random.integers(0, 2, count * BATCH).astype(np.int32)
    if poison is not None:
        images[poison] = value
    parts = (images, labels, np.arange(count * BATCH))
    return tf.data.Dataset.from_tensor_slices(parts).batch(BATCH, drop_remainder=True)


def run(step, dataset, strategy=None):
    strategy = strategy or tf.distribute.get_strategy()
    for batch in strategy.experimental_distribute_dataset(dataset):
        step.run(batch)


def largest_difference(a, b):
    return max(np.abs(x - y).max() for x, y in zip(a, b, strict=True))


def test_a_step_is_gradient_descent_on_the_mean_loss():
    net, step = make_step()
    images, labels, indices = next(iter(batches()))
    key = tf.stack([tf.zeros_like(indices), indices], axis=1)
    with tf.GradientTape() as tape:
        losses = keras.losses.sparse_categorical_crossentropy(
            labels, net([images, key]), from_logits=True
        )
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, [v.value for v in net.trainable_variables])
    expected = [w - 0.1 * g for w, g in zip(net.get_weights(), gradients, strict=True)]
    step.run((images, labels, indices))
    assert largest_difference(net.get_weights(), expected) < 1e-6
    totals = step.read_totals()
    assert totals["loss"] == pytest.approx(float(loss), rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"norm": True}, {"dropout": 0.5}],
    ids=["plain", "synchronized_batch_norm", "stateless_dropout"],
)
def test_two_replicas_equal_one_device(options):
    def network():
        return dense_network(**options)

    one, step = make_step(network=network)
    run(step, batches())
    strategy = two_devices()
    two, mirrored = make_step(strategy, network=network)
    run(mirrored, batches(), strategy)
    assert largest_difference(one.get_weights(), two.get_weights()) <= 1e-6
    assert step.read_totals()["accuracy"] == mirrored.read_totals()["accuracy"]
    assert mirrored.read_totals()["loss"] == pytest.approx(
        step.read_totals()["loss"], abs=1e-6
    )


@pytest.mark.parametrize("policy", ["mild", "strong"])
def test_two_replicas_augment_like_one_device(policy):
    def network():
        return dense_network(size=20)

    def trained(strategy=None):
        augment = augmenters.build(policy, seed=5)
        # Small steps: what is compared is the images, not how rounding grows.
        rates = np.full(100, 0.01)
        net, step = make_step(strategy, network=network, augment=augment, rates=rates)
        run(step, batches(6, size=20), strategy)
        return net.get_weights(), step.read_totals()

    one, totals = trained()
    two, mirrored_totals = trained(two_devices())
    assert largest_difference(one, two) <= 1e-6
    assert mirrored_totals["loss"] == pytest.approx(totals["loss"], abs=1e-6)
    plain, step = make_step(network=network, rates=np.full(100, 0.01))
    run(step, batches(6, size=20))
    assert largest_difference(one, plain.get_weights()) > 1e-4  # it did augment


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_bad_film_stops_all_updates_and_is_remembered(value, mirrored):
    strategy = two_devices() if mirrored else None
    network = lambda: dense_network(norm=True)  # noqa: E731 (its statistics, too)
    net, step = make_step(strategy, network=network)
    run(step, batches(count=3), strategy)
    before = net.get_weights()
    poisoned = batches(poison=3 * BATCH + BATCH - 1, value=value).skip(3)
    run(step, poisoned, strategy)
    assert step.first_bad_step.numpy() == 3
    assert largest_difference(before, net.get_weights()) == 0
    assert step.step.numpy() == 20


def test_overflow_on_one_replica_is_skipped_by_both_and_halves_the_scale():
    strategy = two_devices()
    keras.config.set_dtype_policy("mixed_float16")
    net, step = make_step(strategy, loss_scaling=True)
    before = net.get_weights()
    # Finite logits, so a finite loss; times the scale its gradient passes 65504.
    # The last film of the batch lies on the second replica.
    run(step, batches(count=1, poison=BATCH - 1, value=-6e4), strategy)
    assert step.get_state()["step/scale"] == 2.0**14
    assert step.first_bad_step.numpy() == -1
    assert largest_difference(before, net.get_weights()) == 0
    run(step, batches(count=2).skip(1), strategy)
    assert all(np.isfinite(w).all() for w in net.get_weights())
    assert largest_difference(before, net.get_weights()) > 0


def test_rates_are_those_of_the_step_times_the_factor():
    rates = np.array([0.1, 0.2, 0.3], np.float32)
    _, step = make_step(rates=rates, first_step=10, step=11)
    step.rate_factor.assign(0.5)
    run(step, batches(count=1))
    assert step.current_rate() == pytest.approx(0.1)


@pytest.mark.parametrize("optimizer", [keras.optimizers.Adam, keras.optimizers.SGD])
def test_a_restored_state_goes_on_bit_for_bit(optimizer):
    def network():
        return dense_network(norm=True, dropout=0.3)

    whole, step = make_step(optimizer=optimizer, network=network)
    run(step, batches(count=6))
    _, first = make_step(optimizer=optimizer, network=network)
    run(first, batches(count=6).take(3))
    resumed, second = make_step(optimizer=optimizer, network=network)
    second.set_state(first.get_state())
    run(second, batches(count=6).skip(3))
    assert largest_difference(whole.get_weights(), resumed.get_weights()) == 0
    assert second.read_totals() == step.read_totals()


def test_a_state_of_another_model_is_refused():
    _, step = make_step()
    _, other = make_step(optimizer=keras.optimizers.Adam)
    with pytest.raises(ValueError, match="does not fit"):
        step.set_state(other.get_state())


def test_many_steps_in_one_call_equal_single_ones():
    one, step = make_step()
    run(step, batches(count=5))
    many, again = make_step()
    again.run_many(iter(batches(count=5)), tf.constant(5))
    assert largest_difference(one.get_weights(), many.get_weights()) == 0


def test_xla_computes_the_same():
    plain, step = make_step(network=lambda: dense_network(dropout=0.5))
    run(step, batches(count=5))
    compiled, xla = make_step(
        network=lambda: dense_network(dropout=0.5), jit_compile=True
    )
    run(xla, batches(count=5))
    assert largest_difference(plain.get_weights(), compiled.get_weights()) < 1e-5


def test_augmentation_sees_step_and_indices():
    seen = []

    def augment(images, step, indices):
        seen.append((images.dtype, step.dtype, indices.dtype))
        return tf.cast(images, tf.float32) * 0

    net, step = make_step(augment=augment)
    before = net.get_weights()
    run(step, batches(count=1))
    assert seen == [(tf.float32, tf.int64, tf.int64)]
    assert largest_difference(before[:1], net.get_weights()[:1]) == 0  # blind kernel


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_objective_agrees_with_keras(head):
    labels = tf.constant([0, 1, 1, 0])
    random = np.random.default_rng(0)
    logits = random.normal(size=(4, 1 if head == "sigmoid" else 2)).astype("f4")
    found = steps.Objective(head, 2, label_smoothing=0.1).losses(logits, labels)
    if head == "sigmoid":
        loss = keras.losses.BinaryCrossentropy(
            from_logits=True, label_smoothing=0.1, reduction=None
        )
        expected = loss(tf.cast(labels, tf.float32)[:, None], logits)
    else:
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=0.1, reduction=None
        )
        expected = loss(tf.one_hot(labels, 2), logits)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_class_weights_multiply_the_losses():
    labels, logits = tf.constant([0, 1]), tf.constant([[0.0, 1.0], [2.0, 0.0]])
    plain = steps.Objective("softmax", 2).losses(logits, labels)
    weighted = steps.Objective("softmax", 2, class_weights=(0.5, 3.0))
    np.testing.assert_allclose(weighted.losses(logits, labels), plain * [0.5, 3.0])


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_evidence_counts_in_the_loss_and_not_in_the_answer(head):
    random = np.random.default_rng(0)
    known = random.normal(size=(9, 2)).astype("f4")
    labels, indices = tf.constant([0, 1, 1]), tf.constant([7, 0, 3], tf.int64)
    logits = random.normal(size=(3, 1 if head == "sigmoid" else 2)).astype("f4")
    plain = steps.Objective(head, 2, label_smoothing=0.1)
    added = known[[7, 0, 3]]
    if head == "sigmoid":
        added = added[:, 1:] - added[:, :1]
    given = dataclasses.replace(plain, evidence=known)
    found = given.losses(tf.constant(logits), labels, indices)
    np.testing.assert_allclose(found, plain.losses(logits + added, labels), rtol=1e-6)
    np.testing.assert_array_equal(given.predictions(logits), plain.predictions(logits))


def test_what_the_evidence_tells_is_not_learnt_again():
    labels = next(iter(batches(count=1)))[1].numpy()
    known = np.where(labels[:, None] == [0, 1], 0.0, -9.0).astype("f4")
    weights = []
    for evidence in (None, known):
        net, step = make_step(objective={"evidence": evidence})
        before = net.get_weights()
        for _ in range(5):
            run(step, batches(count=1))
        weights.append(largest_difference(before, net.get_weights()))
    assert weights[1] < weights[0] / 10


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("batch_size", [2, 4, 6, 50])
def test_batch_map_sees_each_example_once_in_order(mirrored, batch_size):
    values = np.arange(13, dtype=np.float32)[:, None]
    parts = (values, np.zeros(13, np.int32), np.arange(13))
    dataset = tf.data.Dataset.from_tensor_slices(parts).batch(batch_size)

    def function(inputs, indices, argument):
        return (
            inputs * 2
            + tf.cast(argument, tf.float32)
            + tf.cast(indices[:, None], tf.float32) * 0
        )

    mapped = steps.BatchMap(function, strategy=two_devices() if mirrored else None)
    found = mapped.run(dataset, count=13, batch_size=batch_size, argument=1)
    np.testing.assert_array_equal(found, values * 2 + 1)


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_probabilities_have_a_column_a_class(head):
    keras.utils.set_random_seed(0)
    net = dense_network(dropout=0.5, units=1 if head == "sigmoid" else 2)
    images = tf.constant(np.random.default_rng(0).uniform(0, 255, (5, 4, 4, 1)))
    function = steps.probabilities(net, head)
    found = function(images, tf.range(5, dtype=tf.int64), 0).numpy()
    assert found.shape == (5, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    again = function(images, tf.range(5, 10, dtype=tf.int64), 0).numpy()
    np.testing.assert_array_equal(found, again)  # no dropout


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_state_comes_back_with_all_its_counts(replicas):
    """Sums over replicas, too, that do not divide by them: 19 stays 19."""
    strategy = two_devices() if replicas == 2 else None
    _, step = make_step(strategy)
    run(step, batches(3), strategy)
    state = {**step.get_state(), "step/correct": np.int64(19), "step/count": 23}
    _, other = make_step(strategy)
    other.set_state(state)
    assert other.get_state().keys() == state.keys()
    for name, value in other.get_state().items():
        np.testing.assert_array_equal(value, state[name], err_msg=name)
    assert other.read_totals()["accuracy"] == 19 / 23


@pytest.mark.parametrize("replicas", [1, 2])
def test_no_condition_of_the_graph_waits_for_the_host(replicas):
    strategy = two_devices() if replicas == 2 else tf.distribute.get_strategy()
    _, step = make_step(strategy)
    batch = next(iter(strategy.experimental_distribute_dataset(batches())))
    graph = step._function.get_concrete_function(batch).graph
    kinds = {op.type for op in graph.get_operations()}
    assert not kinds & {"If", "StatelessIf", "While"}


@pytest.mark.parametrize("optimizer", [keras.optimizers.Adam, keras.optimizers.SGD])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_bad_step_leaves_every_variable_as_it_was(replicas, optimizer):
    """Weights, moments, iterations and moving statistics, bit for bit."""
    strategy = two_devices() if replicas == 2 else None

    def network():
        return dense_network(norm=True)

    _, step = make_step(strategy, optimizer=optimizer, network=network)
    run(step, batches(2), strategy)
    before = step.get_state()
    run(step, batches(1, poison=3), strategy)
    after = step.get_state()
    own = {"step/step", "step/first_bad_step"}
    for name in before.keys() - own:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    assert after["step/first_bad_step"] == 2
