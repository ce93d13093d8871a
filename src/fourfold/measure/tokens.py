"""When each token of a text came: marks while it is written, durations after the loop."""

import numpy as np

from fourfold.measure.clock import Clock


class TokenMarks:
    """Told of the start of each text (or batch of texts written side by side) and of each of its tokens."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._marks: list[int] = []
        self._begun: list[int] = []  # where in the marks each text begins

    def begin(self) -> None:
        """A prompt was handed over."""
        self._begun.append(len(self._marks))
        self._marks.append(self.clock.mark())

    def token(self) -> None:
        """The next token of the text is there."""
        self._marks.append(self.clock.mark())

    def series(self) -> dict[str, np.ndarray]:
        """first_token_seconds [texts]: from the prompt to the first token; token_gap_seconds [tokens - texts]: from
        each token to the next of its text. A text without a token is left out."""
        times = self.clock.resolve()
        texts = np.split(times[self._marks], self._begun[1:]) if self._begun else []
        gaps = [np.diff(text) for text in texts if len(text) > 1]
        return token_series([own[0] for own in gaps], [own[1:] for own in gaps])


def token_series(first: list[float], gaps: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The two series of a run that writes text, in seconds; see ``TokenMarks.series``."""
    return {
        "first_token_seconds": np.asarray(first, dtype=np.float64),
        "token_gap_seconds": np.concatenate(gaps) if gaps else np.zeros(0),
    }
