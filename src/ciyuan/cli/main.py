"""`ciyuan`: the commands, and what becomes of whatever goes wrong in them.

Exit codes: 0 done; 2 the user can mend it, said in at most three lines; 1 our fault; 143 stopped by SIGTERM with a checkpoint
written; 130 stopped by Ctrl-C; 141 the reader of our output went away.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

import ciyuan
from ciyuan.cli import (
    answer,
    chat,
    classify,
    doctor,
    embed,
    evaluate,
    export,
    fill,
    generate,
    import_,
    inspect,
    plan,
    recipes,
    train,
    translate,
)
from ciyuan.cli.commands import Commands
from ciyuan.cli.streams import printable, say
from ciyuan.errors import CiyuanError, UserError, did_you_mean

TRACEBACK = "CIYUAN_TRACEBACK"
"""Set in the environment, shows where an error arose."""
SPINS = "2000"
"""How often a thread of GNU's OpenMP looks whether the others are done before it lets another program have its core."""
FEW_CORES = 8

app = typer.Typer(
    cls=Commands,
    help="Train Transformers on your own text, and put them to work.  用自己的文本训练 Transformer。",
    add_completion=False,
    rich_markup_mode=None,  # rich's help costs more time than all the rest of it
    pretty_exceptions_enable=False,
)
app.command("train")(train.train)
app.command("plan")(plan.plan)
app.command("translate")(translate.translate)
app.command("generate")(generate.generate)
app.command("fill")(fill.fill)
app.command("classify")(classify.classify)
app.command("answer")(answer.answer)
app.command("embed")(embed.embed)
app.command("chat")(chat.chat)
app.command("evaluate")(evaluate.evaluate)
app.command("import")(import_.import_)
app.command("export")(export.export)
app.command("inspect")(inspect.inspect)
app.command("doctor")(doctor.doctor)
app.add_typer(recipes.app, name="recipes", cls=Commands)


@app.command(
    "tokenizer",
    help="Train, use and judge tokenisers.",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def tokenizer(ctx: typer.Context) -> None:
    from ciyuan.cli.tokenizer import app as tokenizer_app

    _invoke(tokenizer_app, ctx.command_path, ctx.args or ["--help"])


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ciyuan {ciyuan.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give back its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    _speak_utf8()
    _share_the_cores()
    warnings.showwarning = _show_warning
    try:
        _invoke(app, "ciyuan", arguments)
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 (whatever it is, it becomes a message and a code)
        return _explain(error)
    return 0


def _invoke(what: typer.Typer, name: str, arguments: Sequence[str]) -> None:
    """Without typer's own `main`, which has other exit codes than ours for a closed pipe and for Ctrl-C."""
    command = typer.main.get_command(what)
    with command.make_context(name, list(arguments)) as context:
        command.invoke(context)


def _share_the_cores() -> None:
    """On a laptop other programs want the cores too, and a thread that spins while its neighbour waits for a core keeps it from it:
    beside one busy program training then takes twice as long. On a quiet machine this changes nothing. torch comes after this.
    """
    if (os.cpu_count() or 1) <= FEW_CORES and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def _explain(error: BaseException) -> int:
    """Say what went wrong on stderr; the exit code."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        _abandon_stdout()
        return 141
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        say("stopped")
        return 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, OSError):
        error = _of_the_system(error)
    if hasattr(error, "format_message"):  # what typer raises for arguments that it cannot read
        error = _usage(error)
    if isinstance(error, CiyuanError):
        _tell(str(error))
        return error.exit_code
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        _tell("out of memory\nlower training.batch_tokens, model.d_model or the batch, or close other programs")
        return 2
    _tell(
        f"ciyuan failed, and it is not your fault: {type(error).__name__}: {' '.join(str(error).split())[:300]}\n"
        f"please report it with what this shows: {TRACEBACK}=1 in front of the same command"
    )
    return 1


def _tell(message: str) -> None:
    for line in message.splitlines()[:3]:
        say(printable(line))


def _of_the_system(error: OSError) -> OSError | UserError:
    """A file that cannot be opened or written, or a full disk, is for the user to mend."""
    reason = error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        _abandon_stdout()
        return UserError(f"the disk is full ({reason})", where=error.filename, fix="free some space and try again")
    if error.filename is not None:
        return UserError(reason, where=error.filename)
    return error


def _usage(error: Any) -> UserError:
    """What typer says about an option or argument, in our words."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "ciyuan"
    more = f"`{command} --help` shows what there is"
    option = getattr(error, "option_name", None)
    if option and "No such option" in error.message and context is not None:
        known = sorted(
            {name for parameter in context.command.params for name in parameter.opts if name.startswith("--")}
        )
        return UserError(f"`{command}` has no option {option}", fix=did_you_mean(option, known) or more)
    message = " ".join(error.format_message().split())
    if not message:
        message = "an argument is missing"
    return UserError(f"`{command}`: {message.rstrip('.')}", fix=more)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"warning: {printable(' '.join(str(message).split()))}")


def _speak_utf8() -> None:
    """Text is UTF-8 in and out, whatever the locale."""
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors=errors)


def _abandon_stdout() -> None:
    """Whatever is still buffered has nowhere to go: without this, Python would complain about it as it exits."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass


def run() -> NoReturn:
    sys.exit(main())


if __name__ == "__main__":
    run()
