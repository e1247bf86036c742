"""What a log on S3 costs: bytes uploaded for a byte stored, requests, seconds, the caller's wait.

    python benchmarks/remote.py

Fifty times a thousand scalars of 10 tags and a flush, into a bucket of an S3 server (moto) on loopback that counts what
it is asked. Each writer runs in a process of its own, with a server of its own; for torchboard also other sizes of parts
than its own choice.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.request

import harness

WRITERS = {
    "torchboard": "torchboard, parts of 256 KiB (the default)",
    "torchboard_64": "torchboard, parts of 64 KiB",
    "torchboard_1024": "torchboard, parts of 1 MiB",
    "torch": "torch.utils.tensorboard",
    "tensorboardX": "tensorboardX",
}
URL = "s3://bucket/runs/x"
FLUSHES, SCALARS, TAGS = 50, 1000, 10


def serve() -> None:
    """An S3 on a free port of loopback; says the port, and tells at ``/asked`` what it was asked. Ends with its input."""
    import threading

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    app, asked = DomainDispatcherApplication(create_backend_app), []

    def counted(environ, start_response):
        if environ["PATH_INFO"] == "/asked":
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(asked).encode()]
        asked.append((environ["REQUEST_METHOD"], int(environ.get("CONTENT_LENGTH") or 0)))
        return app(environ, start_response)

    server = make_server("127.0.0.1", 0, counted, threaded=True)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


def writer(name: str):
    """A fresh writer of one package, on S3."""
    if name == "torchboard":
        from torchboard import SummaryWriter
    elif name == "torch":
        from torch.utils.tensorboard import SummaryWriter
    elif name == "tensorboardX":
        from tensorboardX import SummaryWriter
    else:
        from torchboard import SummaryWriter
        from torchboard.run import Run
        from torchboard.sink.asynchronous import AsyncSink
        from torchboard.sink.remote import RemoteSink

        sink = RemoteSink(URL, part_bytes=int(name.split("_")[1]) << 10)
        sink.open("")
        return SummaryWriter.on_run(run := Run(AsyncSink(sink)), lambda: 0), run.close
    target = SummaryWriter(URL)
    return target, target.close


def log(name: str) -> dict[str, float]:
    """Writes the log; how long it took, and how long calls took."""
    longest = flushing = 0.0
    cpu, wall = time.process_time(), time.perf_counter()
    target, close = writer(name)
    for number in range(FLUSHES):
        for step in range(number * SCALARS // TAGS, (number + 1) * SCALARS // TAGS):
            for tag in range(TAGS):
                begin = time.perf_counter()
                target.add_scalar(f"group/tag_{tag}", 0.5 + step, step)
                longest = max(longest, time.perf_counter() - begin)
        begin = time.perf_counter()
        target.flush()
        flushing += time.perf_counter() - begin
    close()
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "flush": 1e3 * flushing / FLUSHES,
        "longest": 1e3 * longest,
    }


def measure(name: str) -> dict[str, float]:
    """The figures of one writer, with a server of its own."""
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        address = f"http://127.0.0.1:{int(server.stdout.readline())}"
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ.update(keys, AWS_ENDPOINT_URL=address, S3_ENDPOINT=address)
        import boto3

        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        before = len(asked(address))
        figures = log(name)
        requests = asked(address)[before:]
        objects = client.list_objects_v2(Bucket="bucket")["Contents"]
    finally:
        server.communicate()
    uploaded = sum(size for method, size in requests if method in ("PUT", "POST"))
    stored = sum(item["Size"] for item in objects)
    return {
        **figures,
        "ratio": uploaded / stored,
        "uploaded": uploaded / 1e6,
        "stored": stored / 1e6,
        "requests": len(requests),
        "objects": len(objects),
    }


def asked(address: str) -> list[list]:
    """What a server was asked: (method, bytes of the body) of each request."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{address}/asked", timeout=60) as answer:
        return json.loads(answer.read())


def report(rounds: int) -> str:
    """The measured table."""
    figures = harness.paired(__file__, list(WRITERS), rounds, [])
    columns = {
        "ratio": ("uploaded / stored", 1),
        "uploaded": ("uploaded, MB", 2),
        "stored": ("stored, MB", 2),
        "requests": ("requests", 0),
        "objects": ("objects", 0),
        "wall": ("seconds", 2),
        "cpu": ("CPU seconds", 2),
        "flush": ("a flush, ms", 1),
        "longest": ("longest add_scalar, ms", 2),
    }
    rows = [
        [label, *(f"{harness.median(figures, name, column):,.{places}f}" for column, (_, places) in columns.items())]
        for name, label in WRITERS.items()
    ]
    compared = ("ratio", "uploaded", "requests", "wall", "cpu", "flush")
    ratios = [
        [f"torchboard / {WRITERS[peer]}", *(harness.ratio(figures, "torchboard", peer, column) for column in compared)]
        for peer in ("torch", "tensorboardX")
    ]
    packages = ("torch", "tensorboard", "tensorboardX", "s3fs", "boto3", "moto")
    return "\n\n".join(
        [
            "# What a log on S3 costs",
            f"`python benchmarks/remote.py --rounds {rounds}`: {harness.machine(*packages)}. {FLUSHES} times {SCALARS:,} "
            "scalars and a flush, to a server on loopback, which answers at once: on a real store every request adds its "
            "round trip to the flush. Medians over the rounds; ratios are taken within a round: median (least to greatest).",
            harness.table(["writer", *(title for title, _ in columns.values())], rows),
            harness.table(["ratio of", *(columns[column][0] for column in compared)], ratios),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=WRITERS)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.serve:
        serve()
    elif options.variant:
        print(json.dumps(measure(options.variant)))
    else:
        harness.write_result("remote", report(options.rounds))


if __name__ == "__main__":
    main()
