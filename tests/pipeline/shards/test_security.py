"""A shard set, a YAML file or a URL of a stranger runs nothing and reads nothing outside its folder."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import xxhash
from click.testing import Result

from bmrl.cli.prep import main as prep
from bmrl.cli.train import main as train
from bmrl.pipeline.shards.tars import DamagedShardError
from bmrl.pipeline.shards.verify import verify
from bmrl.pipeline.shardset import ShardSet, ShardSetError
from bmrl.pipeline.views.codec import decode_png, encode_png

PACKAGES = ("pipeline", "model", "cli", "manifests")
SOURCES = [path for name in PACKAGES for path in (Path(__file__).parents[3] / name).rglob("*.py")]
Invoke = Callable[..., Result]


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keywords(call: ast.Call) -> dict[str, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg}


def test_no_pickle_shell_or_unsafe_yaml_in_the_code() -> None:
    assert len(SOURCES) > 60
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        imported = {
            alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        imported |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & {"cloudpickle", "dill", "joblib", "shelve", "marshal"}, path
        for name, call in calls(tree):
            given = keywords(call)
            assert not name.startswith("pickle."), path  # its error class may be caught
            assert name not in ("eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"), (path, name)
            assert given.get("shell", "False") == "False", (path, name)
            assert given.get("allow_pickle", "False") == "False", (path, name)
            if name == "torch.load":
                assert given.get("weights_only") == "True", path
            if name == "np.load":
                assert given.get("allow_pickle") == "False", path


def seal(root: Path, name: str, tar: bytes) -> None:
    """Put a tar in the place of one and make sidecar and SHA256SUMS agree with it, as a stranger would."""
    (root / f"{name}.tar").write_bytes(tar)
    sidecar = json.loads((root / f"{name}.json").read_text())
    sidecar |= {
        "bytes": len(tar),
        "sha256": hashlib.sha256(tar).hexdigest(),
        "xxh3_128": xxhash.xxh3_128(tar).hexdigest(),
    }
    (root / f"{name}.json").write_text(json.dumps(sidecar))
    reseal(root)


def reseal(root: Path) -> None:
    names = [line.split("  ")[1] for line in (root / "SHA256SUMS").read_text().splitlines()]
    lines = [f"{hashlib.sha256((root / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (root / "SHA256SUMS").write_text("".join(lines))


def symbolic_link(member: tarfile.TarInfo) -> None:
    member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0


def hard_link(member: tarfile.TarInfo) -> None:
    member.type, member.linkname, member.size = tarfile.LNKTYPE, "other", 0


def device(member: tarfile.TarInfo) -> None:
    member.type, member.size = tarfile.CHRTYPE, 0


def absolute(member: tarfile.TarInfo) -> None:
    member.name = "/tmp/" + member.name


def parent(member: tarfile.TarInfo) -> None:
    member.name = "../" + member.name


def fewer(member: tarfile.TarInfo) -> None:
    member.size = -1


def other_name(member: tarfile.TarInfo) -> None:
    member.name = "Upper case." + member.name.split(".", 1)[1]


def pickle_suffix(member: tarfile.TarInfo) -> None:
    member.name = member.name.split(".")[0] + ".pkl"


@pytest.mark.parametrize(
    "change", [symbolic_link, hard_link, device, absolute, parent, other_name, pickle_suffix, fewer]
)
@pytest.mark.parametrize("view", ["image", "text"])
def test_odd_members_are_found(view: str, change: Callable[[tarfile.TarInfo], None], small_copy: Path) -> None:
    name = f"{view}/000001"
    buffer = io.BytesIO()
    with tarfile.open(small_copy / f"{name}.tar") as old, tarfile.open(fileobj=buffer, mode="w") as new:
        for number, member in enumerate(old.getmembers()):
            data = old.extractfile(member)
            if number == 1:
                change(member)
            if member.size >= 0:
                new.addfile(member, data if member.size else None)
    seal(small_copy, name, buffer.getvalue())
    assert {damage.path for damage in verify(small_copy, deep=True)} == {f"{name}.tar"}


def test_a_member_larger_than_it_should_be(small_copy: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(small_copy / "edge/000001.tar") as old, tarfile.open(fileobj=buffer, mode="w") as new:
        for number, member in enumerate(old.getmembers()):
            data = old.extractfile(member)
            assert data is not None
            content = data.read() + bytes(2**20 if number == 1 else 0)
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    seal(small_copy, "edge/000001", buffer.getvalue())
    assert {damage.path for damage in verify(small_copy, deep=True)} == {"edge/000001.tar"}


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "x", ""])
def test_shards_and_views_of_other_names_are_refused(name: str, small_copy: Path) -> None:
    document = json.loads((small_copy / "dataset.json").read_text())
    for change in ("shard", "view"):
        changed = json.loads(json.dumps(document))
        if change == "shard":
            changed["shards"][0]["name"] = name
        else:
            changed["views"][name] = {**changed["views"]["edge"], "name": name}
        (small_copy / "dataset.json").write_text(json.dumps(changed))
        reseal(small_copy)
        with pytest.raises(ShardSetError, match="not a name"):
            ShardSet.open(small_copy)


@pytest.mark.parametrize("field", ["views", "shards", "classes", "generators", "prompts", "counts", "name", "plan_id"])
def test_a_document_without_a_field_is_refused(field: str, small_copy: Path) -> None:
    document = json.loads((small_copy / "dataset.json").read_text())
    del document[field]
    (small_copy / "dataset.json").write_text(json.dumps(document))
    reseal(small_copy)
    with pytest.raises(ShardSetError, match=f"dataset.json has no '{field}'"):
        ShardSet.open(small_copy)


@pytest.mark.parametrize("column", ["key", "generator", "shard", "licence"])
def test_an_index_without_a_column_is_refused(column: str, small_copy: Path) -> None:
    file = small_copy / "index.parquet"
    pq.write_table(pq.read_table(file).drop_columns([column]), file)
    reseal(small_copy)
    with pytest.raises(ShardSetError, match=f"index.parquet has no column '{column}'"):
        ShardSet.open(small_copy)


RUNS = "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{marker}]]\n"


def test_yaml_runs_nothing(invoke: Invoke, small_source: Path, small_root: Path, tmp_path: Path) -> None:
    marker, file = tmp_path / "ran", tmp_path / "evil.yaml"
    file.write_text(RUNS.format(marker=marker))
    build = ("build", "--dataset", "folder", "--root", small_source, "--out", tmp_path / "out", "--views", "image")
    for command, arguments in (
        (prep, (*build, "--generators", file)),
        (train, ("--shards", small_root, "--out", tmp_path / "run", "--protocol", file)),
        (train, ("--shards", small_root, "--out", tmp_path / "run", "--config", file)),
    ):
        result = invoke(command, *arguments)
        assert result.exit_code in (1, 2), result.output
        assert "error: " in result.stderr.lower()
    assert not marker.exists()


def test_no_pipe_and_no_url(invoke: Invoke, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for address in (f"pipe:touch {marker}", f"pipe:touch${{IFS}}{marker}", "file:///etc", "https://example.org/shards"):
        for command, arguments in (
            (prep, ("build", "--dataset", "folder", "--root", address, "--out", tmp_path / "out")),
            (prep, ("build", "--dataset", "manifest", "--root", address, "--out", tmp_path / "out")),
            (prep, ("verify", address)),
            (prep, ("info", address)),
            (train, ("--shards", address, "--out", tmp_path / "run")),
        ):
            result = invoke(command, *arguments)
            assert result.exit_code == 1, result.output
            assert "does not exist" in result.stderr
    assert not marker.exists()


def rewrite(root: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """A JSON file of the set with a change in it, and sums that match."""
    document = json.loads((root / name).read_text())
    change(document)
    (root / name).write_text(json.dumps(document))
    reseal(root)


def refusals(invoke: Invoke, root: Path, out: Path, view: str) -> dict[str, str]:
    """What each command that reads a column's members says."""
    found = {}
    for name, arguments in {
        "verify": ("verify", root),
        "verify --deep": ("verify", root, "--deep"),
        "export": ("export", root, "--views", view, "--out", out),
        "info": ("info", root),
    }.items():
        done = invoke(prep, *arguments)
        assert done.exit_code == 1, (name, done.output)
        found[name] = done.output
    return found


@pytest.mark.parametrize("suffix", ["pyd", "pickle", "pkl", "pth", "npz"])
def test_the_loader_takes_no_pickle(suffix: str, invoke: Invoke, small_copy: Path, tmp_path: Path) -> None:
    """A member that readers of tars unpickle by its suffix, in a set whose every sum matches."""
    name, ran = "image/000000", tmp_path / "ran"
    payload = pickle.dumps(Touch(ran))
    buffer = io.BytesIO()
    with tarfile.open(small_copy / f"{name}.tar") as old, tarfile.open(fileobj=buffer, mode="w") as new:
        for member in old.getmembers():
            member.name, member.size = f"{member.name.split('.')[0]}.{suffix}", len(payload)
            new.addfile(member, io.BytesIO(payload))
    count = json.loads((small_copy / f"{name}.json").read_text())["num_samples"]
    step = 512 + len(payload) + -len(payload) % 512
    spans = [[512 + row * step, len(payload)] for row in range(count)]
    seal(small_copy, name, buffer.getvalue())
    rewrite(small_copy, f"{name}.json", lambda sidecar: sidecar.update(members={suffix: spans}))
    with pytest.raises(DamagedShardError, match=f"its members are '{suffix}', which the view image does not store"):
        list(ShardSet.open(small_copy).loader(views=["image"], batch_size=4, shuffle=False))
    assert all(
        "image/000000" in said or "shard 000000" in said
        for said in refusals(invoke, small_copy, tmp_path / "out", "image").values()
    )
    assert not ran.exists()
    assert not list(tmp_path.glob("out/*.tar"))  # nor is one handed on


def test_the_loader_takes_no_array_of_objects(invoke: Invoke, small_copy: Path, tmp_path: Path) -> None:
    """An .npy whose elements are pickled: the suffix is right."""
    name, ran = "image/000000", tmp_path / "ran"
    content = io.BytesIO()
    np.save(content, np.array([Touch(ran)], dtype=object), allow_pickle=True)
    payload = content.getvalue()
    buffer = io.BytesIO()
    with tarfile.open(small_copy / f"{name}.tar") as old, tarfile.open(fileobj=buffer, mode="w") as new:
        for member in old.getmembers():
            member.size = len(payload)
            new.addfile(member, io.BytesIO(payload))
    count = json.loads((small_copy / f"{name}.json").read_text())["num_samples"]
    step = 512 + len(payload) + -len(payload) % 512
    spans = [[512 + row * step, len(payload)] for row in range(count)]
    seal(small_copy, name, buffer.getvalue())
    rewrite(small_copy, f"{name}.json", lambda sidecar: sidecar.update(members={"npy": spans}))
    with pytest.raises(DamagedShardError, match="is not an array"):
        list(ShardSet.open(small_copy).loader(views=["image"], batch_size=4, shuffle=False))
    assert {damage.path for damage in verify(small_copy, deep=True)} == {f"{name}.tar"}
    assert not ran.exists()


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_of_touch_would_run(tmp_path: Path) -> None:
    """What the two tests above rest on."""
    pickle.loads(pickle.dumps(Touch(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("offset", [-512, 512, 1, 10**12])
def test_members_that_do_not_follow_each_other(offset: int, invoke: Invoke, small_copy: Path, tmp_path: Path) -> None:
    def move(sidecar: dict[str, Any]) -> None:
        sidecar["members"]["edge.npy"][1][0] += offset

    rewrite(small_copy, "edge/000000.json", move)
    done = invoke(prep, "verify", small_copy)
    assert done.exit_code == 1 and "edge/000000.json" in done.stdout
    assert invoke(prep, "export", small_copy, "--views", "edge", "--out", tmp_path / "out").exit_code == 1


def test_an_xxh3_of_another_tar(small_copy: Path) -> None:
    rewrite(small_copy, "edge/000000.json", lambda sidecar: sidecar.update(xxh3_128="0" * 32))
    assert [damage.path for damage in verify(small_copy, deep=True)] == ["edge/000000.json"]


def test_parameters_of_no_view_are_one_sentence(small_copy: Path) -> None:
    rewrite(small_copy, "dataset.json", lambda document: document["views"]["edge"]["params"].update(other=1))
    with pytest.raises(ShardSetError, match=r"views\.edge\.params: 'other' is none of ksize, scale"):
        ShardSet.open(small_copy)


@pytest.mark.parametrize("tar", [b"", b"no tar", bytes(10240), b"x" * 10240])
def test_what_is_no_tar_is_named(tar: bytes, small_copy: Path) -> None:
    seal(small_copy, "text/000001", tar)
    assert "text/000001.tar" in {damage.path for damage in verify(small_copy, deep=True)}


@pytest.mark.parametrize(("field", "value"), [("view", "image"), ("shard", "000001")])
def test_a_sidecar_in_the_place_of_another(field: str, value: str, small_copy: Path) -> None:
    rewrite(small_copy, "edge/000000.json", lambda sidecar: sidecar.update({field: value}))
    assert [damage.path for damage in verify(small_copy)] == ["edge/000000.json"]
    with pytest.raises(DamagedShardError, match=r"edge/000000\.json is that of"):
        list(ShardSet.open(small_copy).loader(views=["edge"], batch_size=4, shuffle=False))


def with_members(root: Path, name: str, suffix: str, payload: bytes) -> None:
    """Every member `suffix` of a column has this content, and all sums match."""
    buffer = io.BytesIO()
    with tarfile.open(root / f"{name}.tar") as old, tarfile.open(fileobj=buffer, mode="w") as new:
        for member in old.getmembers():
            data = old.extractfile(member)
            assert data is not None
            content = payload if member.name.endswith(f".{suffix}") else data.read()
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        places: dict[str, list[list[int]]] = {}
        for member in tar:
            places.setdefault(member.name.partition(".")[2], []).append([member.offset_data, member.size])
    seal(root, name, buffer.getvalue())
    rewrite(root, f"{name}.json", lambda sidecar: sidecar.update(members=places))


FIELDS = b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999,), }"
HUGE = b"\x93NUMPY\x01\x00v\x00" + FIELDS.ljust(117) + b"\n"


@pytest.mark.parametrize(
    ("name", "suffix", "payload"),
    [("image/000000", "npy", HUGE), ("image/000000", "npy", b"no array"), ("text/000000", "txt", b"\xff\xfe")],
)
def test_an_export_of_what_is_no_array(
    name: str, suffix: str, payload: bytes, invoke: Invoke, small_copy: Path, tmp_path: Path
) -> None:
    with_members(small_copy, name, suffix, payload)
    done = invoke(prep, "export", small_copy, "--for", "open_clip", "--out", tmp_path / "out")
    assert done.exit_code == 1 and "is damaged" in done.stderr


@pytest.mark.parametrize("side", [20_000, 9_000, 2**31 - 1, 0])
def test_a_png_that_says_it_is_huge_is_not_decoded(side: int) -> None:
    data = bytearray(encode_png(np.zeros((224, 224), np.uint8)))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(ValueError, match="PNG"):
        decode_png(bytes(data))
