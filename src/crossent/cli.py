"""The start of the `crossent` command: an interruption ends it without a traceback, while it still imports too."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 where what was asked to hold does not, 2 for a mistake, 130 if stopped."""
    try:
        from crossent import commands

        return commands.run(arguments)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
