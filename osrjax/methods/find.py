"""From the name of a method to its function, and from a configuration to the method."""

import hashlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from osrjax.choices import load, load_own
from osrjax.fields import check_fields
from osrjax.methods.class_losses import ClassLoss
from osrjax.methods.classification import classify
from osrjax.methods.method import Method, Task
from osrjax.methods.options import ClassifyOptions, Options, options_of
from osrjax.methods.table import METHOD_SOURCE, METHODS

__all__ = ["MethodFunction", "check_method", "find_method", "make_method", "method_source"]

MethodFunction = Callable[[Any, Task], Method]


def find_method(name: str) -> tuple[MethodFunction, type[Options]]:
    """The function that makes a method, and the class of options that it takes.

    Args:
      name: of :data:`osrjax.methods.table.METHODS`, or MODULE:FUNCTION, which is imported.

    Returns:
      The function, and the class that annotates its first argument; of a class loss, :func:`classify` of it.

    Raises:
      ValueError: there is no such method.

    Example:
      >>> find_method("softmax")[1].__name__
      'ClassifyOptions'
    """
    if name not in METHODS and ":" not in name:
        raise ValueError(
            f"method={name!r} does not exist: choose from {', '.join(METHODS)}, or give MODULE:FUNCTION of your own"
        )
    found = load(METHODS[name]) if name in METHODS else load_own(name)
    if isinstance(found, ClassLoss):
        return partial(classify, class_loss=found), ClassifyOptions
    try:
        hints = get_type_hints(found)
    except (NameError, TypeError):  # a name that is imported for type checkers alone; no function
        hints = {}
    kind = next((hint for hint in hints.values() if isinstance(hint, type)), None)
    if kind is None or not issubclass(kind, Options):
        raise ValueError(f"method={name!r} says no class of options: annotate its first argument, as ClassifyOptions")
    return found, kind


def method_source(name: str) -> dict[str, str]:
    """The checksum of the file of a method of one's own, by which a run notices that it has changed.

    Args:
      name: as for :func:`find_method`; a MODULE:FUNCTION is imported.

    Returns:
      By name, for the ``content`` of :class:`osrjax.run.Run`; nothing for a method of this package, or one without
      a file.

    Raises:
      ValueError: there is no such method.

    Example:
      >>> method_source("softmax")
      {}
    """
    if name in METHODS:
        return {}
    find_method(name)
    file = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    return {METHOD_SOURCE + name: hashlib.sha256(Path(file).read_bytes()).hexdigest()} if file else {}


def check_method(config: Options) -> None:
    """Refuses a method whose options the configuration of a script does not have.

    Args:
      config: of the script.

    Raises:
      ValueError: it takes others.
    """
    _, kind = find_method(config.method)
    if not isinstance(config, kind):
        raise ValueError(
            f"method={config.method!r} takes {kind.__name__}, and this script has others: experiments/train.py has"
            " ClassifyOptions, experiments/contrastive.py ContrastOptions"
        )


def make_method(config: Any, task: Task) -> Method:
    """The method that a configuration asks for; that of a finished run from its config.json.

    Args:
      config: with the field ``method``, as an object or a mapping; fields that the method does not have are not
        looked at. Or a name alone.
      task: of the run.

    Returns:
      The method.

    Raises:
      ValueError: no such method, or options out of range.

    Example:
      >>> make_method({"method": "doc", "network": "small_cnn"}, Task(6, (28, 28, 1), 1)).score
      'ovr'
    """
    if isinstance(config, str):
        config = {"method": config}
    name = config.get("method") if isinstance(config, Mapping) else config.method
    if name is None:
        raise ValueError(
            "the configuration names no method, as in version 0.1.0: read it with that version, or train it again in"
            " another directory"
        )
    function, kind = find_method(name)
    options = options_of(config, kind)
    check_fields(options)
    return function(options, task)
