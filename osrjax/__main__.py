"""``osrjax COMMAND ...``, also ``python -m osrjax COMMAND ...``: the commands that need no repository."""

import sys
from pathlib import Path

from osrjax import __version__
from osrjax.choices import load
from osrjax.run.output import until_closed

COMMANDS = {name: f"osrjax.commands.{name}:main" for name in ("predict", "evaluate", "norms", "report")}
USAGE = f"usage: osrjax {{{','.join(COMMANDS)}}} ...; osrjax COMMAND --help says more"


@until_closed
def main(arguments: list[str] | None = None) -> int:
    """Starts the command that the first word names; says what is installed where there is none.

    Args:
      arguments: the words of the command line; those of this process for None.

    Returns:
      The exit code.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if not words:
        return describe()
    command, *rest = words
    if command in ("-h", "--help"):
        print(USAGE)
    elif command == "--version":
        print(__version__)
    elif command in COMMANDS:
        return load(COMMANDS[command])(rest, script=f"osrjax {command}")
    else:
        print(f"osrjax: command={command!r} does not exist: {USAGE}", file=sys.stderr)
        return 2
    return 0


def describe() -> int:
    """Prints version, devices, where the documentation is, and the usage; 1 where JAX finds no device."""
    import jax

    print(f"osrjax {__version__}, JAX {jax.__version__}, Python {sys.version.split()[0]}")
    found = True
    try:
        devices = jax.devices()
        print(f"devices: {len(devices)} {devices[0].platform} ({devices[0].device_kind})")
    except RuntimeError as error:
        found = False
        print(f"devices: none ({str(error).partition(chr(10))[0]})")
    docs = Path(__file__).parents[1] / "docs"
    place = docs if (docs / "start.md").is_file() else f"README.md and docs/ in osrjax-{__version__}.tar.gz"
    print(f"documentation: {place}; help(osrjax.losses) and the like for every room\n{USAGE}")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
