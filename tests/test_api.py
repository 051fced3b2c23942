"""The interface itself: names, order of arguments, documentation, what an import pulls in."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import osrjax

COMMANDS = {"osrjax.data.prepare", "osrjax.data.build_fashion_mnist_small"}
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(osrjax.__path__, "osrjax.") if module.name not in COMMANDS
)
FROM_PAPERS = (  # modules whose functions come from papers, with these exceptions
    "osrjax.attribution.boxes",
    "osrjax.attribution.maps",
    "osrjax.augment.mixing",
    "osrjax.augment.saliency",
    "osrjax.jacobian.estimate",
    "osrjax.jacobian.exact",
    "osrjax.jacobian.paths",
    "osrjax.losses.classification",
    "osrjax.losses.contrastive",
    "osrjax.losses.distances",
    "osrjax.scores.features",
    "osrjax.scores.functions",
    "osrjax.scores.heads",
    "osrjax.scores.logits",
)
OF_NO_PAPER = {
    "automatic_mode",
    "box_mask",
    "check_layers",
    "chord_length",
    "directional_norm",
    "fit_knn",
    "input_jacobian",
    "jacobian_estimate",
    "largest_singular_value",
    "last_layers",
    "mean_estimate",
    "nt_xent_gradient",
    "pooled_gradients",
    "stage_gradients",
    "upsample_map",
}
PURE = ("attribution", "augment", "jacobian", "losses", "scores")


def public_functions():
    for name in MODULES:
        module = importlib.import_module(name)
        for attribute in getattr(module, "__all__", ()):
            value = getattr(module, attribute)
            if inspect.isfunction(value) and value.__module__ == name:
                yield pytest.param(value, id=f"{name.removeprefix('osrjax.')}.{attribute}")


@pytest.mark.parametrize("function", list(public_functions()))
def test_public_functions(function):
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    names = list(signature.parameters)
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        assert parameter.kind is not inspect.Parameter.VAR_KEYWORD, "no **kwargs"
        assert parameter.name != "rng", "a key is called key"
        if isinstance(parameter.default, bool | float | str):
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, f"{parameter} is an option"
    if "key" in names:
        before = names[: names.index("key")]
        assert set(before) <= {"fn", "function", "objective"}, "the key comes before the arrays"
    first, *_ = inspect.getdoc(function).splitlines()
    assert first.endswith("."), first
    assert len(first) <= 115
    if names:
        assert "Args:" in function.__doc__ or "Arguments and errors are those of" in function.__doc__ or len(names) == 1
    if function.__module__ in FROM_PAPERS:
        assert ("References:" in function.__doc__) is (function.__name__ not in OF_NO_PAPER)
        assert ">>>" in function.__doc__


@pytest.mark.parametrize("name", MODULES)
def test_modules_say_what_they_export(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert module.__doc__.splitlines()[0].rstrip().endswith((".", ":", "?"))
    for exported in getattr(module, "__all__", ()):
        assert hasattr(module, exported), exported


def test_importing_the_package_stays_light():
    heavy = ["flax", "sklearn", "tensorflow_datasets", "grain", "orbax", "matplotlib", "tensorflow", "torch"]
    code = f"import osrjax, sys; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_pure_modules_do_not_know_flax():
    modules = ", ".join(f"osrjax.{name}" for name in PURE)
    code = f"import {modules}, sys; print('flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_name_stands_in_one_list_and_no_room_hands_on_a_function_that_is_called_as_its_module():
    places: dict[str, list[str]] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        exported = getattr(module, "__all__", ())
        if hasattr(module, "__path__"):  # a room: what it hands on is hidden once a module of that name is imported
            modules = {found.name for found in pkgutil.iter_modules(module.__path__)}
            assert [own for own in exported if own in modules and not inspect.ismodule(getattr(module, own))] == []
            continue
        for own in exported:
            places.setdefault(own, []).append(name)
    assert {own: found for own, found in places.items() if len(found) > 1} == {}


STUBS = sorted(Path(osrjax.__path__[0]).glob("*/__init__.pyi"))


@pytest.mark.parametrize("stub", STUBS, ids=lambda path: path.parent.name)
def test_a_room_hands_on_what_its_modules_export(stub):
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            exported = importlib.import_module(f"osrjax.{stub.parent.name}.{node.module}").__all__
            assert [alias.name for alias in node.names if alias.name not in exported] == []
