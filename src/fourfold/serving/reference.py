"""A plain completions server: one transformers model, the protocol of OpenAI's completions, answers streamed.

    python -m fourfold.serving.reference FOLDER --port 8000

For CPUs and tests: every request is a thread that writes its own answer, nothing is batched. It listens on loopback.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from fourfold.serving import MODEL


class Writer:
    """A model and its tokenizer: the likeliest token one at a time."""

    def __init__(self, folder: Path, dtype: torch.dtype, seed: int | None) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

        if seed is None:
            self.model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        else:
            torch.manual_seed(seed)
            self.model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        self.model = self.model.to(device, dtype).eval()
        self.tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)

    @torch.inference_mode()
    def write(self, prompt: list[int], count: int) -> Iterator[int]:
        tokens, cache = torch.tensor([prompt], device=self.model.device), None
        for _ in range(count):
            made = self.model(input_ids=tokens, past_key_values=cache, use_cache=True)
            cache, tokens = made.past_key_values, made.logits[:, -1:].argmax(-1)
            yield int(tokens)


class Handler(BaseHTTPRequestHandler):
    """POST /v1/completions, GET /v1/models, GET /health."""

    writer: Writer

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send(200, {})
        elif self.path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        else:
            self._error(404, f"no such path: {self.path}")

    def do_POST(self) -> None:
        if self.path != "/v1/completions":
            self._error(404, f"no such path: {self.path}")
            return
        try:
            asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            prompt, count = self._prompt(asked["prompt"]), int(asked.get("max_tokens", 16))
            if asked["model"] != MODEL:
                raise ValueError(f"the model here is {MODEL}")
        except (ValueError, KeyError, TypeError) as error:
            self._error(400, f"{type(error).__name__}: {error}")
            return
        if asked.get("stream"):
            self._stream(prompt, count, asked.get("stream_options") or {})
        else:
            text = self.writer.tokenizer.decode(list(self.writer.write(prompt, count)))
            self._send(200, {**event(text, "length"), "usage": usage(len(prompt), count)})

    def _prompt(self, prompt: Any) -> list[int]:
        tokens = self.writer.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        vocabulary = self.writer.model.config.vocab_size
        if not tokens or not all(isinstance(token, int) and 0 <= token < vocabulary for token in tokens):
            raise ValueError(f"prompt: must be text or tokens from 0 to {vocabulary - 1}")
        return tokens

    def _stream(self, prompt: list[int], count: int, options: dict[str, Any]) -> None:
        """Server-sent events, one a token; without a length, so that the end of the connection is the end."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        written = 0
        for token in self.writer.write(prompt, count):
            written += 1
            said = event(self.writer.tokenizer.decode([token]), "length" if written == count else None)
            if options.get("continuous_usage_stats"):
                said["usage"] = usage(len(prompt), written)
            self._say(json.dumps(said))
        if options.get("include_usage"):
            self._say(json.dumps({**event("", None), "choices": [], "usage": usage(len(prompt), written)}))
        self._say("[DONE]")

    def _say(self, content: str) -> None:
        self.wfile.write(f"data: {content}\n\n".encode())
        self.wfile.flush()

    def _error(self, status: int, message: str) -> None:
        self._send(status, {"error": {"message": message}})

    def _send(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the client has seen enough
            super().handle()

    def log_message(self, *_: Any) -> None:
        """Requests are not logged."""


def event(text: str, finish: str | None) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "finish_reason": finish}
    return {"id": "cmpl", "object": "text_completion", "model": MODEL, "choices": [choice]}


def usage(prompt: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def server(writer: Writer, host: str, port: int) -> ThreadingHTTPServer:
    """A server of that model, ready to ``serve_forever``."""
    handler = type("BoundHandler", (Handler,), {"writer": writer})
    made = ThreadingHTTPServer((host, port), handler)
    made.daemon_threads = True
    return made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fourfold.serving.reference", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--seed", type=int, help="initialise the model with this seed instead of reading weights")
    words = parser.parse_args()
    server(Writer(words.folder, getattr(torch, words.dtype), words.seed), words.host, words.port).serve_forever()


if __name__ == "__main__":
    main()
