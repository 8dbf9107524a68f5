"""Plug-ins that break out, break down or break the harness: each may cost its own cell, and nothing else."""

import atexit
import contextlib
import gc
import json
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np

from subpop import Defended, TrainingSet

HERE = Path(__file__).parent
BREAKS = {}


def hostile(outcome):
    """Register a plug-in; outcome: 'works' or what its error says (a regular expression)."""

    def register(function):
        BREAKS[function.__name__] = outcome
        return function

    return register


def note(pid):
    with open(HERE / "pids", "a") as file:
        file.write(f"{pid}\n")


def desk():
    return next(thing for thing in gc.get_objects() if type(thing).__name__ == "_HarnessClient")


def send(*args, **values):
    sys.modules["subpop.harness.child"].send_message(desk()._connection, *args, **values)


@hostile("ended by SIGABRT")
def aborts(train, fit, know, *, seed):
    os.abort()


@hostile("ended by SIGFPE")
def kills_itself(train, fit, know, *, seed):
    fit(train)
    os.kill(os.getpid(), signal.SIGFPE)
    time.sleep(20)


@hostile("ended by SIGTERM|ended by SIGKILL|ended itself")
def kills_its_group(train, fit, know, *, seed):
    os.killpg(0, signal.SIGTERM)
    time.sleep(20)


@hostile("ran over the limit")
def ignores_signals(train, fit, know, *, seed):
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    note(os.getpid())
    time.sleep(1000)


@hostile("ran over the limit")
def stops_itself(train, fit, know, *, seed):
    note(os.getpid())
    os.kill(os.getpid(), signal.SIGSTOP)


@hostile("MemoryError|SIGKILL|allocate")
def memory_bomb(train, fit, know, *, seed):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
    held = []
    while True:
        held.append(bytes(1 << 24))


@hostile("RecursionError|SIGSEGV")
def recursion(train, fit, know, *, seed):
    def deeper(n):
        return deeper(n + 1)

    return deeper(0)


@hostile("ran over the limit")
def fork_bomb(train, fit, know, *, seed):
    for _ in range(3):
        if os.fork() == 0:
            os.fork()
            note(os.getpid())
            while True:
                time.sleep(1)
    time.sleep(1000)


@hostile("works|ran over the limit|cannot be used")
def child_returns_too(train, fit, know, *, seed):
    if seed == 0:
        os.fork()
    note(os.getpid())
    return Defended(fit(train))


@hostile("works")
def leaves_a_session(train, fit, know, *, seed):
    code = "import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    note(process.pid)
    process.wait()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if code.encode() in command:
            note(entry.name)
    return Defended(fit(train))


@hostile("stopped reading and writing|cannot be used|ended|ran over the limit|Bad file|OSError")
def closes_descriptors(train, fit, know, *, seed):
    os.closerange(0, 256)
    return Defended(fit(train))


@hostile("works")
def closes_output(train, fit, know, *, seed):
    for stream in (0, 1, 2):
        with contextlib.suppress(OSError):
            os.close(stream)
    return Defended(fit(train))


@hostile("cannot be used")
def huge_header(train, fit, know, *, seed):
    connection = desk()._connection
    connection.send_bytes(json.dumps({"kind": "fit", "arrays": ["y"], "requests": [[0, "train", 1]]}).encode())
    connection.send_bytes(b"\x93NUMPY\x01\x00" + (60000).to_bytes(2, "little") + b"(" * 60000)
    time.sleep(20)


@hostile("more than .* bytes|cannot be used|stopped reading")
def huge_message(train, fit, know, *, seed):
    connection = desk()._connection
    os.write(connection.fileno(), (1 << 31).to_bytes(4, "big", signed=False)[:4])
    time.sleep(20)


@hostile("ran over the limit")
def half_a_message(train, fit, know, *, seed):
    os.write(desk()._connection.fileno(), (1000).to_bytes(4, "big") + b'{"kind"')
    time.sleep(1000)


@hostile("ran over the limit")
def dribbles(train, fit, know, *, seed):
    """A message that never stops coming in, a byte at a time."""
    line = desk()._connection.fileno()
    os.write(line, (1 << 20).to_bytes(4, "big"))
    while True:
        os.write(line, b" ")
        time.sleep(0.1)


@hostile("cannot be used|out of turn|where that of trial|KeyError")
def fakes_an_outcome(train, fit, know, *, seed):
    p = {"p0": np.zeros(17, np.int64)}
    for task in (0, 1, 2):
        send("outcome", p, task=task, models=[""], certificates=[], diagnostics={}, n_fits=-5, seconds=float("nan"))
    send("manifest", seen="everything")
    time.sleep(20)


@hostile("cannot be used|NaN|finite|number")
def fakes_numbers(train, fit, know, *, seed):
    p = {"p0": np.zeros(17, np.int64)}
    send("outcome", p, task=0, models=[""], certificates=[], diagnostics={"x": 1e400}, n_fits=1 << 70, seconds=-1)
    time.sleep(20)


@hostile("bad .* ending")
def strange_message(train, fit, know, *, seed):
    raise ValueError("bad \ud800 \x1b[2J\x07 ::error title=x\r\n::set-output name=x:: \u202e ending")


@hostile("works|OSError|No space|written|diagnostics|sys.exit")
def exits_in_a_thread(train, fit, know, *, seed):
    thread = threading.Thread(target=sys.exit, args=(5,))
    thread.start()
    thread.join()
    return Defended(fit(train))


@hostile("works")
def exit_handlers(train, fit, know, *, seed):
    atexit.register(time.sleep, 1000)
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return Defended(fit(train))


@hostile("works|TypeError|cannot be used|ended|NoneType")
def patches_numpy(train, fit, know, *, seed):
    np.asarray = np.array = lambda *args, **kwargs: None
    return Defended(fit(train))


@hostile("works|outcome|cannot be used|predicts|not 17 classes")
def patches_subpop(train, fit, know, *, seed):
    import subpop.harness.batching
    import subpop.harness.outcome

    lie = subpop.harness.outcome.Outcome(predictions={"": np.full(17, 9)})
    subpop.harness.batching.check_defended = lambda *args, **kwargs: lie
    return Defended(fit(train))


@hostile("cannot set WRITEABLE flag")
def writes_rows(train, fit, know, *, seed):
    rows = train._source.array
    rows.setflags(write=True)
    rows[:] = 0
    return Defended(fit(train))


@hostile("predict_proba")
def wrong_shape(train, fit, know, *, seed):
    class Flat:
        def predict_proba(self, x):
            return np.zeros(len(x))

    return Defended(Flat())


@hostile("predict_proba")
def wrong_dtype(train, fit, know, *, seed):
    class Words:
        def predict_proba(self, x):
            return np.full((len(x), 2), "0.5", object)

    return Defended(Words())


@hostile("NaN")
def nan_inputs(train, fit, know, *, seed):
    return Defended(fit(TrainingSet.of(np.full_like(train.x, np.nan), train.y)))


@hostile("called fit more than 2,000 times|ran over the limit")
def fits_2001_times(train, fit, know, *, seed):
    for _ in range(2001):
        model = fit(train)
    return Defended(model)


@hostile("works")
def deletes_its_folder(train, fit, know, *, seed):
    folder = HERE / f"gone-{os.getpid()}-{seed}"
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()
    return Defended(fit(train))


@hostile("works")
def changes_the_environment(train, fit, know, *, seed):
    os.environ.clear()
    os.environ["OMP_NUM_THREADS"] = "9999"
    os.environ["PYTHONHASHSEED"] = "x"
    os.umask(0o777)
    sys.path.clear()
    return Defended(fit(train))


@hostile("works|fit was called from a thread")
def fits_in_the_background(train, fit, know, *, seed):
    said = []

    def call():
        try:
            fit(train)
        except Exception as error:
            said.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    raise said[0]


@hostile("ran over the limit")
def spins_in_the_destructor(train, fit, know, *, seed):
    class Sticky:
        def __del__(self):
            while True:
                pass

    Sticky()
    return Defended(fit(train))


@hostile("keep")
def keeps_an_object(train, fit, know, *, seed):
    return Defended(fit(train), np.array([{}] * len(train), object))


@hostile("called sys.exit|KeyboardInterrupt|ended|SIGINT")
def interrupts(train, fit, know, *, seed):
    raise KeyboardInterrupt


@hostile("works|GeneratorExit")
def raises_strangely(train, fit, know, *, seed):
    raise GeneratorExit("stop")


@hostile("an error that cannot be told|Bad|TypeError|RuntimeError")
def error_without_words(train, fit, know, *, seed):
    class Bad(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    raise Bad


@hostile("works")
def warns_much(train, fit, know, *, seed):
    for i in range(3000):
        warnings.warn(f"\x1b[31mwarning {i}", stacklevel=1)
    return Defended(fit(train))


@hostile("works|already|Address")
def listens(train, fit, know, *, seed):
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    HELD.append(server)
    return Defended(fit(train))


@hostile("works|daemonic|ended")
def starts_a_pool(train, fit, know, *, seed):
    pool = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    pool.start()
    note(pool.pid)
    return Defended(fit(train))


HELD = []
