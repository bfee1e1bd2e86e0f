"""nginx as an S3 server: it serves what is in a folder, lists a bucket, and takes and forgets what is put.

Its cost is far under that of every client, so the clients are what is measured. It checks no signature. Its log tells
how many objects and bytes went either way, so no client wins by doing less.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ECHO_MODULE = Path("/usr/lib/nginx/modules/ngx_http_echo_module.so")
"""Debian's libnginx-mod-http-echo, for answers that take their time."""

DELAY_SECONDS = 0.02
DEADLINE_SECONDS = 10.0
OUTPUTS = "outputs"
"""The bucket that things are put into."""

# A PUT is answered by another server, once its body is in a file: `return` would answer before the body is read, and
# confuse clients that wait for "100 Continue".
CONFIG = """
{modules}
user root;
worker_processes 2;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  log_format counted '$request_method $status $body_bytes_sent $put_bytes $request_uri';
  map $http_x_amz_decoded_content_length $put_bytes {{
    "" $content_length;
    default $http_x_amz_decoded_content_length;
  }}
  map $request_method$arg_uploadId $post_kind {{ default ""; POST start; ~^POST.+ end; }}
  access_log {folder}/access.log counted buffer=64k flush=20ms;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 0;
  client_body_buffer_size 256k;
  keepalive_requests 1000000;
  keepalive_timeout 300s;
  sendfile on;
  sendfile_max_chunk 2m;
  tcp_nopush on;
  tcp_nodelay on;
  default_type application/octet-stream;
  ssl_certificate {folder}/server.pem;
  ssl_certificate_key {folder}/server.key;
  ssl_session_cache shared:sessions:4m;
  upstream taken {{ server unix:{folder}/taken.sock; keepalive 64; }}
  server {{
    listen unix:{folder}/taken.sock;
    access_log off;
    location / {{ add_header ETag '"0123456789abcdef0123456789abcdef-1"'; return 200; }}
  }}
{servers}
}}
"""

SERVER = """
  server {{
    listen 127.0.0.1:{port}{ssl} backlog=4096;
    root {folder}/data;
    {delay}
    location / {{
      if ($post_kind = start) {{ return 200 '{started}'; }}
      if ($post_kind = end) {{ return 200 '{ended}'; }}
      if ($request_method = PUT) {{ rewrite ^ /put$uri last; }}
      if ($request_method = DELETE) {{ return 204; }}
    }}
    location ~ ^/(?<bucket>[^/]+)/?$ {{
      default_type application/xml;
      alias {folder}/lists/$bucket.xml;
    }}
    location /put/ {{
      internal;
      client_body_in_file_only clean;
      proxy_pass_request_body off;
      proxy_pass_request_headers off;
      proxy_set_header Content-Length "";
      proxy_set_header Connection "";
      proxy_http_version 1.1;
      proxy_method GET;
      proxy_pass http://taken;
    }}
  }}
"""

OBJECT = f"<Bucket>{OUTPUTS}</Bucket><Key>k</Key>"
STARTED = f"<InitiateMultipartUploadResult>{OBJECT}<UploadId>$request_id</UploadId></InitiateMultipartUploadResult>"
ENDED = f'<CompleteMultipartUploadResult>{OBJECT}<ETag>"{32 * "0"}-1"</ETag></CompleteMultipartUploadResult>'

DELAY = "auth_request /delay; location = /delay {{ internal; echo_sleep {seconds}; echo -n; }}"


@dataclass(frozen=True)
class Traffic:
    """What went over since the last look; `put` and `got` are the bytes of objects, `objects` how many were put."""

    put: int
    got: int
    objects: int
    requests: dict[str, int]


class Sink:
    """The running server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in ("data", "lists", "body"):
            (folder / name).mkdir(parents=True)
        self._log = folder / "access.log"
        self._seen = 0
        self.authority = make_certificates(folder)
        ports = [free_port() for _ in range(3)]
        self.plain, self.tls, self.slow = f"http://127.0.0.1:{ports[0]}", f"https://127.0.0.1:{ports[1]}", ""
        servers = [self._server(ports[0]), self._server(ports[1], ssl=" ssl")]
        if ECHO_MODULE.exists():
            self.slow = f"http://127.0.0.1:{ports[2]}"
            servers.append(self._server(ports[2], delay=DELAY.format(seconds=DELAY_SECONDS)))
        module = f"load_module {ECHO_MODULE};" if self.slow else ""
        config = folder / "nginx.conf"
        config.write_text(CONFIG.format(folder=folder, modules=module, servers="".join(servers)))
        self._process = subprocess.Popen(["nginx", "-c", config, "-e", folder / "error.log"], stderr=subprocess.DEVNULL)
        wait_for_port(ports[0])

    def _server(self, port: int, ssl: str = "", delay: str = "") -> str:
        words = {"folder": self._folder, "port": port, "ssl": ssl, "delay": delay}
        return SERVER.format(started=STARTED, ended=ENDED, **words)

    def bucket(self, name: str) -> Path:
        """Return the folder of a bucket."""
        return self._folder / "data" / name

    def list_bucket(self, name: str, files: Iterable[str]) -> None:
        """Let the bucket be listed, with these objects."""
        bucket = self.bucket(name)
        entries = [
            f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f'<ETag>"0-1"</ETag><Size>{(bucket / key).stat().st_size}</Size></Contents>'
            for key in files
        ]
        start = f"<Name>{name}</Name><Prefix></Prefix><KeyCount>{len(entries)}</KeyCount><MaxKeys>1000</MaxKeys>"
        text = f"{start}<IsTruncated>false</IsTruncated>{''.join(entries)}"
        (self._folder / "lists" / f"{name}.xml").write_text(
            f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult>{text}</ListBucketResult>'
        )

    def traffic(self, put: int = 0, got: int = 0) -> Traffic:
        """Return what went over since the last look, once it is at least that many bytes, or too little it stays."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        lines: list[str] = []
        while True:
            assert self._process.poll() is None, "nginx has ended"
            time.sleep(0.05)  # its log is written with a delay
            lines += self._new_lines()
            found = counted(lines)
            if (found.put >= put and found.got >= got) or time.monotonic() > deadline:
                return found

    def _new_lines(self) -> list[str]:
        with self._log.open("rb") as log:
            log.seek(self._seen)
            whole, _, _ = log.read().rpartition(b"\n")
        self._seen += len(whole) + bool(whole)
        return whole.decode().splitlines()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def counted(lines: Iterable[str]) -> Traffic:
    put = got = 0
    objects: set[str] = set()
    requests: Counter[str] = Counter()
    for line in lines:
        method, status, sent, taken, uri = line.split(" ", 4)
        requests[f"{method} {status}"] += 1
        path, _, query = uri.partition("?")
        if "/.sagemaker_shim/" in path or not status.startswith("2"):
            continue
        if method == "PUT":
            put += int(taken) if taken.isdecimal() else 0
            objects.add(path)
        elif method == "GET" and "list-type" not in query:
            got += int(sent)
    return Traffic(put, got, len(objects), dict(requests))


def make_certificates(folder: Path) -> Path:
    """Make the server's certificate, and return that of the authority that signed it."""
    authority, key = folder / "authority.pem", folder / "authority.key"
    request, extensions = folder / "server.csr", folder / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n")
    curve: list[str | Path] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    _openssl("req", "-x509", *curve, "-keyout", key, "-out", authority, "-days", "30", "-subj", "/CN=Benchmark", *usage)
    _openssl("req", *curve, "-keyout", folder / "server.key", "-out", request, "-subj", "/CN=127.0.0.1")
    signing: list[str | Path] = [
        "-CA",
        authority,
        "-CAkey",
        key,
        "-CAcreateserial",
        "-extfile",
        extensions,
        "-days",
        "30",
    ]
    _openssl("x509", "-req", "-in", request, "-out", folder / "server.pem", *signing)
    return authority


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.01)
    raise TimeoutError(f"nothing listens on port {port}")


@contextmanager
def running_sink(folder: Path) -> Iterator[Sink]:
    sink = Sink(folder)
    try:
        yield sink
    finally:
        sink.close()
