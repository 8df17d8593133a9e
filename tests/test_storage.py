"""Sets and films in a bucket, of moto's imitation of S3 in this process."""

import dataclasses
import shutil
import sys

import pytest

from benchmarks import survival
from cxr import cli, records, train
from cxr.config import TrainConfig
from cxr.conversion import converter
from cxr.storage import cache, places, run_folders, sets
from cxr.storage.remote import Remote
from cxr.training.stage_run import StageRun
from tests.fabricated import write_records
from tests.sample_images import config_for, contents, convert, make_source
from tools import verify_tfrecords

ROOT = "s3://films/sets"


@pytest.fixture(scope="module")
def server():
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server, tmp_path, monkeypatch):
    """An empty bucket `films`, and a cache of this test's own."""
    import boto3
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # of other credentials
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("CXR_CACHE_DIR", str(tmp_path / "cache"))
    made = boto3.resource("s3").Bucket("films")
    made.create()
    yield made
    made.objects.delete()
    made.delete()


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "films")


def copy_of(tmp_path):
    return places.local(ROOT, places.SETS) / "tiny/1.0.0"


def flip(bucket, key):
    data = bytearray(bucket.Object(key).get()["Body"].read())
    data[len(data) // 2] ^= 1
    bucket.Object(key).put(Body=bytes(data))


def first_shard(bucket):
    return next(o.key for o in bucket.objects.all() if ".tfrecord-" in o.key)


def test_a_published_set_is_the_local_one_on_any_machine(
    source, bucket, tmp_path, monkeypatch
):
    here = convert(source)
    convert(source, output_dir=ROOT)
    monkeypatch.setenv("CXR_CACHE_DIR", str(tmp_path / "another machine"))
    there = sets.find(ROOT, "tiny")
    assert contents(there.path) == contents(here.path)
    records.check(there)
    assert there.split_policy == here.split_policy  # of the report


def test_films_in_a_bucket_make_the_same_set(source, bucket):
    for path in source.rglob("*"):
        if path.is_file():
            key = f"in/{path.relative_to(source).as_posix()}"
            bucket.Object(key).put(Body=path.read_bytes())
    here = convert(source)
    other = source.parent / "two"
    there = convert(source, input_dir="s3://films/in", output_dir=str(other))
    assert contents(there.path) == contents(here.path)
    for gone in list(bucket.objects.filter(Prefix="in/"))[:1]:
        gone.delete()
    third = source.parent / "three"
    fewer = convert(source, input_dir="s3://films/in", output_dir=str(third))
    assert fewer.manifest.sources["files"] == here.manifest.sources["files"] - 1


class Crash(BaseException):
    """Stands for kill -9: nothing may catch it."""


def dying(method, calls):
    """Returns a method that dies when `calls` has no more."""

    def call(*args):
        if not calls:
            raise Crash
        calls.pop()
        method(*args)

    return call


def test_a_kill_at_any_object_leaves_no_manifest_and_is_gone_on_with(
    source, bucket, monkeypatch
):
    monkeypatch.setattr("cxr.storage.remote._AT_ONCE", 1)
    put, write = Remote._put, Remote.write
    limit, done = 0, False
    while not done:
        calls = [None] * limit
        with monkeypatch.context() as patch:
            patch.setattr(Remote, "_put", dying(put, calls))
            patch.setattr(Remote, "write", dying(write, calls))
            try:
                convert(source, output_dir=ROOT)
                done = True
            except Crash:
                limit += 1
                keys = [o.key for o in bucket.objects.all()]
                assert not [key for key in keys if key.endswith(records.MANIFEST)]
    assert limit > 5
    monkeypatch.setenv("CXR_CACHE_DIR", str(source.parent / "another machine"))
    assert contents(sets.find(ROOT, "tiny").path) == contents(convert(source).path)


def test_a_warm_copy_is_not_fetched_again(source, bucket, monkeypatch):
    convert(source, output_dir=ROOT)
    monkeypatch.setattr(Remote, "_get", None)  # any object would fail
    monkeypatch.setattr(Remote, "_put", None)
    sets.find(ROOT, "tiny")
    lines = []
    converter.convert(config_for(source, output_dir=ROOT), log=lines.append)
    assert any("complete already" in line for line in lines)


def test_a_kill_between_fetching_and_the_note_costs_no_object(
    source, bucket, monkeypatch
):
    convert(source, output_dir=ROOT)
    folder = copy_of(source)
    cache.beside(folder, "json").unlink()
    (folder / f"{cache.files.TEMPORARY_PREFIX}left").write_bytes(b"half")
    fetched = []
    get = Remote._get
    monkeypatch.setattr(
        Remote, "_get", lambda s, name, path: (fetched.append(name), get(s, name, path))
    )
    sets.find(ROOT, "tiny")
    assert set(fetched) <= {"report.html", "report.json"}  # no manifest lists them
    assert not list(folder.glob(f"{cache.files.TEMPORARY_PREFIX}*"))


@pytest.mark.parametrize("warm", [False, True])
def test_a_flipped_byte_in_the_bucket_is_named(
    source, bucket, warm, tmp_path, monkeypatch
):
    convert(source, output_dir=ROOT)
    if not warm:
        monkeypatch.setenv("CXR_CACHE_DIR", str(tmp_path / "cold"))
    key = first_shard(bucket)
    flip(bucket, key)
    with pytest.raises(cli.DataError, match=f"s3://films/{key}: not the bytes"):
        sets.find(ROOT, "tiny")
    with pytest.raises(cli.DataError, match=f"s3://films/{key}"):
        verify_tfrecords.main(["verify", f"--data_dir={ROOT}"])


def test_a_missing_object_is_named(source, bucket):
    convert(source, output_dir=ROOT)
    key = first_shard(bucket)
    bucket.Object(key).delete()
    with pytest.raises(cli.DataError, match=f"{key}: missing"):
        sets.find(ROOT, "tiny")


def test_another_set_there_is_kept(source, bucket):
    convert(source, output_dir=ROOT)
    with pytest.raises(cli.UsageError, match="made with other flags"):
        convert(source, output_dir=ROOT, seed=1)
    bucket.Object("other/tiny/1.0.0/thesis.pdf").put(Body=b"x")
    with pytest.raises(cli.UsageError, match=r"no conversion left, such as 'thesis"):
        convert(source, output_dir="s3://films/other")


def test_what_is_not_there_is_one_sentence(bucket, monkeypatch):
    with pytest.raises(cli.DataError, match=r"--data_dir=s3://films/no .*no complete"):
        sets.find("s3://films/no", "tiny")
    with pytest.raises(cli.CommandError, match=r"--data_dir: s3://nobody"):
        sets.find("s3://nobody/sets", "tiny")
    with pytest.raises(cli.UsageError, match=r"--data_dir=s3://films/\.\./x"):
        sets.find("s3://films/../x", "tiny")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(cli.UnavailableError, match=r"cxr\[cloud\]"):
        sets.find(ROOT, "tiny")


@pytest.mark.parametrize("flag", ["--input_dir=ftp://x", "--labels_csv=s3://x/y.csv"])
def test_urls_of_elsewhere_are_refused_by_flag(flag):
    argv = ["convert", "--input_dir=x", flag]
    with pytest.raises(cli.UsageError, match=f"{flag}: expected a path"):
        cli.parse(argv, converter.ConversionConfig, usage="")


RUN = "s3://films/runs/a"


def state(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file()
    }


def checkpointed(number):
    """Writes a run folder as a training has it after some checkpoints."""
    run = run_folders.RunFolder(RUN)
    folder = run.folder
    kept = folder / f"checkpoints/step-{number}"
    shutil.rmtree(folder / f"checkpoints/step-{number - 2}", ignore_errors=True)
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "arrays.npz").write_bytes(b"weights %d" % number)
    (folder / "history.csv").write_bytes(b"epoch\n" * number)
    (folder / "run.flags").write_bytes(b"--seed=1\n")
    (folder / ".lock").write_bytes(b"1")
    return run, {n: d for n, d in state(folder).items() if n != ".lock"}


def test_a_kill_between_any_two_objects_leaves_one_whole_state(
    bucket, monkeypatch, tmp_path
):
    here = tmp_path / "cache"
    run, before = checkpointed(1)
    run.send()
    originals = {n: getattr(Remote, n) for n in ("_put", "write", "copy", "remove")}
    seen, limit, done = set(), 0, False
    while not done:
        run, after = checkpointed(2)
        calls = [None] * limit
        with monkeypatch.context() as patch:
            for name, method in originals.items():
                patch.setattr(Remote, name, dying(method, calls))
            try:
                run.send()
                done = True
            except Crash:
                limit += 1
        monkeypatch.setenv("CXR_CACHE_DIR", str(tmp_path / f"machine {limit}"))
        found = state(run_folders.fetched(RUN))
        assert found in (before, after)
        seen.add(found == after)
        monkeypatch.setenv("CXR_CACHE_DIR", str(here))
        if not done:
            shutil.rmtree(here)
            for obj in bucket.objects.all():
                obj.delete()
            run, before = checkpointed(1)
            run.send()
    assert limit > 4 and seen == {False, True}
    keys = {o.key.removeprefix("runs/a/") for o in bucket.objects.all()}
    assert keys == {*after, "commit.json"}


def test_the_newer_side_counts(bucket, monkeypatch, tmp_path):
    run, _ = checkpointed(1)
    run.send()
    _, newer_here = checkpointed(2)
    assert state(run_folders.fetched(RUN)).items() >= newer_here.items()
    monkeypatch.setenv("CXR_CACHE_DIR", str(tmp_path / "another machine"))
    run_folders.fetched(RUN)
    other, newer_there = checkpointed(3)
    other.send()
    monkeypatch.setenv("CXR_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(cli.UsageError, match="another process has written"):
        run.send()
    found = state(run_folders.fetched(RUN))
    assert {n: d for n, d in found.items() if n != ".lock"} == newer_there


def test_a_flipped_byte_of_a_run_is_named(bucket, monkeypatch, tmp_path):
    run, _ = checkpointed(1)
    run.send()
    flip(bucket, "runs/a/history.csv")
    monkeypatch.setenv("CXR_CACHE_DIR", str(tmp_path / "cold"))
    with pytest.raises(cli.DataError, match=f"{RUN}/history.csv: not the bytes"):
        run_folders.fetched(RUN)


@pytest.mark.slow
def test_a_training_in_a_bucket_goes_on_on_another_machine(
    bucket, monkeypatch, tmp_path, capsys
):
    write_records(tmp_path / "data", {"train": 24, "validation": 8}, image_size=32)
    config = TrainConfig(
        data_dir=str(tmp_path / "data"),
        dataset="tiny",
        workdir=RUN,
        model="small_cnn",
        image_size=32,
        batch_size=8,
        epochs=3,
        checkpoint_every_steps=2,
        progress=False,
        tensorboard=False,
    )
    execute, left = StageRun.execute, [None] * 5

    def dies(self, count):
        if not left:
            raise Crash
        left.pop()
        return execute(self, count)

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(StageRun, "execute", dies)
        train.train(config)
    monkeypatch.setenv("CXR_CACHE_DIR", str(tmp_path / "another machine"))
    capsys.readouterr()
    train.train(config)
    said = capsys.readouterr().out
    assert "resuming at step 4 (epoch 2)" in said
    assert f"  model     {RUN}/" in said
    assert f"--workdir={RUN} --split=test" in said
    whole = dataclasses.replace(config, workdir=str(tmp_path / "whole"))
    train.train(whole)
    monkeypatch.setenv("CXR_CACHE_DIR", str(tmp_path / "a third"))
    found = survival.result(run_folders.fetched(RUN))
    assert found == survival.result(tmp_path / "whole")
