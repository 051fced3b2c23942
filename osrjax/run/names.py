"""What a run directory is called where nobody says it."""

import dataclasses
import hashlib
import re
from typing import Any

from osrjax.fields import execution_fields

__all__ = ["run_name"]


def run_name(config: Any, preset: Any, *, prefix: str = "") -> str:
    """The default name of a run directory: short, and another one for every other configuration.

    Args:
      config: a dataclass; fields marked with :class:`osrjax.fields.Execution` have no say in the name.
      preset: the defaults that it started from, of the same class.
      prefix: begins the name.

    Returns:
      Preset, class split and seed, then every other field that differs from the preset.

    Example:
      >>> from osrjax.run.launch import SingleRunConfig
      >>> run_name(SingleRunConfig(seed=3), SingleRunConfig()), run_name(SingleRunConfig(smoke=True), SingleRunConfig())
      ('bundled-seed3', 'bundled-smoke-seed0')
    """
    fields = [field.name for field in dataclasses.fields(config)]
    parts = [prefix, config.preset, "smoke" if config.smoke else ""]
    said = set(execution_fields(type(config)))
    if "split" in fields:
        said.add("split")
        if not config.known:
            said.add("family")
        parts.append(f"{'split' if config.known else config.family}{config.split}")
    if "seed" in fields:
        said.add("seed")
        parts.append(f"seed{config.seed}")
    for name in fields:
        if name not in said and getattr(config, name) != getattr(preset, name):
            parts.append(f"{name}={_brief(getattr(config, name))}")
    return _shortened("-".join(part for part in parts if part), 150)


def _brief(value: Any) -> str:
    """A value as a part of a file name: the last part of a path, the end of a long text; what is lost, as a hash."""
    text = ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    if not text:
        return "none"
    if len(text) <= 24 and re.fullmatch(r"[\w.,+-]+", text, re.ASCII):
        return text
    end = re.sub(r"[^\w.,+-]+", "_", re.split(r"[/:\\]", text)[-1], flags=re.ASCII)[-16:]
    return f"{end}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _shortened(text: str, length: int) -> str:
    """The text, or its beginning and a hash of all of it."""
    return text if len(text) <= length else f"{text[: length - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
