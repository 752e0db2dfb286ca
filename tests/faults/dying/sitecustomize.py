"""A signal at the k-th call that writes: Python imports this file by itself where its folder is on PYTHONPATH.

DIE_AT: which call, counted from 1; DIE_WHEN: `before` or `after` it; DIE_SIGNAL: its name, SIGKILL if not given;
DIE_AGAIN: how many calls later it comes once more. COUNT_INTO: a file for the number of calls, written at the end of a
process that was left alone. Calls on files outside the working folder are not counted.
"""

import atexit
import builtins
import os
import shutil
import signal
import sys

FOLDER = os.getcwd() + os.sep
CALLS = (
    (
        os,
        ("rename", "replace", "remove", "unlink", "rmdir", "mkdir", "truncate", "ftruncate", "fsync", "link", "write"),
    ),
    (shutil, ("copyfile", "copytree", "move", "rmtree")),
)
die_at, when = int(os.environ.get("DIE_AT") or 0), os.environ.get("DIE_WHEN")
number = getattr(signal, os.environ.get("DIE_SIGNAL") or "SIGKILL")
again = die_at + int(os.environ.get("DIE_AGAIN") or 0)
count, process = 0, os.getpid()


def path_of(target):
    """The file of a path or a descriptor; empty where there is none."""
    try:
        return os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.path.abspath(os.fspath(target))
    except (OSError, TypeError, ValueError):
        return ""


def dying(function, is_write=lambda args, kwargs: True):
    """`function`, which counts its calls and sends the process the signal at one of them."""

    def call(*args, **kwargs):
        global count
        if os.getpid() != process or not args or not is_write(args, kwargs) or not path_of(args[0]).startswith(FOLDER):
            return function(*args, **kwargs)
        count += 1
        mine = count in (die_at, again)
        if mine and when == "before":
            os.kill(process, number)
        try:
            return function(*args, **kwargs)
        finally:
            if mine:
                os.kill(process, number)

    return call


def opens_to_write(args, kwargs):
    mode = args[1] if len(args) > 1 else kwargs.get("mode", "r")
    return isinstance(mode, str) and any(letter in mode for letter in "wax+")


def say_count():
    if os.getpid() == process:
        with real_open(os.environ["COUNT_INTO"], "w") as file:
            file.write(str(count))


if "trainers" in " ".join(sys.orig_argv):
    for module, names in CALLS:
        for name in names:
            setattr(module, name, dying(getattr(module, name)))
    real_open = builtins.open
    builtins.open = dying(real_open, opens_to_write)
    if os.environ.get("COUNT_INTO"):
        atexit.register(say_count)
