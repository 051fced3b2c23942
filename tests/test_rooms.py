"""The arrow rule: a room imports only rooms above it, and a heavy library only the rooms that exist for it."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = [
    "fields",
    "choices",
    "files",
    "arrays",
    "devices",
    "losses",
    "jacobian",
    "attribution",
    "augment",
    "scores",
    "models",
    "data",
    "metrics",
    "evaluation",
    "train",
    "methods",
    "analysis",
    "run",
    "report",
    "commands",
    "__main__",
]
# A folder ends in a slash. Imports inside functions and those for types alone count as well.
PLACES = {
    "flax": ("models/", "methods/"),
    "optax": ("train/", "methods/"),
    "orbax": ("run/checkpoint.py",),
    "sklearn": ("metrics/", "evaluation/", "report/", "data/digits.py"),
    "matplotlib": ("report/",),
    "bokeh": ("report/page/",),
    "grain": ("data/",),
    "tensorflow_datasets": ("data/",),
    "tyro": (
        "run/launch.py",
        "run/parsing.py",
        "commands/",
        "__main__.py",
        "data/prepare.py",
        "data/build_fashion_mnist_small.py",
    ),
}


def imports(path: Path) -> list[list[str]]:
    """What a file imports anywhere in it, as dotted names with the members of modules, in parts."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is relative: name the room"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name.split(".") for name in names]


def test_a_room_imports_only_rooms_above_it():
    package, wrong = ROOT / "osrjax", set()
    for path in package.rglob("*.py"):
        place = path.relative_to(package).as_posix()
        room = place.partition("/")[0].removesuffix(".py")
        for top, *rest in imports(path):
            if top == "osrjax" and rest and rest[0] not in (room, "__version__"):
                if ROOMS.index(rest[0]) > (-1 if room == "__init__" else ROOMS.index(room)):
                    wrong.add(f"osrjax/{place} imports {rest[0]}")
            elif not place.startswith(PLACES.get(top, place)):
                wrong.add(f"osrjax/{place} imports {top}")
    assert sorted(wrong) == []


def test_no_script_imports_a_script_and_no_test_a_test():
    scripts, benchmarks, tests = (
        {path.stem: path for path in ROOT.glob(pattern)}
        for pattern in ("experiments/*.py", "experiments/benchmarks/*.py", "tests/**/test_*.py")
    )
    forbidden = {path: set(scripts) | set(benchmarks) for path in scripts.values()}
    forbidden |= {path: set(scripts) for path in benchmarks.values()}  # they may import each other
    forbidden[scripts["speed"]] = set(scripts)  # and speed.py starts them
    forbidden |= {path: set(tests) for path in ROOT.glob("tests/**/*.py")}
    wrong = {
        f"{path.relative_to(ROOT)} imports {top}"
        for path, names in forbidden.items()
        for top, *_ in imports(path)
        if top in names
    }
    assert sorted(wrong) == []
