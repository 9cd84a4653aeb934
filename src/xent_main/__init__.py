"""The `xent` command before anything is imported: an interruption ends it without a traceback even then."""

from __future__ import annotations


def main() -> int:
    """Run the command; the exit code is 130 where it was interrupted."""
    try:
        from xent import cli

        return cli.main()
    except KeyboardInterrupt:
        return 130
