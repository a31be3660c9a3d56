"""A server that scores pictures, as a judge of family "scorer" asks it: `python examples/scorer/serve.py --port 8100`.

It needs nothing but Python, and prefers the smaller PNG file, which is the plainer picture: put a model's score into `score` instead.
docs/judges.md has the form of requests and answers.
"""
import argparse
import base64
import hmac
import json
import math
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REQUEST_BYTES_MAX = 256 << 20
KEY = os.environ.get("SCORER_KEY", "")


def score(prompt, picture, sources):
    """The score of one picture, higher is better. `picture` and each of `sources` are the bytes of a PNG file."""
    return -len(picture) / 1024


class Scorer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        if length > REQUEST_BYTES_MAX:
            self.close_connection = True
            return self.answer(413, {"detail": "the request is too long"})
        body = self.rfile.read(length)
        shown = self.headers.get("Authorization") or ""
        if KEY and not hmac.compare_digest(shown.encode(), f"Bearer {KEY}".encode()):
            return self.answer(401, {"detail": "another key is needed"})
        try:
            asked = json.loads(body)
            if asked["version"] != 1:
                return self.answer(400, {"detail": "only version 1 is known"})
            pictures = [base64.b64decode(text, validate=True) for text in asked["images"]]
            sources = [base64.b64decode(text, validate=True) for text in asked["sources"]]
            prompt = str(asked["prompt"])
        except (KeyError, TypeError, ValueError):
            return self.answer(400, {"detail": "this is no request for scores"})
        scores = [score(prompt, picture, sources) for picture in pictures]
        if not all(math.isfinite(value) for value in scores):
            return self.answer(422, {"detail": "a score is not finite"})
        return self.answer(200, {"scores": scores})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Scores pictures for a judge of family \"scorer\".")
    arguments.add_argument("--host", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=8100)
    given = arguments.parse_args()
    server = ThreadingHTTPServer((given.host, given.port), Scorer)
    print(f"http://{given.host}:{server.server_port}/score", flush=True)
    server.serve_forever()
