"""The reference: a page for each room with all of its public names, and an error for each that has no words.

A name is documented where users import it: ``osrjax.losses.m_ovr_loss`` rather than the module that defines it.
"""

import ast
import functools
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

from repository_pages import DOCS, ROOT, write
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

import osrjax

OUT = DOCS / "generated" / "reference"
COMMANDS = r"osrjax\.(__main__|commands\..*|data\.prepare|data\.build_fashion_mnist_small)"
logger = logging.getLogger(__name__)


def modules() -> dict[str, list[str]]:
    """The modules of each room that export names."""
    exporting = [
        module.name
        for module in pkgutil.walk_packages(osrjax.__path__, "osrjax.")
        if not module.ispkg and not re.fullmatch(COMMANDS, module.name) and exported(module.name)
    ]
    rooms: dict[str, list[str]] = {}
    for name in exporting:
        rooms.setdefault(".".join(name.split(".")[:2]), []).append(name)
    return rooms


def exported(module: str) -> list[str]:
    """``__all__`` of a module, from its source, and what its room hands on besides."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    names = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__":
            names = ast.literal_eval(node.value)
    return list(dict.fromkeys([*names, *handed_on(path.parent).get(path.stem, [])]))


@functools.cache
def handed_on(room: Path) -> dict[str, list[str]]:
    """The names in the stub of a lazy room, by module."""
    stub = room / "__init__.pyi"
    nodes = ast.parse(stub.read_text()).body if stub.exists() and room.name != "osrjax" else []
    return {node.module: [alias.name for alias in node.names] for node in nodes if getattr(node, "module", None)}


def public_name(room: str, module: str, name: str) -> str:
    """Where users import a name from: the room, if it hands the name on."""
    package = importlib.import_module(room)
    handed_on = room != module and name in getattr(package, "__all__", ())
    return f"{room if handed_on else module}.{name}"


ALIASES = {
    f"{module}.{name}": public_name(room, module, name)
    for room, found in modules().items()
    for module in found
    for name in exported(module)
}


def value_of(public: str):
    """The object of a public name; from the room first, since modules can have names of functions."""
    module, _, name = public.rpartition(".")
    return getattr(importlib.import_module(module), name)


def described_value(module: str, name: str) -> list[str]:
    """A constant: the comment beside or above its definition, and the names that it holds."""
    lines = Path(ROOT / f"{module.replace('.', '/')}.py").read_text().splitlines()
    line = next((line for line in lines if re.match(rf"{name}\b.* = ", line)), "")
    _, _, comment = line.partition("  # ")
    value = getattr(importlib.import_module(module), name)
    names = list(value) if isinstance(value, dict | tuple | list) else []
    if names and all(isinstance(one, str) for one in names):
        return [f"   {comment or 'Names'}: {', '.join(f'``{one}``' for one in names)}"]
    return [f"   {comment or f'``{value!r}``'}"]


def directive(module: str, name: str) -> list[str]:
    """How one name is documented."""
    public = ALIASES[f"{module}.{name}"]
    value = value_of(public)
    if inspect.isclass(value):
        return [f".. autoclass:: {public}", "   :members:"]
    if callable(value) and inspect.getmodule(value) is not None and hasattr(value, "__name__"):
        return [f".. autofunction:: {public}"]
    place, _, short = public.rpartition(".")
    return [f".. py:data:: {short}", f"   :module: {place}", "", *described_value(module, name)]


def page(room: str, found: list[str]) -> str:
    """The page of a room."""
    title = room.removeprefix("osrjax.")
    lines, written = [title, "=" * len(title), ""], set()
    for module in dict.fromkeys([room, *found]):
        if module != room:
            heading = module.removeprefix(f"{room}.")
            lines += [heading, "-" * len(heading), ""]
        shared = ["   :no-index:"] if module in ALIASES.values() else []  # the function of that name has the entry
        lines += [f".. automodule:: {module}", "   :no-members:", *shared, ""]
        for name in exported(module) if module in found else []:
            if ALIASES[f"{module}.{name}"] not in written:  # two modules may export one object
                lines += [*directive(module, name), ""]
                written.add(ALIASES[f"{module}.{name}"])
    return "\n".join(lines)


def generate(app) -> None:
    """The pages of all rooms."""
    for public in sorted(ALIASES.values()):  # before a module of the same name is imported
        value_of(public)
    for room, found in modules().items():
        write(OUT / f"{room.removeprefix('osrjax.')}.rst", page(room, found))


def promised() -> list[str]:
    """Every name that a room or a module exports, as users import it."""
    rooms = [path.parent.name for path in (ROOT / "osrjax").glob("*/__init__.py")]
    names = [f"osrjax.{room}.{name}" for room in rooms for name in exported(f"osrjax.{room}.__init__")]
    names += [
        f"osrjax.{room}.{name}"
        for room in rooms
        for found in handed_on(ROOT / "osrjax" / room).values()
        for name in found
    ]
    return sorted({*names, *ALIASES.values()})


def check(app, env) -> None:
    """An error for every public name without an entry or without words of its own."""
    entries = env.domains.python_domain.objects
    for name in promised():
        value = value_of(name)
        if name not in entries:
            logger.error("%s is public and not in the reference", name)
        elif (inspect.isclass(value) or inspect.isfunction(value)) and not vars(value).get("__doc__", value.__doc__):
            logger.error("%s has no docstring", name)


def resolve(app, env, node, content):
    """A reference to the place of definition, or to a neighbour in the module or room, leads to the public name."""
    target, module = node.get("reftarget", ""), node.get("py:module") or ""
    entries = env.domains.python_domain.objects
    tried = [target, f"{module}.{target}", f"{module.rpartition('.')[0]}.{target}"]
    public = next((name for one in tried if (name := ALIASES.get(one, one)) in entries), None)
    if public is None:
        return None
    entry = entries[public]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, public)


def with_short_names(app, what, name, value, options, signature, returned):
    """Arrays of JAX by the name that users import."""
    return tuple(text and text.replace("jaxlib._jax.Array", "jax.Array") for text in (signature, returned))


def skip(app, what, name, value, skipped, options):
    """Fields of a NamedTuple stand among its attributes already."""
    return True if type(value).__name__ in ("_tuplegetter", "member_descriptor") else None


def setup(app):
    """Pages before sources are looked for, the check when all are read."""
    app.connect("builder-inited", generate)
    app.connect("env-check-consistency", check)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-signature", with_short_names)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
