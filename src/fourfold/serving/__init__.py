"""Serving text: servers of the OpenAI completions protocol on loopback, and a client that streams from them."""

MODEL = "fourfold"  # the name that the served model goes by
