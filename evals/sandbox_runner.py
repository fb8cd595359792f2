"""The script inside a sandbox: it runs a program and its tests, and reports how each ended.

``evals/sandbox.py`` passes its text to a Python of its own, which has the standard library and numpy. It says that it
has started, gets the program and runs it, gets the tests and runs them: one line each way every time. Every line of its
report begins with a token that only the two sides know. What it needs later it takes before the program can replace it,
and it keeps all of this in local variables, which a program reaches only in ways that Python reports to audit hooks.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing `typing` would take longer than starting Python does
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def run() -> None:
    """Run one program."""
    import _signal  # type: ignore[import-not-found]  # without the enums of `signal`, which take 8 ms
    import builtins
    import os
    import resource
    import sys
    import types

    orders = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    order = eval(orders.readline())  # a literal, from the process that started this one
    if order["uid"] is not None:
        os.setgroups([])
        os.setresgid(order["uid"], order["uid"], order["uid"])
        os.setresuid(order["uid"], order["uid"], order["uid"])
    for limit, value in order["limits"].items():
        resource.setrlimit(getattr(resource, limit), (value, value + (limit == "RLIMIT_CPU")))
    sys.path.append(order["packages"])
    token, report, me = order["token"], order["report"], os.getpid()
    if report == 2:  # the error stream, where no other can be had
        report = os.dup(2)
        os.dup2(1, 2)
    write, leave, getpid, getframe = os.write, os._exit, os.getpid, sys._getframe
    execute, translate, literal = exec, compile, eval
    library = ("<frozen", os.path.dirname(os.__file__) + "/", order["packages"] + "/")
    helpers = (*(library[1] + name for name in ("inspect.py", "traceback.py", "ctypes/", "importlib/")), "<frozen")
    watched = {
        "sys._getframe", "sys._current_frames", "sys.settrace", "sys.setprofile", "sys.addaudithook", "gc.get_objects",
        "gc.get_referrers", "gc.get_referents", "ctypes.dlopen", "ctypes.dlsym",
    }  # fmt: skip
    frames = {"tb_frame", "gi_frame", "cr_frame", "ag_frame"}
    plain = (int, float, complex, bool, str, bytes, list, tuple, dict, set, frozenset, type(None))
    make_idle, idle = os.sched_setscheduler, os.sched_param(0)
    forks: list[int] = []
    looking: list[int] = []

    def line(what: str, text: str) -> None:
        write(report, f"{token}\t{what}\t{text}\n".encode("utf-8", "replace"))

    def tell(what: str, text: str) -> None:
        if getpid() != me:  # a process that the program forked and let run on
            leave(0)
        line(what, text)

    def file_above(skip: tuple[str, ...]) -> str:
        """Return the file of the code that called the caller, or that called what is to be skipped."""
        looking.append(1)
        try:
            frame = getframe(2)
            while frame.f_back and frame.f_code.co_filename.startswith(skip):
                frame = frame.f_back
            return frame.f_code.co_filename
        finally:
            looking.pop()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        """Report a program that looks at frames, at all objects, or into memory; libraries may."""
        if event == "os.fork" and order["idle"]:
            forks.append(1)
            if len(forks) > 4:
                make_idle(0, os.SCHED_IDLE, idle)
        if event == "os.kill" and arguments[0] == -1:
            line("suspicious", "it ends every process that it can")
        reads = event == "object.__getattr__" and arguments[1] in frames
        if looking or not (reads or event in watched):
            return
        if not file_above(("<frozen",) if reads else helpers).startswith(library):
            line("suspicious", f"it uses {arguments[1] if reads else event}")

    def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
        """Report a comparison that a program has made up, if a test compares with an ordinary value."""

        def compare(*sides: Any) -> Any:
            found = method(*sides)
            if found is not NotImplemented and type(sides[-1]) in plain and file_above(()) == "tests.py":
                line("suspicious", f"its {method.__name__} compares with values of other types")
            return found

        compare.__name__, compare.__qualname__, compare.__doc__ = method.__name__, method.__qualname__, method.__doc__
        return compare

    make_class = builtins.__build_class__

    def build_class(*arguments: Any, **options: Any) -> Any:
        made = make_class(*arguments, **options)
        for name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"):
            if isinstance(made, type) and isinstance(made.__dict__.get(name), types.FunctionType):
                setattr(made, name, guarded(made.__dict__[name]))
        return made

    builtins.__build_class__ = build_class
    own = vars(builtins)
    originals = {name: value for name, value in own.items() if name != "_"}

    def attempt(source: str, names: dict[str, Any], file: str) -> str:
        try:
            execute(translate(source, file, "exec", 0, True), names)
        except SystemExit:
            return "exited early"
        except BaseException as error:
            try:
                return f"{type(error).__name__}: {error}".splitlines()[0][:500].replace("\t", " ")
            except BaseException:
                return "an exception without a text"
        return "passed"

    def look_for_changes() -> None:
        for name, value in originals.items():
            if own.get(name) is not value:
                line("suspicious", f"it replaces builtins.{name}")

    def out_of_time(*_: object) -> None:
        tell("end", "timeout")
        leave(1)

    _signal.signal(_signal.SIGXCPU, out_of_time)
    sys.addaudithook(watch)
    # Not __main__, so that guards do not run; a module, so that its classes can be pickled.
    module = types.ModuleType("program")
    sys.modules["program"] = module
    names = vars(module)
    tell("start", "")
    ending = attempt(literal(orders.readline()), names, "program.py")
    look_for_changes()
    tell("code", ending)
    if ending == "passed":
        for test in literal(orders.readline()):
            group = [test] if isinstance(test, str) else test
            scope = names if isinstance(test, str) else dict(names)
            for source in group:
                verdict = attempt(source, scope, "tests.py")
                tell("test", verdict)
                ending = verdict if ending == "passed" else ending
        look_for_changes()
    try:
        if getpid() == me:
            sys.stdout.flush()
            if "multiprocessing.util" in sys.modules:
                sys.modules["multiprocessing.util"]._exit_function()  # as at the end of any Python
    except BaseException:  # whatever the program made of them
        ending = ending or "passed"
    tell("end", ending)
    orders.read()  # until the other side has looked at what is left, and ends this


if __name__ == "__main__":
    run()
