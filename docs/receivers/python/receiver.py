"""A receiver of Herald's pushes to start from; docs/receiving.md says why each step is there.

    pip install -r requirements.txt && SIGNING_SECRETS=whsec_… python3 receiver.py

It takes pushes in JSON with the payload "envelope" at /hook, single events and batches, and validation records at
/validate. SIGNING_SECRETS are one or more signing secrets, with spaces between. RECEIVER_HOST and RECEIVER_PORT say where
it listens: 127.0.0.1 and 9000, behind a proxy that speaks TLS.
"""

import collections
import json
import os
import queue
import signal
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks.webhooks import Webhook

MAX_BODY = 8 << 20  # a batch has up to 4 MiB of data, and its envelopes
MAX_WAITING = 1000  # pushes; Herald has 64 under way at once, unless told otherwise. Bound their bytes too if yours are large.
MAX_KNOWN = 100_000  # ids; enough for all that comes between a push and its last retry

webhooks = [Webhook(secret) for secret in os.environ.get("SIGNING_SECRETS", "").split()]  # one for each secret

# What waits and what is known live in memory here, so a crash loses what was answered and not yet worked on. A real
# receiver writes the push to its own durable store before it answers, with the id as a unique key, and works from there.
waiting = queue.Queue(MAX_WAITING)
lock = threading.Lock()
known = collections.OrderedDict()  # ids, in the order in which they came


def say(*words):
    print(*words, flush=True)


def complain(*words):
    print(*words, file=sys.stderr, flush=True)


def remember(id):
    """Make an id known, and forget the oldest. The lock is held."""
    known[id] = True
    if len(known) > MAX_KNOWN:
        known.popitem(last=False)


def accept(id, push):
    """Queue a push, unless it is known: then it was taken before, and 2xx says so again.

    Raises queue.Full when there is no room; the push is not known then, so that it can come again.
    """
    with lock:
        if id not in known:
            waiting.put_nowait(push)
            remember(id)


def events_of(push):
    """The new events of a push. A batch has an id of its own, and its records may have come in other company before."""
    if "records" not in push:
        yield push
        return
    for event in push["records"]:
        with lock:
            new = event["id"] not in known
            if new:
                remember(event["id"])
        if new:
            yield event


def work():
    """Everything that takes time or can fail: Herald has its answer already, so what fails is yours to try again."""
    while (push := waiting.get()) is not None:
        try:
            for event in events_of(push):
                handle(event)
        except Exception as error:
            complain("failed:", repr(error))


def handle(event):
    """Where your own code goes. It lets types pass that it does not know."""
    say("event", event["id"], event["type"])


def verified(body, headers):
    """Return what a body says that was signed with one of the secrets, or None.

    The library compares in constant time and refuses timestamps more than five minutes away. It gets the body as it came:
    the same JSON, parsed and written again, is not what was signed. Whatever it raises, the request is not genuine.
    """
    for webhook in webhooks:
        try:
            return webhook.verify(body, dict(headers))
        except Exception as error:
            why = error
    complain("refused:", why)
    return None


def confirm(record):
    """Send a validation record, which has the signature in it, back to its confirmationURL.

    The signature of the request has shown that whoever made the subscription knows our secret; without that anyone could
    make us call any URL.
    """
    url = record["confirmationURL"]
    request = urllib.request.Request(url, json.dumps(record).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as response:
        if response.status != 204:
            raise ValueError(f"{url} answered {response.status}")
    say("confirmed", url)


class Receiver(BaseHTTPRequestHandler):
    timeout = 5  # seconds that a client may be silent

    def do_POST(self):
        if self.path not in ("/hook", "/validate"):
            return self.answer(404, "there is nothing here")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return self.answer(411, "the body needs a Content-Length")
        if int(length) > MAX_BODY:
            return self.answer(413, "the body is too large")
        push = verified(self.rfile.read(int(length)), self.headers)
        if push is None:
            return self.answer(401, "the signature is wrong")
        if self.path == "/validate":
            return self.validate(push)
        # Verified, kept, answered: the work comes after.
        try:
            accept(self.headers["webhook-id"], push)
        except queue.Full:
            return self.answer(503, "too much is waiting")
        self.answer(204)

    def validate(self, record):
        """Confirm before the answer: if that fails, the record comes again."""
        try:
            confirm(record)
        except Exception as error:
            complain("not confirmed:", error)
            return self.answer(503, "the confirmation failed")
        self.answer(204)

    def answer(self, status, text=""):
        self.send_response(status)
        if status == 503:
            self.send_header("Retry-After", "1")
        if status != 204:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        """The lines of the events are enough."""


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # connections that wait to be accepted; 5 are too few for pushes side by side
    daemon_threads = False  # so that server_close waits for the requests under way


def main():
    if not webhooks:
        sys.exit("SIGNING_SECRETS: needed are one or more secrets (whsec_…), with spaces between")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = Server((os.environ.get("RECEIVER_HOST", "127.0.0.1"), int(os.environ.get("RECEIVER_PORT", "9000"))), Receiver)
    worker = threading.Thread(target=work)
    worker.start()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    say("listening", "{}:{}".format(*server.server_address))
    stop.wait()
    # No new push is taken, those under way are answered, and what was answered is worked off.
    server.shutdown()
    server.server_close()
    waiting.put(None)
    worker.join()


if __name__ == "__main__":
    main()
