import h5py
import keras
import numpy as np
import pytest

from cxr import cli
from cxr.training import pretrained


def backbone():
    return keras.applications.VGG16(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )


def write_applications_file(path, model, *, drop=None, reshape=None, nested=False):
    """Writes weights in the HDF5 layout of Keras Applications' files."""
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights") if nested else file
        layers = [layer for layer in model.layers if layer.name != drop]
        group.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            stored = group.create_group(layer.name)
            kinds = ("kernel", "bias")[: len(layer.weights)]
            names = [f"{layer.name}/{kind}:0" for kind in kinds]
            stored.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, layer.get_weights(), strict=True):
                if layer.name == reshape:
                    array = array[..., :-1]
                stored[name] = array


@pytest.fixture(scope="module")
def source():
    return backbone()


@pytest.mark.parametrize("nested", [False, True])
def test_a_file_in_applications_format_is_loaded(source, tmp_path, nested):
    write_applications_file(tmp_path / "w.h5", source, nested=nested)
    target = backbone()
    pretrained.load_backbone(target, str(tmp_path / "w.h5"))
    for a, b in zip(source.get_weights(), target.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_keras_itself_reads_the_same_file(source, tmp_path):
    """The test's own writer is in the format that Keras Applications uses."""
    write_applications_file(tmp_path / "w.h5", source)
    target = keras.applications.VGG16(
        include_top=False, weights=str(tmp_path / "w.h5"), input_shape=(32, 32, 3)
    )
    np.testing.assert_array_equal(source.get_weights()[0], target.get_weights()[0])


@pytest.mark.parametrize(
    ("damage", "words"),
    [({"drop": "block3_conv2"}, "no such layer"), ({"reshape": "block5_conv3"}, "511")],
)
def test_another_network_is_refused_by_layer(source, tmp_path, damage, words):
    write_applications_file(tmp_path / "w.h5", source, **damage)
    with pytest.raises(cli.DataError, match=words) as caught:
        pretrained.load_backbone(backbone(), str(tmp_path / "w.h5"))
    assert next(iter(damage.values())) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not hdf5 at all" * 100])
def test_what_is_no_weights_file_is_refused(tmp_path, content):
    (tmp_path / "w.h5").write_bytes(content)
    with pytest.raises(cli.DataError, match="not a Keras Applications"):
        pretrained.load_backbone(backbone(), str(tmp_path / "w.h5"))


def test_none_changes_nothing(source):
    before = source.get_weights()
    pretrained.load_backbone(source, "none")
    np.testing.assert_array_equal(before[0], source.get_weights()[0])


def test_a_missing_path_is_refused_before_anything_heavy():
    with pytest.raises(cli.UsageError, match=r"/no/such\.h5"):
        pretrained.check_weights_flag("/no/such.h5")
    pretrained.check_weights_flag("imagenet")


def test_without_network_imagenet_says_where_the_file_belongs(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def refuse(*args, **kwargs):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.applications, "VGG16", refuse)
    with pytest.raises(cli.UnavailableError) as caught:
        pretrained.load_backbone(None, "imagenet")
    message = str(caught.value)
    assert str(tmp_path / "models" / pretrained.IMAGENET_FILE) in message
    assert "--weights=" in message


def test_the_file_in_keras_own_place_is_used(source, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    write_applications_file(pretrained.imagenet_path(), source)
    target = backbone()
    pretrained.load_backbone(target, "imagenet")
    np.testing.assert_array_equal(source.get_weights()[0], target.get_weights()[0])
