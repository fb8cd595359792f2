"""The ``moemix`` command. A sub-command is loaded when it is called, so ``--help`` stays quick."""

from __future__ import annotations

import errno
import sys

import click

from harness.errors import MoemixError, nearest
from harness.progress import log_to_stderr
from harness.stages import load_command

COMMANDS: dict[str, str] = {
    "bench": "Run a recipe to its comparison table; resumes where it stopped.",
    "plan": "Show what a recipe would run, and what is already done.",
    "status": "Show which jobs run, wait and failed, with the time left.",
    "train": "Train one model under one mixing strategy.",
    "eval": "Score a checkpoint on a suite of lm-eval tasks.",
    "execute": "Run programs with their tests in the sandbox.",
    "cache": "Look at and prune the cache of model answers.",
    "judge": "Judge open-ended answers, and measure the judge.",
    "gate-load": "Measure how a run's checkpoint routes its sources and benchmarks.",
    "table": "Compare runs in a table.",
    "view": "Show runs as pages: jobs, table, curves, and samples compared.",
    "power": "Say what more seeds and questions would show, and what they cost.",
    "submit": "Submit a run or a checkpoint to a leaderboard.",
    "board": "Make, verify and build a leaderboard.",
    "paper": "Make the paper's tables and figures, ours beside the published.",
    "model": "Make MoE checkpoints.",
    "data": "Make and inspect training data.",
    "strategies": "List the mixing strategies; `strategies new` begins one.",
    "simulate": "Run strategies in a simulated world; nothing is trained.",
    "propose": "Propose fixed weights from proxy runs (regmix, mixing_law, mixmin, dmo).",
    "recipes": "List the built-in recipes; `recipe new` writes one for your data.",
    "suites": "List the evaluation suites.",
    "doctor": "Report what this machine can do.",
}
"""Each sub-command with what it does; the entry points ``moemix.commands`` say where it is."""


_DISK = {
    errno.ENOSPC: "the disk is full: free space",
    errno.EDQUOT: "your quota is used up: free space, or give another --store",
    errno.EFBIG: "the file is too large for this file system: give another --store",
    errno.EACCES: "no permission: change it, or give another --store",
    errno.EPERM: "the operation is not permitted here: give another --store",
    errno.EROFS: "the file system is read-only: give another --store",
    errno.EIO: "the disk failed to read or write: check it",
    errno.ESTALE: "the network file system has lost this file: mount it again",
    errno.EMFILE: "too many files are open: raise `ulimit -n`",
    errno.ENAMETOOLONG: "the name is too long for this file system: give a shorter one",
    errno.ENOTDIR: "this is a file, and a folder is needed: give another place",
}
"""What goes wrong on disks, and what to do, by the number of the error."""


class LazyGroup(click.Group):
    """A group that knows its sub-commands by name and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all sub-commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a sub-command."""
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the sub-command; an unknown name is reported with its nearest neighbour."""
        if args and args[0] == "recipe":  # `moemix recipe new` reads better than `recipes new`
            args = ["recipes", *args[1:]]
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}; {nearest(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of sub-commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="moemix")
def cli() -> None:
    """Benchmark data-mixing strategies for Mixture-of-Experts instruction tuning.

    Start with `moemix bench quickstart`.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Errors that a user can correct are printed as a sentence; others keep their traceback."""
    log_to_stderr()
    try:
        code = cli.main(args=arguments, prog_name="moemix", standalone_mode=False)
    except MoemixError as error:
        _fail(str(error), error.exit_code)
    except click.Abort:
        _fail("interrupted", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command to go on", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has ended (`| head`)
        sys.exit(141)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        place = error.filename or "while writing"
        _fail(f"{place}: {_DISK[error.errno]}; then run the same command: finished work is kept", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    click.echo(f"moemix: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
