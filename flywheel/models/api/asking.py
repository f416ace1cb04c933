"""Asking an endpoint for the vectors of texts: its way is learned from what it refuses, and a text that it fails on is found.

Each step costs few requests. A form or a limit that is refused is changed once and remembered. A request that is refused for
no such reason is halved until the text that it fails on stands alone. Before and after that, a text that nobody doubts is asked
for, so that an endpoint that fails on everything is known by its second refusal.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.models.api.answers import Answer, BadAnswerError, paid_for, read_answer
from flywheel.models.api.ledger import Paid
from flywheel.models.api.refusals import Refusal
from flywheel.models.api.request import Sender, Shape

_CANARY = "Is anybody there?"
_RETRIES_WHILE_SEARCHING = 1
_WIDTH_FIELDS = ("dimensions", "output_dimension")
logger = logging.getLogger(__name__)

Store = Callable[[list[str], np.ndarray], None]


@dataclass(frozen=True)
class Wanted:
    """What is set about requests; None: learned."""

    batch_texts: int | None = None
    send_dimensions: bool | None = None
    encoding_format: str | None = None


@dataclass
class Asking:
    """One endpoint being asked for texts, by what is set and what was learned of it in `folder`.

    `tokens` are an upper bound for each text. `pay` hears what each answer cost, after its vectors are stored and whether they
    are any good or not. `set_aside` hears of each text that the endpoint fails on, with its reason; more than `most_set_aside`
    of them are the endpoint's own failure.
    """

    sender: Sender
    wanted: Wanted
    folder: Path
    tokens: Mapping[str, int]
    pay: Callable[[Paid], None]
    set_aside: Callable[[str, str], None]
    most_set_aside: int
    learned: Shape = field(init=False)
    failed: int = field(default=0, init=False)
    named: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        """Begin with what was learned before."""
        self.learned = Shape.learned(self.folder)

    @property
    def shape(self) -> Shape:
        """Of the next request: what was learned, below what is set."""
        learned, wanted = self.learned, self.wanted
        width_field = {None: learned.width_field, True: learned.width_field or _WIDTH_FIELDS[0], False: None}
        return replace(
            learned,
            width_field=width_field[wanted.send_dimensions],
            encoding=wanted.encoding_format or learned.encoding,
            texts=min(learned.texts, wanted.batch_texts or learned.texts),
        )

    def next_batch(self, texts: Sequence[str]) -> int:
        """How many of `texts` one request may hold: the first ones, at least one."""
        shape, count, held = self.shape, 0, 0
        for text in texts[: min(shape.texts, shape.grown)]:
            held += self.tokens[text]
            if count and held > shape.tokens:
                break
            count += 1
        return count

    def bring(self, texts: list[str], store: Store) -> list[str]:
        """Ask for `texts`, as many as `next_batch` says, and `store` their vectors; gives those that are to be asked for again,
        because the endpoint wants other requests than this one.

        Texts that it fails on are set aside. Raises Refusal when it fails on everything, FlywheelError when its answers are of
        no use or it fails on too many texts.
        """
        try:
            answer = self._ask(texts, None, store)
        except Refusal as refusal:
            if self._learns(refusal, len(texts)):
                return texts
            if refusal.is_final:
                raise
            if len(texts) > 1:
                self._check_alive(refusal)
            self._search(texts, refusal, store)
        else:
            self._again(texts, answer, store)
        return []

    def _ask(self, texts: list[str], retries: int | None, store: Store | None = None) -> Answer:
        """One answer of the right width to one request, its good vectors stored. Raises Refusal and FlywheelError."""
        said = self.sender.send(texts, self.shape, retries)
        try:
            answer = read_answer(said, len(texts))
            fits = answer.vectors.shape[1] in (0, self.sender.dimensions)
            if fits and store and answer.good.any():
                kept = np.flatnonzero(answer.good)
                store([texts[place] for place in kept], answer.vectors[kept])
        except BadAnswerError as error:
            raise self._useless(str(error), said, len(texts)) from None
        finally:
            self.pay(paid_for(said, len(texts)))
        if not fits:
            self._learn_width(texts[0], answer.vectors.shape[1])
            return self._ask(texts, retries, store)
        if (grown := self.learned.after(len(texts), self.sender.seconds)) != self.learned:
            self._remember(grown)
        if len(texts) > 2 and answer.good.all() and np.ptp(answer.vectors, axis=0).max() == 0:
            logger.warning("%s gave %d different texts one and the same vector.", self.sender.url, len(texts))
        return answer

    def _useless(self, fault: str, said: dict[str, Any], count: int) -> Exception:
        """What is to be raised for an answer that cannot be used."""
        if count > 1 and len(said["data"]) == 1:
            return Refusal(200, f"{fault}: at most 1 text in a request")
        remedy = (
            "Set baseline.batch_texts to 1, so that each answer has one vector"
            if count > 1
            else "Set baseline.url to an OpenAI-compatible endpoint; most end in /v1"
        )
        return FlywheelError(f"{self.sender.url} answered for {self.sender.model} with {fault}; none was stored. {remedy}.")

    def _learns(self, refusal: Refusal, sent: int) -> bool:
        """Whether a refusal names what to change about requests, so that the same texts can be asked for again."""
        if (most := refusal.most_texts(sent)) is not None:
            return self._learn(replace(self.learned, texts=most), f"takes {most:,} texts in a request", refusal)
        if self.wanted.encoding_format is None and self._first_about("encoding_format", refusal):
            encoding = None if self.shape.encoding else "float"
            words = "takes floats" if encoding else "takes no encoding_format"
            return self._learn(replace(self.learned, encoding=encoding), words, refusal)
        if self.wanted.send_dimensions is None and self.shape.width_field and self._first_about("dimensions", refusal):
            return self._learn(replace(self.learned, width_field=None), f"takes no {self.shape.width_field}", refusal)
        return False

    def _first_about(self, field_name: str, refusal: Refusal) -> bool:
        """Whether this is the first refusal in this turn that names a field."""
        first = refusal.names(field_name) and field_name not in self.named
        self.named |= {field_name} if first else set()
        return first

    def _learn_width(self, text: str, width: int) -> None:
        """Find the field that makes the endpoint give vectors of the length that is set, where it gives `width` without one.

        Raises FlywheelError where none does.
        """
        sender, told, advice = self.sender, "", ""
        if self.wanted.send_dimensions is False:
            told, advice = " where no length is asked for", ' or baseline.send_dimensions to "auto"'
        elif self.wanted.send_dimensions is None and self.shape.width_field is None:
            for name in _WIDTH_FIELDS:
                try:
                    said = sender.send([text], replace(self.shape, width_field=name))
                except Refusal as refusal:
                    if refusal.status is None or refusal.is_final:
                        raise
                    told = told or f" and refuses `{name}` ({refusal.words})"
                    continue
                self.pay(paid_for(said, 1))
                if _width_of(said) == sender.dimensions:
                    logger.info(
                        "%s gives %d numbers, and %d where %s asks for them.", sender.url, width, sender.dimensions, name
                    )
                    return self._remember(replace(self.learned, width_field=name))
                told = told or f" whatever `{name}` asks for"
        raise FlywheelError(
            f"{sender.url} answers for {sender.model} with vectors of {width} numbers{told}, and baseline.dimensions is "
            f"{sender.dimensions}; none was stored. Set baseline.dimensions to {width}{advice}."
        )

    def _search(self, texts: list[str], refusal: Refusal, store: Store) -> None:
        """Find the texts that the endpoint fails on, by halving; where it fails on none alone, it is asked for less at once."""
        if len(texts) == 1:
            return self._judge(texts[0], refusal, store)
        before, half = self.failed, (len(texts) + 1) // 2
        for rest in (texts[:half], texts[half:]):
            while rest:  # in pieces, where less was learned meanwhile
                count = self.next_batch(rest)
                part, rest = rest[:count], rest[count:]
                try:
                    self._again(part, self._ask(part, _RETRIES_WHILE_SEARCHING, store), store)
                except Refusal as smaller:
                    if self._learns(smaller, len(part)):
                        rest = part + rest
                    elif smaller.is_final:
                        raise
                    else:
                        self._search(part, smaller, store)
        if self.failed == before and refusal.is_of_size:
            most = max(sum(map(self.tokens.__getitem__, part)) for part in (texts[:half], texts[half:]))
            smaller_shape = (
                replace(self.learned, tokens=min(self.learned.tokens, most))
                if refusal.is_of_length
                else replace(self.learned, texts=min(self.learned.texts, half))
            )
            if smaller_shape != self.learned:
                self._learn(smaller_shape, f"takes {half:,} texts like these in a request", refusal)
        return None

    def _judge(self, text: str, refusal: Refusal, store: Store) -> None:
        """Set a text aside that fails alone, while others do not. What may be chance is asked for once more."""
        self._check_alive(refusal)
        if not refusal.is_deterministic:
            try:
                return self._again([text], self._ask([text], _RETRIES_WHILE_SEARCHING, store), store)
            except Refusal as once_more:
                if once_more.is_final:
                    raise
                self._check_alive(once_more)
        return self._fail(text, refusal.words)

    def _again(self, texts: list[str], answer: Answer, store: Store) -> None:
        """Ask again, each alone, for those of `texts` whose vector in an answer is of no use."""
        for text in (text for text, good in zip(texts, answer.good, strict=True) if not good):
            said = "a vector of NaN, infinity or nothing but zeros"
            try:
                if len(texts) > 1 and self._ask([text], _RETRIES_WHILE_SEARCHING, store).good.all():
                    continue
            except Refusal as refusal:
                if refusal.is_final:
                    raise
                said = refusal.words
            self._check_alive(Refusal(500, said))
            self._fail(text, said)

    def _check_alive(self, refusal: Refusal) -> None:
        """Raise `refusal` unless the endpoint has a vector for a text that nobody doubts."""
        try:
            alive = bool(self._ask([_CANARY], _RETRIES_WHILE_SEARCHING).good.all())
        except Refusal:
            alive = False
        if not alive:
            raise refusal

    def _fail(self, text: str, reason: str) -> None:
        begins = text[:30]  # a reason that quotes the text is kept without it
        self.set_aside(text, f"{reason.partition(begins)[0]}..." if len(begins) > 3 and begins in reason else reason)
        self.failed += 1
        if self.failed > self.most_set_aside:
            raise FlywheelError(
                f"{self.sender.url} failed on {self.failed} texts, each alone, for {self.sender.model}, the last time with: "
                f"{reason}. They are set aside and what was embedded is kept. Run `flywheel baseline embed` to go on without "
                "them, or with --retry once the endpoint takes them."
            )

    def _learn(self, shape: Shape, words: str, refusal: Refusal) -> bool:
        logger.warning("%s %s for %s (%s); remembered.", self.sender.url, words, self.sender.model, refusal.words)
        self._remember(shape)
        return True

    def _remember(self, shape: Shape) -> None:
        self.learned = shape
        try:
            shape.remember(self.folder)
        except OSError as error:
            logger.warning("%s cannot be written (%s): what was learned is learned again.", self.folder, error.strerror)


def _width_of(said: dict[str, Any]) -> int | None:
    try:
        return int(read_answer(said, 1).vectors.shape[1])
    except BadAnswerError:
        return None
