"""``python -m osrjax COMMAND ...``: the commands that need no repository."""

import sys

from osrjax.choices import load

COMMANDS = {"predict": "osrjax.commands.predict:main", "norms": "osrjax.commands.norms:main"}


def main(arguments: list[str] | None = None) -> int:
    """Starts the command that the first word names; returns the exit code."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command not in COMMANDS:
        usage = f"usage: python -m osrjax {{{','.join(COMMANDS)}}} ...; COMMAND --help says more"
        if command in ("-h", "--help"):
            print(usage)
            return 0
        print(f"osrjax: command={command!r} does not exist: {usage}", file=sys.stderr)
        return 2
    return load(COMMANDS[command])(rest)


if __name__ == "__main__":
    sys.exit(main())
