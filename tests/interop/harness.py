"""Stories of steps, and the processes that they start."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "interop"
BINARY = os.environ["PORTCULLIS_BIN"]
# Longer than anything here takes on a slow machine; a run that hangs ends all the same.
PATIENCE = 60


class Failed(Exception):
    """A step failed and has been reported."""


class Story:
    """One suite: its steps, and what it started, which ends with it."""

    def __init__(self, name):
        self.name = name
        self.passed = False
        self.seconds = 0.0
        self.steps = 0
        self.absent = 0
        self.logs = WORK / "logs" / name
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(parents=True)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="portcullis-interop."))
        self._ends = contextlib.ExitStack()

    @contextlib.contextmanager
    def step(self, text):
        """Runs a block; any exception in it, a failed assertion as well, fails the step and the story."""
        try:
            yield
        except Failed:
            raise
        except Exception as error:
            self.fail(text, error)
            raise Failed(text) from error
        self.steps += 1
        print(f"  ok     {text}")

    def cannot(self, text, reason):
        """Notes a step that the peer has no means for. It is part of the report: nothing is left out in silence."""
        self.absent += 1
        print(f"  n/a    {text}: {reason}")

    def fail(self, text, error):
        """Reports a failure with the place of the assertion and the ends of all logs."""
        print(f"  FAILED {text}")
        for line in "".join(traceback.format_exception(error)).rstrip().splitlines():
            print(f"         {line}")
        for log in sorted(self.logs.iterdir()):
            print(f"         --- end of {log.relative_to(ROOT)}")
            for line in log.read_text(errors="replace").splitlines()[-25:]:
                print(f"         {line[:400]}")
        sys.stdout.flush()

    def start(self, name, command, environment=None, ready=None):
        """Starts a process that ends with the story, and waits until `ready()` is true."""
        with open(self.logs / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                cwd=self.folder, env={**os.environ, **(environment or {})},
            )
        self._ends.callback(stop, process)
        deadline = time.monotonic() + PATIENCE
        while ready is not None and not ready():
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended with {process.returncode}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} is not ready after {PATIENCE} s")
            time.sleep(0.05)
        return process

    def end(self):
        """Stops everything, newest first; the logs stay only if the story failed."""
        self._ends.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.passed:
            shutil.rmtree(self.logs, ignore_errors=True)

    def summary(self):
        """One line for the end of the run."""
        absent = f", {self.absent} that the peer cannot" if self.absent else ""
        return f"{self.name}: {self.steps} steps{absent}, {self.seconds:.0f} s"


def stop(process):
    """Ends a process by its id: kindly, then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port():
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    """A `ready` for a server of which nothing more is known than its port."""
    def ready():
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", port)) == 0
    return ready


def node(story, script, *arguments):
    """Runs a script of js/ as steps."""
    path = pathlib.Path(__file__).parent / "js" / script
    run_steps(story, ["node", str(path), *map(str, arguments)], script)


def run_steps(story, command, label):
    """Runs a program that prints a line `ok TEXT` for each step and ends with a non-zero exit code at a failure."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, cwd=story.folder, stdin=subprocess.DEVNULL
    )
    for line in done.stdout.splitlines():
        if line.startswith("ok "):
            with story.step(line[3:]):
                pass
        else:
            print(f"         {line}")
    with story.step(f"{label}: all of it"):
        assert done.returncode == 0, done.stderr[-4000:]
        assert "ok " in done.stdout, "it reported no step"
