"""Who may import whom, held against the code: architecture is what this file says, not what a drawing says."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("pipeline", "model", "cli", "manifests")

_SHARDS = ("manifests", "pipeline.store", "pipeline.taxonomy", "pipeline.views", "pipeline.sources", "pipeline.demo",
           "pipeline.parsers", "pipeline.shards")  # fmt: skip
_SHARDSET = (*_SHARDS, "pipeline.protocols", "pipeline.loading", "pipeline.shardset")

# room -> the rooms that its modules may import, beside their own. A room is a package or a module of this name.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "manifests": (),
    "pipeline": ("pipeline.shardset",),  # its public name, imported late
    "pipeline.store": ("manifests",),
    "pipeline.taxonomy": ("manifests", "pipeline.store"),
    "pipeline.protocols": ("manifests", "pipeline.store", "pipeline.taxonomy"),
    "pipeline.views": ("manifests", "pipeline.store"),
    "pipeline.sources.rows": ("pipeline.store",),
    "pipeline.sources": ("manifests", "pipeline.taxonomy", "pipeline.store", "pipeline.sources.rows"),
    "pipeline.faces": ("pipeline.views", "pipeline.sources", "pipeline.sources.rows", "pipeline.store"),
    "pipeline.demo": ("pipeline.views", "pipeline.sources", "pipeline.sources.rows", "pipeline.store"),
    "pipeline.parsers": ("manifests", "pipeline.demo", "pipeline.views", "pipeline.store"),
    "pipeline.shards": ("pipeline.parsers", "pipeline.views", "pipeline.sources.rows", "pipeline.store"),
    "pipeline.build": (*_SHARDS, "pipeline.sources.rows"),
    "pipeline.loading": _SHARDS,
    "pipeline.shardset": (*_SHARDS, "pipeline.loading", "pipeline.protocols"),
    "pipeline.describe": (*_SHARDSET, "pipeline.sources.rows"),
    "pipeline.export": (*_SHARDSET, "pipeline.sources.rows"),
    "model": ("model.attributor", "model.resolve"),
    "model.errors": (),
    "model.config": (),
    "model.documents": ("model.errors", "pipeline.store"),
    "model.attributor": ("model.config", "model.inputs"),
    "model.resolve": ("model.attributor", "model.attributors", "model.config", "model.rules", "model.size"),
    "model.rules": ("model.config",),
    "model.size": ("model.attributor", "model.config", "model.inputs", "pipeline.store"),
    "model.inputs": ("pipeline.views",),
    "model.traces": (),
    "model.layers": ("pipeline.views", "model.traces"),
    "model.losses": ("pipeline.views", "model.layers"),
    "model.published": ("manifests", "pipeline.store", "model.layers"),
    "model.classifier": ("model.attributor", "model.config", "model.inputs", "model.losses", "model.published"),
    "model.attributors": (  # documents, errors, resolve: knn reads another run
        "model.attributor", "model.classifier", "model.published", "model.config", "model.documents", "model.errors",
        "model.resolve", "model.inputs", "model.layers", "model.losses", "model.traces", "pipeline.views",
    ),
    "model.training": ("model.attributor", "model.config", "model.documents", "model.errors", "model.inputs", "pipeline.store"),
    "model.evaluation": ("model.errors", "model.inputs", "model.traces", "pipeline.views", "pipeline.store"),
    # store: files, and printing of names from outside
    "model.report": ("model.errors", "model.evaluation", "pipeline.store"),
    # loading: batches on a device; describe: pictures of the views, for the page.
    "model.runs": (
        "model", "pipeline.shardset", "pipeline.protocols", "pipeline.views", "pipeline.store", "pipeline.loading",
        "pipeline.describe",
    ),
    "cli": ("model.errors", "model.report", "model.runs", "pipeline"),
}  # fmt: skip
WHOLE = {("model.runs", "model"), ("cli", "pipeline")}  # all rooms below that name

MAX_LINES = 300
LONG = {
    "pipeline/demo/draw.py",  # one world, drawn from top to bottom
    "model/attributors/bmrl.py",  # an attributor is one file: settings, rules, presets and equations
    "model/training/trainer.py",  # one loop with its messages
}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_sources(root: Path) -> dict[str, Path]:
    """Module name, without `bmrl`, -> its file."""
    return {module_name(path, root): path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))}


def imports_of(module: str, path: Path, modules: Mapping[str, Path], *, late: bool = True) -> Iterator[tuple[str, int]]:
    """The modules of ours that a file imports, with the line; late: inside functions and for type checkers too."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if late else _at_import(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["bmrl", *package][: len(package) + 2 - node.level] if node.level else []
            names = [(".".join([*base, *([node.module] if node.module else [])]), alias.name) for alias in node.names]
        else:
            continue
        for name, inside in names:
            if name.split(".")[0] == "bmrl":
                whole = f"{name}.{inside}".removeprefix("bmrl.")
                yield (whole if whole in modules else name.removeprefix("bmrl.")), node.lineno


def _at_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.If | ast.Try | ast.With):
            waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def room_of(module: str) -> str | None:
    """The longest name of MAY_IMPORT that the module has or stands below; packages at the top take no stranger in."""
    found = [
        room
        for room in MAY_IMPORT
        if module == room or (module.startswith(f"{room}.") and room not in ("pipeline", "model"))
    ]
    return max(found, key=len, default=None)


def is_allowed(importer: str, imported: str) -> bool:
    own, other = room_of(importer), room_of(imported)
    if own is None or other is None:
        return False
    return own == other or any(
        other == name or ((own, name) in WHOLE and other.startswith(f"{name}.")) for name in MAY_IMPORT[own]
    )


def forbidden_imports(root: Path) -> list[str]:
    modules = read_sources(root)
    return sorted(
        f"{path.relative_to(root)}:{line}: {module} imports {imported}"
        for module, path in modules.items()
        for imported, line in imports_of(module, path, modules)
        if not is_allowed(module, imported)
    )


def find_circle(root: Path) -> list[str]:
    """Modules that import each other when they are imported, in order; empty where there are none."""
    modules = read_sources(root)
    graph = {
        module: sorted(
            {name for name, _ in imports_of(module, path, modules, late=False) if name in modules} - {module}
        )
        for module, path in modules.items()
    }
    done: set[str] = set()

    def walk(module: str, above: list[str]) -> list[str]:
        if module in above:
            return [*above[above.index(module) :], module]
        if module not in done:
            for name in graph[module]:
                if circle := walk(name, [*above, module]):
                    return circle
            done.add(module)
        return []

    return next((circle for module in graph if (circle := walk(module, []))), [])


def write(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_every_import_is_one_that_the_rooms_allow() -> None:
    assert forbidden_imports(ROOT) == []


def test_no_circle_of_imports() -> None:
    assert find_circle(ROOT) == []


def test_two_modules_import_ray() -> None:
    found = set()
    for module, path in read_sources(ROOT).items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {module for name in names if name.split(".")[0] == "ray"}
    assert found == {"pipeline.build.ray_runner", "pipeline.build.ray_session"}


def test_modules_are_short_and_say_what_they_are() -> None:
    for path in read_sources(ROOT).values():
        name = path.relative_to(ROOT).as_posix()
        assert len(path.read_text().splitlines()) <= MAX_LINES or name in LONG, name
        assert path.stem not in FORBIDDEN_NAMES, name
    assert all((ROOT / name).is_file() for name in LONG)


def test_a_forbidden_import_is_found(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "model/runs/__init__.py": "",
            "pipeline/views/edge.py": "from ..shards.plan import Plan\n",
            "pipeline/shards/plan.py": "def late():\n    from bmrl.model.runs import train\n",
            "pipeline/shards/tars.py": "from ..sources.rows import SPLITS\nfrom ..sources import folder\n",
            "pipeline/sources/folder.py": "",
            "pipeline/sources/rows.py": "",
            "model/runs/train.py": "from ...pipeline.shardset import ShardSet\nfrom ..training import trainer\n",
            "model/training/trainer.py": "import bmrl.pipeline.shardset\nimport torch\n",
            "pipeline/shardset.py": "",
            "pipeline/stranger.py": "from .shardset import ShardSet\n",
        },
    )
    assert forbidden_imports(root) == [
        "model/training/trainer.py:1: model.training.trainer imports pipeline.shardset",
        "pipeline/shards/plan.py:2: pipeline.shards.plan imports model.runs.train",
        "pipeline/shards/tars.py:2: pipeline.shards.tars imports pipeline.sources.folder",
        "pipeline/stranger.py:1: pipeline.stranger imports pipeline.shardset",
        "pipeline/views/edge.py:1: pipeline.views.edge imports pipeline.shards.plan",
    ]


def test_a_circle_is_found(tmp_path: Path) -> None:
    files = {
        "pipeline/a.py": "from .b import y\n",
        "pipeline/b.py": "from .c import z\n",
        "pipeline/c.py": "from __future__ import annotations\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
        "    from .a import x\n\n\ndef late():\n    from .a import x\n",
    }
    assert find_circle(write(tmp_path, files)) == []
    circle = find_circle(
        write(tmp_path, {"pipeline/c.py": "try:\n    from .a import x\nexcept ImportError:\n    x = 1\n"})
    )
    assert circle == ["pipeline.a", "pipeline.b", "pipeline.c", "pipeline.a"]


def test_one_place_prints() -> None:
    """What came from outside is escaped before it reaches a terminal: `say`, `tell` and `stop` do it, nothing else prints."""
    wrong = [
        f"{path.name}: {node.lineno}"
        for path in sorted((ROOT / "cli").rglob("*.py"))
        if path.name != "exits.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "click.echo", "click.secho")
    ]
    assert wrong == []
