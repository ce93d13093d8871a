"""Clients of a completions server: many requests at once, each answer streamed, each piece of it timed."""

import asyncio
import itertools
import json
import queue
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fourfold.benchmarks.libraries import library
from fourfold.serving import MODEL


@dataclass
class Answer:
    """One streamed answer. asked, done: seconds of the host's clock; pieces: when each piece of text came; tokens: as
    the server counted them; error: what went wrong, or None."""

    asked: float
    done: float = 0.0
    pieces: list[float] = field(default_factory=list)
    tokens: int = 0
    error: str | None = None


class Load:
    """Requests sent by a thread of its own for as long as the block lasts; ``answers`` fills as they are done.

    At most ``concurrency`` are under way; with a ``rate`` they arrive as a Poisson process of that many a second (held
    up while all slots are taken), without one each follows the end of another.
    """

    def __init__(
        self, url: str, prompts: Sequence[list[int]], tokens: int, concurrency: int, rate: float | None, seed: int
    ) -> None:
        self.url = f"{url}/v1/completions"
        self.prompts: Iterator[list[int]] = itertools.cycle(prompts)
        self.tokens, self.concurrency, self.rate = tokens, concurrency, rate
        self.draw = random.Random(seed)
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.http = library("aiohttp", "serving")
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="clients", daemon=True)

    def __enter__(self) -> "Load":
        self.task = self.loop.create_task(self._send())
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.loop.call_soon_threadsafe(self.task.cancel)
        self.thread.join()

    def _run(self) -> None:
        try:
            self.loop.run_until_complete(self.task)
        except asyncio.CancelledError:
            pass
        except Exception as error:  # nobody would hear of it otherwise
            self.answers.put(Answer(time.perf_counter(), error=f"{type(error).__name__}: {first_line(str(error))}"))
        finally:
            self.loop.close()

    async def _send(self) -> None:
        slots = asyncio.Semaphore(self.concurrency)
        connections = self.http.TCPConnector(limit=0)
        patience = self.http.ClientTimeout(total=None)
        session = self.http.ClientSession(connector=connections, timeout=patience)
        async with session, asyncio.TaskGroup() as requests:
            while True:
                if self.rate is not None:
                    await asyncio.sleep(self.draw.expovariate(self.rate))
                await slots.acquire()
                requests.create_task(self._ask(session, next(self.prompts), slots))

    async def _ask(self, session: Any, prompt: list[int], slots: asyncio.Semaphore) -> None:
        answer = Answer(time.perf_counter())
        try:
            async with session.post(self.url, json=request(prompt, self.tokens)) as response:
                if response.status != 200:
                    answer.error = f"status {response.status}: {first_line(await response.text())}"
                else:
                    async for line in response.content:
                        read_event(line, answer)
        except (self.http.ClientError, OSError) as error:
            answer.error = f"{type(error).__name__}: {first_line(str(error))}"
        if answer.error is None and not (answer.pieces and answer.tokens):
            answer.error = "an answer without tokens"
        answer.done = time.perf_counter()
        self.answers.put(answer)
        slots.release()


def request(prompt: list[int], tokens: int) -> dict[str, Any]:
    """A completion of exactly ``tokens`` tokens, streamed, its tokens counted as they come."""
    return {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


def read_event(line: bytes, answer: Answer) -> None:
    """Adds what one line of a stream of server-sent events says: a piece of text, a count of tokens, an error."""
    if not line.startswith(b"data:"):
        return
    content = line[5:].strip()
    if content == b"[DONE]":
        return
    try:
        event = json.loads(content)
    except ValueError:
        answer.error = f"not JSON: {first_line(content.decode(errors='replace'))}"
        return
    if "error" in event:
        answer.error = first_line(str(event["error"]))
        return
    if event.get("choices"):
        answer.pieces.append(time.perf_counter())
    usage = event.get("usage")
    if usage:
        answer.tokens = usage["completion_tokens"]


def first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "no message")[:300]
