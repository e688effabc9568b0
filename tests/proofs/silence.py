"""Loading, running, failing: what Python's audit events tell of files, network and processes; and that nothing is printed."""

import contextlib
import os
import sys
import tempfile
import time

from common import Models, arguments, finish

import textok

NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.Request")
PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main() -> None:
    options = arguments(__doc__, 1)
    began, failures, seen = time.monotonic(), [], 0
    told: list[str] = []
    watching = False

    def hook(event: str, args: tuple) -> None:
        nonlocal seen
        if not watching:
            return
        seen += 1
        if event in NETWORK or event in PROCESSES:
            told.append(f"{event}{args!r}"[:200])
        elif event == "open" and isinstance(args[2], int) and args[2] & WRITING and not str(args[0]).startswith(allowed):
            told.append(f"{args[0]!r} was opened to be written to")

    models = Models()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as printed:
        allowed = os.path.realpath(folder)
        sys.addaudithook(hook)
        keep = [os.dup(fd) for fd in (1, 2)]
        for fd in (1, 2):
            os.dup2(printed.fileno(), fd)
        try:
            watching = True
            for _ in range(options.count):
                models.differing()
                models.textok.save_pretrained(f"{folder}/model")
                textok.TexTok.from_pretrained(f"{folder}/model", dtype="int8")
                pipe = textok.Pipeline.from_pretrained("emoji")
                pipe(labels=[1], steps=2, seed=0)
                repr(pipe), repr(models.encoder), textok.cpu_info()
                for wrong in (lambda: models.textok.encode(models.x), lambda: textok.TexTok.from_pretrained("nothing")):
                    with contextlib.suppress(ValueError):
                        wrong()
        finally:
            watching = False
            sys.stdout.flush()
            sys.stderr.flush()
            for fd, old in zip((1, 2), keep, strict=True):
                os.dup2(old, fd)
        failures += told
        if size := os.fstat(printed.fileno()).st_size:
            failures.append(f"{size} bytes were printed")
    finish("silence", began, failures, audit_events=seen, rounds=options.count)


if __name__ == "__main__":
    main()
