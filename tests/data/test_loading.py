"""Data sets: prepared once, cut the same everywhere, one copy a machine; batches are in test_batches.py."""

import gzip
import hashlib
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, MNIST, FashionMNIST

from sweep.config.errors import DataError
from sweep.config.sections import DataConfig
from sweep.data.datasets import stratified_order
from sweep.data.loading import DATASETS, Dataset, find_reader, load_dataset, prepare_dataset, split_sizes

from ..support.absent import DATA, data_root

NOWHERE = Path("/nonexistent")  # a data root that the digits do not need


def config(name="digits", **wanted):
    """Returns a data section, also one that no study file could hold."""
    return DataConfig.model_construct(name=name, **wanted)


def prepare(name, *, root, cache):
    prepare_dataset(find_reader(config(name), root), cache=cache)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    prepare("digits", root=NOWHERE, cache=folder)
    return folder


@pytest.fixture(scope="module")
def digits(cache):
    return load_dataset(config(), root=NOWHERE, cache=cache)


def real(name, tmp_path):
    """A real data set from the folder of SWEEP_DATA, prepared; skips where it is not there."""
    root = data_root(name)
    return load_dataset(config(name), root=root, cache=tmp_path), root / DATA[name][1]


def rows(images, labels):
    """Each image with its label as one row of integers, sorted: what a set holds, whatever its order."""
    table = np.column_stack([np.asarray(images).reshape(len(images), -1).astype(int), np.asarray(labels)])
    return table[np.lexsort(table.T)]


def mean_and_std(images, scale):
    """Per channel, from the histogram of the stored values."""
    values = torch.arange(256).double() / scale
    counts = [torch.bincount(images[:, c].flatten(), minlength=256).double() for c in range(images.shape[1])]
    means = [(n @ values / n.sum()).item() for n in counts]
    stds = [(n @ (values - mean) ** 2 / n.sum()).sqrt().item() for n, mean in zip(counts, means, strict=True)]
    return means, stds


# --- what is in a set, and how it is cut ---


def test_digits_parts_are_all_of_the_digits_once(digits):
    source = load_digits()
    parts = (digits.train, digits.val, digits.test)
    together = rows(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))
    np.testing.assert_array_equal(together, rows(source.images, source.target))
    assert [len(p.labels) for p in parts] == [1294, 144, 359]


def test_parts_have_the_documented_types(digits):
    for part in (digits.train, digits.val, digits.test):
        images, labels = part.images, part.labels
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert images.shape[1:] == digits.info.in_shape
        assert images.shape[:1] == labels.shape
        assert images.max() == digits.info.scale
        assert labels.unique().tolist() == list(range(digits.info.num_classes))


def test_every_part_has_the_classes_of_the_whole(digits):
    whole = np.bincount(load_digits().target) / 1797
    for labels in (digits.train.labels, digits.val.labels, digits.test.labels):
        assert np.abs(labels.bincount().numpy() - len(labels) * whole).max() <= 2


def test_the_cut_never_changes(digits):
    """Another order would move test images into the training part of a study that is resumed."""
    labels = torch.cat([digits.train.labels, digits.val.labels, digits.test.labels]).numpy().astype(np.uint8)
    images = torch.cat([digits.train.images, digits.val.images, digits.test.images]).numpy()
    assert hashlib.sha256(labels.tobytes()).hexdigest()[:16] == "aa0fe5870d0d7bc6"
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "622cc14089c90dc5"


def test_train_size_takes_a_subset_and_leaves_validation_alone(cache, digits):
    whole = {row.tobytes() for row in rows(digits.train.images, digits.train.labels)}
    for size in (10, 100, 1294):
        part = load_dataset(config(train_size=size), root=NOWHERE, cache=cache)
        assert len(part.train.labels) == size
        assert {row.tobytes() for row in rows(part.train.images, part.train.labels)} <= whole
        assert torch.equal(part.val.images, digits.val.images)
        counts = part.train.labels.bincount(minlength=10)
        assert counts.max() - counts.min() <= max(2, size // 100)


def test_split_sizes_are_those_of_load(cache):
    for wanted in ({}, {"val_fraction": 0.25}, {"train_size": 7, "val_fraction": 0.5}):
        part = load_dataset(config(**wanted), root=NOWHERE, cache=cache)
        assert split_sizes(config(**wanted), part.info) == (len(part.train.labels), len(part.val.labels))
    assert split_sizes(config("mnist"), find_reader(config("mnist"), NOWHERE).info) == (54_000, 6_000)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"train_size": 1295}, r"data.train_size = 1295: digits has 1294 images beside 144 for validation"),
        ({"train_size": 0}, r"data.train_size = 0: "),
        ({"val_fraction": 0.0}, r"data.val_fraction = 0.0: must leave images on both sides of 1438 of digits"),
        ({"val_fraction": 1.0}, r"data.val_fraction = 1.0: "),
        ({"val_fraction": 1e-6}, r"data.val_fraction = 1e-06: "),
        ({"val_fraction": float("nan")}, r"data.val_fraction = nan: "),
    ],
)
def test_impossible_cuts_are_refused(cache, wanted, message):
    with pytest.raises(DataError, match=message):
        load_dataset(config(**wanted), root=NOWHERE, cache=cache)


def test_unknown_name_lists_the_valid_ones(tmp_path):
    with pytest.raises(DataError, match=r"data.name: unknown data set 'mnits'; choose one of digits, mnist, "):
        load_dataset(config("mnits"), root=NOWHERE, cache=tmp_path)
    assert list(DATASETS) == ["digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "imagefolder", "voc"]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_every_beginning_of_the_balanced_order_has_the_proportions_of_the_whole(sizes, random):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    random.shuffle(labels)
    order = stratified_order(np.array(labels))
    assert sorted(order) == list(range(len(labels)))
    ordered = np.array(labels)[order]
    for label, size in enumerate(sizes):
        share = size / len(labels)
        counts = np.cumsum(ordered == label)
        expected = share * np.arange(1, len(labels) + 1)
        assert np.abs(counts - expected).max() <= 0.5 + 0.5 * len(sizes) * share + 1e-9


def test_statistics_in_the_table(digits):
    means, stds = mean_and_std(torch.cat([digits.train.images, digits.val.images]), digits.info.scale)
    assert means == pytest.approx(digits.info.mean, abs=5e-5)
    assert stds == pytest.approx(digits.info.std, abs=5e-5)


def test_mnist(tmp_path):
    dataset, folder = real("mnist", tmp_path)
    raw = np.frombuffer((folder / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16).reshape(-1, 784)
    labels = np.frombuffer((folder / "train-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    train, val = dataset.train, dataset.val
    assert (len(train.labels), len(val.labels), len(dataset.test.labels)) == (54_000, 6_000, 10_000)
    images = torch.cat([train.images, val.images])
    assert sorted(map(bytes, images.numpy().reshape(-1, 784))) == sorted(map(bytes, raw))
    counts = train.labels.bincount() + val.labels.bincount()
    assert (
        counts.tolist() == np.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    )
    assert dataset.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert mean_and_std(images, 255) == ([pytest.approx(0.1307, abs=5e-5)], [pytest.approx(0.3081, abs=5e-5)])
    assert (dataset.info.mean, dataset.info.std) == ((0.1307,), (0.3081,))


def test_names_of_classes_are_torchvisions():
    for name, cls in (("mnist", MNIST), ("fashion_mnist", FashionMNIST)):
        names = find_reader(config(name), NOWHERE).info.classes
        assert list(names) == [each.partition(" - ")[0] for each in cls.classes]  # "7 - seven" is 7


def test_cifar10(tmp_path):
    dataset, folder = real("cifar10", tmp_path)
    assert list(dataset.info.classes) == CIFAR10(folder.parent, train=False).classes
    assert dataset.train.labels.bincount().tolist() == [4500] * 10
    assert dataset.val.labels.bincount().tolist() == [500] * 10
    assert dataset.test.labels[:4].tolist() == [3, 8, 8, 0]  # cat, ship, ship, aeroplane
    means, stds = mean_and_std(torch.cat([dataset.train.images, dataset.val.images]), 255)
    assert means == pytest.approx(dataset.info.mean, abs=5e-5)
    assert stds == pytest.approx(dataset.info.std, abs=5e-5)
    red, green, blue = dataset.test.images[2, :, 0, 0].tolist()  # the sky of a ship: channels first, in RGB order
    assert (red, green, blue) == (158, 190, 222)


# --- the cache ---


def test_test_part_is_opened_only_when_asked_for(tmp_path):
    prepare("digits", root=NOWHERE, cache=tmp_path)
    (tmp_path / "digits" / "test_images.npy").write_bytes(b"not an array")
    dataset = load_dataset(config(), root=NOWHERE, cache=tmp_path)
    assert len(dataset.train.labels) == 1294
    with pytest.raises(DataError, match=r"prepared data in .*digits cannot be read .* delete this folder"):
        _ = dataset.test


def test_a_prepared_set_needs_no_data_root_and_is_not_written_again(cache):
    before = {path: path.stat().st_mtime_ns for path in (cache / "digits").iterdir()}
    prepare("digits", root=NOWHERE, cache=cache)
    assert {path: path.stat().st_mtime_ns for path in (cache / "digits").iterdir()} == before


def test_an_interrupted_preparation_is_completed(tmp_path, digits):
    prepare("digits", root=NOWHERE, cache=tmp_path)
    (tmp_path / "digits" / "train_labels.npy").unlink()
    (tmp_path / "digits" / ".train_labels.npy.0123").write_bytes(b"half a fi")
    assert torch.equal(load_dataset(config(), root=NOWHERE, cache=tmp_path).train.labels, digits.train.labels)


def test_processes_may_prepare_at_once(tmp_path, digits):
    code = f"""
from pathlib import Path
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, MNIST, FashionMNIST
from sweep.config.sections import DataConfig
from sweep.data.loading import load_dataset as load
print("ready", flush=True)
input()
for i in range(10):
    dataset = load(DataConfig(name="digits"), root=Path("/nonexistent"), cache=Path({str(tmp_path)!r}, str(i)))
    print(int(dataset.train.images.sum()), int(dataset.test.labels.sum()))
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(3)]
    ready = [process.stdout.readline() for process in processes]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [(*process.communicate(timeout=300), process.returncode) for process in processes]
    assert ready == ["ready\n"] * 3
    expected = f"{int(digits.train.images.sum())} {int(digits.test.labels.sum())}"
    for out, err, code in results:
        assert code == 0, err
        assert out.splitlines() == [expected] * 10
    assert all(len(list((tmp_path / str(i) / "digits").iterdir())) == 4 for i in range(10))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc: run on Linux")
def test_trials_share_one_copy_in_the_page_cache(cache):
    dataset = load_dataset(config(train_size=900), root=NOWHERE, cache=cache)
    for split in (dataset.train, dataset.val):
        address = split.images.data_ptr()
        lines = (line.split() for line in Path("/proc/self/maps").read_text().splitlines())
        ranges = [(*(int(x, 16) for x in fields[0].split("-")), fields[-1]) for fields in lines]
        (path,) = [path for start, end, path in ranges if start <= address < end]
        assert path == str(cache / "digits" / "train_images.npy")


def test_what_a_trial_does_to_its_images_stays_with_it(cache, digits):
    mine = load_dataset(config(), root=NOWHERE, cache=cache)
    original = digits.train.images[0].clone()
    mine.train.images[0] = 99
    assert torch.equal(load_dataset(config(), root=NOWHERE, cache=cache).train.images[0], original)


def test_an_unwritable_cache_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"digits: cannot write the cache .*file.digits"):
        prepare("digits", root=NOWHERE, cache=tmp_path / "file")


# --- missing data ---


@pytest.fixture
def proxy(monkeypatch):
    """A port of this machine through which every download goes, whether there is a network or not."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield server


@pytest.mark.parametrize(
    ("name", "folder", "files"),
    [
        ("mnist", "MNIST/raw", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]),
        ("fashion_mnist", "FashionMNIST/raw", ["train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"]),
        ("cifar10", "cifar-10-batches-py", ["data_batch_1", "data_batch_5", "test_batch", "batches.meta"]),
        ("cifar100", "cifar-100-python", ["train", "test", "meta"]),
    ],
)
def test_without_a_network_the_message_says_what_to_do(tmp_path, capfd, proxy, name, folder, files):
    proxy.close()
    with pytest.raises(DataError) as error:
        prepare(name, root=tmp_path, cache=tmp_path / "cache")
    message = str(error.value)
    assert message.startswith(f"{name}: ")
    for part in (*files, str(tmp_path / folder), "Connection refused", "Place these files in", "network", "SWEEP_DATA"):
        assert part in message
    assert "\n" not in message
    assert capfd.readouterr().out == ""  # torchvision prints which mirrors failed


def test_files_that_are_there_are_not_called_missing(tmp_path, proxy):
    proxy.close()
    mnist_files(tmp_path, np.zeros((20, 28, 28), np.uint8), np.zeros(20, np.uint8))
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"^mnist: t10k-labels-idx1-ubyte not found in "):
        prepare("mnist", root=tmp_path, cache=tmp_path / "cache")


@pytest.mark.usefixtures("proxy")
def test_a_network_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("sweep.data.datasets.NETWORK_TIMEOUT", 0.3)
    before, start = socket.getdefaulttimeout(), time.perf_counter()
    with pytest.raises(DataError, match=r"download failed .*timed out"):
        prepare("mnist", root=tmp_path, cache=tmp_path / "cache")
    assert time.perf_counter() - start < 10  # 0.3 s for each mirror
    assert socket.getdefaulttimeout() == before


def idx(path, array):
    """Write an array of bytes in MNIST's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
    )


def mnist_files(root, images, labels):
    for part in ("train", "t10k"):
        idx(root / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", images)
        idx(root / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", labels)


@pytest.mark.parametrize("packed", ["*-ubyte", "train-*", "t10k-labels*"])
def test_compressed_files_are_read_as_torchvision_keeps_them(tmp_path, packed):
    """All, or those that are not there uncompressed; the root stays as it is."""
    root = tmp_path / "data"
    mnist_files(root, np.zeros((20, 28, 28), np.uint8), np.zeros(20, np.uint8))
    for path in (root / "MNIST" / "raw").glob(packed):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    before = sorted(root.rglob("*"))
    with pytest.raises(DataError, match=r"mnist: expected 60000 train images, found arrays \(20, 1, 28, 28\)"):
        prepare("mnist", root=root, cache=tmp_path / "cache")
    assert sorted(root.rglob("*")) == before


def test_a_compressed_archive_is_read_as_torchvision_keeps_it(tmp_path):
    names = [file for file, _ in (*CIFAR10.train_list, *CIFAR10.test_list)] + [CIFAR10.meta["filename"]]
    for name in names:
        (tmp_path / name).write_bytes(b"no batch")
    with tarfile.open(tmp_path / CIFAR10.filename, "w:gz") as archive:
        for name in names:
            archive.add(tmp_path / name, f"{CIFAR10.base_folder}/{name}")
    with pytest.raises(
        DataError, match=r"(?s)cifar10: delete .*data_batch_1: expected MD5 .*, found .*batches.meta: expected MD5"
    ):
        prepare("cifar10", root=tmp_path, cache=tmp_path / "cache")


def test_truncated_files_are_named(tmp_path):
    mnist_files(tmp_path, np.zeros((20, 28, 28), np.uint8), np.zeros(20, np.uint8))
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        DataError, match=r"(?s)^mnist: delete .*MNIST/raw .*train-images-idx3-ubyte: expected 15696 bytes, found 15596"
    ):
        prepare("mnist", root=tmp_path, cache=tmp_path / "cache")


def test_a_damaged_file_of_cifar_is_named_with_its_checksums(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    known = {**dict(CIFAR10.train_list + CIFAR10.test_list), CIFAR10.meta["filename"]: CIFAR10.meta["md5"]}
    for file in known:
        (tmp_path / "cifar-10-batches-py" / file).write_bytes(b"cut off")
    with pytest.raises(DataError) as error:
        prepare("cifar10", root=tmp_path, cache=tmp_path / "cache")
    for file, md5 in known.items():
        assert f"{file}: expected MD5 {md5}, found {hashlib.md5(b'cut off').hexdigest()}" in str(error.value)


PREPARE = """
import gzip, hashlib, sys
from pathlib import Path
from torchvision.datasets import MNIST
from sweep.config.sections import DataConfig
from sweep.data.loading import load_dataset as load
folder, served, url = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
MNIST.mirrors = [url]
MNIST.resources = [(f, hashlib.md5((served / f).read_bytes()).hexdigest()) for f, _ in MNIST.resources]
print(len(load(DataConfig(name="mnist"), root=folder / "data", cache=folder / sys.argv[4]).train.labels))
"""


def test_two_processes_that_prepare_at_once_make_one_download(tmp_path):
    """They share the data root alone, as two users may."""
    served, asked = tmp_path / "served", []
    served.mkdir()
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        for kind, axes in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            head = bytes([0, 0, 8, len(axes)]) + b"".join(n.to_bytes(4) for n in axes)
            content = head + bytes(int(np.prod(axes)))
            (served / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(content, 1))

    class Slow(SimpleHTTPRequestHandler):
        def do_GET(self):
            if "Method" not in self.headers:  # with which torchvision asks where a redirect leads
                asked.append(self.path)
                time.sleep(0.3)
            super().do_GET()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Slow, directory=served)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        words = [sys.executable, "-c", PREPARE, str(tmp_path), str(served), url]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "no_proxy": "*"}
        both = [
            subprocess.Popen([*words, c], stdout=-1, stderr=-1, text=True, env=environment)
            for c in ("cache", "another")
        ]
        said = [process.communicate(timeout=300) for process in both]
        server.shutdown()
    assert [out for out, _ in said] == ["54000\n"] * 2, said
    assert sorted(asked) == sorted(f"/{path.name}" for path in served.iterdir())


def test_a_download_goes_to_the_folder_that_is_named_for_it(tmp_path, monkeypatch):
    served = tmp_path / "served"
    mnist_files(served, np.zeros((20, 28, 28), np.uint8), np.zeros(20, np.uint8))
    sums = {}
    for path in list(served.rglob("*-ubyte")):
        (served / f"{path.name}.gz").write_bytes(packed := gzip.compress(path.read_bytes()))
        sums[f"{path.name}.gz"] = hashlib.md5(packed).hexdigest()
    monkeypatch.setattr(MNIST, "resources", [(file, sums[file]) for file, _ in MNIST.resources])
    monkeypatch.setenv("no_proxy", "*")
    found = find_reader(config("mnist"), tmp_path / "data")
    found.downloads = tmp_path / "scratch"
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=served)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        with pytest.raises(DataError, match=r"mnist: expected 60000 train images, found arrays \(20, 1, 28, 28\)"):
            prepare_dataset(found, cache=tmp_path / "cache")
        server.shutdown()
    assert not (tmp_path / "data").exists()


def test_another_set_in_the_place_of_one_is_refused(tmp_path):
    mnist_files(tmp_path, np.zeros((20, 28, 28), np.uint8), np.zeros(20, np.uint8))
    with pytest.raises(DataError, match=r"mnist: expected 60000 train images, found arrays \(20, 1, 28, 28\)"):
        prepare("mnist", root=tmp_path, cache=tmp_path / "cache")


def test_workers_that_map_the_cache_load_no_reader(cache):
    code = f"""
import sys
from pathlib import Path
from sweep.config.sections import DataConfig
from sweep.data.loading import load_dataset as load
load(DataConfig(name="digits"), root=Path("/nonexistent"), cache=Path({str(cache)!r}))
print([name for name in ("sklearn", "torchvision") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == "[]\n", result.stderr


def test_other_images_are_held_out_for_each_seed(tmp_path: Path) -> None:
    def loaded(val_seed: str, seed: int) -> Dataset:
        config = DataConfig.model_validate({"name": "digits", "val_fraction": 0.2, "val_seed": val_seed})
        return load_dataset(config, root=tmp_path, cache=tmp_path / "cache", seed=seed)

    fixed, same = loaded("fixed", 0), loaded("fixed", 5)
    assert np.array_equal(fixed.val.images, same.val.images)
    every = sorted(image.tobytes() for part in (fixed.train, fixed.val) for image in part.images.numpy())
    held_out = set()
    for seed in (0, 1, 2):
        found = loaded("trial", seed)
        assert (found.train.size, found.val.size) == (fixed.train.size, fixed.val.size)
        assert sorted(i.tobytes() for part in (found.train, found.val) for i in part.images.numpy()) == every
        assert np.bincount(found.val.labels).tolist() == pytest.approx(np.bincount(fixed.val.labels), abs=2)
        assert np.array_equal(found.val.images, loaded("trial", seed).val.images), "the seed alone decides"
        assert np.array_equal(found.test.images, fixed.test.images)
        held_out.add(found.val.images.numpy().tobytes())
    assert len(held_out) == 3
