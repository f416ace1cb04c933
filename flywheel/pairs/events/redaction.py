"""Redaction at the door: what looks like an e-mail address, a phone or card number leaves a text before it is stored."""

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from flywheel.errors import FlywheelError, needs_extra
from flywheel.pairs.options import PairOptions

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_DIGITS = re.compile(r"\d(?:[ -]?\d){12,}")
_CARD_DIGITS = (13, 19)
_NOT_TEXT = frozenset({"type", "event_id", "user", "time", "model", "label", "kind", "thumb"})
_MANY_DIGITS = re.compile(r"(?:\d\D{0,3}){7}")


class Redactor:
    """Replaces what the settings name; counts what it replaced.

    Phone numbers are found by `phonenumbers` (national ones as written in `region`), card numbers by their check digit
    (`python-stdnum`). `hook` is a function of the user's, `module:function`, that takes a text and returns one.
    """

    def __init__(self, kinds: Sequence[str] = (), region: str = "US", hook: str | None = None) -> None:
        found: dict[str, Callable[[str], str]] = {"email": self._emails, "card": self._cards, "phone": self._phones}
        self._steps = [step for kind, step in found.items() if kind in kinds]  # cards before phones: both are digits
        self._hook = _load(hook) if hook else None
        self._name = hook
        self._region = _checked_region(region) if "phone" in kinds else region
        if "card" in kinds:
            with needs_extra("redact", "Redacting card numbers"):
                importlib.import_module("stdnum.luhn")
        self.count = 0

    @classmethod
    def of(cls, options: PairOptions) -> "Redactor":
        """What keeps out of the store, and out of sentences, what the settings name."""
        return cls(options.redact, options.redact_region, options.redact_hook)

    def __bool__(self) -> bool:
        return bool(self._steps or self._hook)

    def __call__(self, text: str) -> str:
        """The text without what is to be kept out."""
        for step in self._steps:
            text = step(text)
        return self._own(text) if self._hook else text

    def sentence(self, text: str) -> str:
        """The same for what is said about a text that is counted already."""
        count = self.count
        text = self(text)
        self.count = count
        return text

    def _own(self, text: str) -> str:
        assert self._hook is not None
        try:
            replaced = self._hook(text)
            replaced.encode()
        except Exception as error:  # whatever the user's function raises
            raise FlywheelError(
                f"{self._name} (pairs.redact_hook) failed on a text ({error!r}). Nothing was stored; correct the function."
            ) from error
        self.count += replaced != text
        return replaced

    def record(self, record: dict[str, Any]) -> dict[str, Any]:
        """A record with every text in it redacted, except the fields that say who, when and what kind."""
        return {field: value if field in _NOT_TEXT else self.everything(value) for field, value in record.items()}

    def everything(self, value: Any) -> Any:
        """A value of JSON with every text in it redacted."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, list):
            return [self.everything(each) for each in value]
        return {key: self.everything(each) for key, each in value.items()} if isinstance(value, dict) else value

    def _emails(self, text: str) -> str:
        if "@" not in text:
            return text
        text, n = _EMAIL.subn("<email>", text)
        self.count += n
        return text

    def _cards(self, text: str) -> str:
        return _DIGITS.sub(lambda match: self._cards_among(match.group()), text)

    def _cards_among(self, run: str) -> str:
        """A run of groups of digits without the card numbers: groups side by side, 13 to 19 digits, the check digit right."""
        from stdnum import luhn

        groups = list(re.finditer(r"\d+", run))
        kept: list[str] = []
        copied = first = 0
        while first < len(groups):
            digits, last = "", None
            for place, group in enumerate(groups[first : first + _CARD_DIGITS[1]], start=first):
                digits += group.group()
                if len(digits) > _CARD_DIGITS[1]:
                    break
                if len(digits) >= _CARD_DIGITS[0] and luhn.is_valid(digits):
                    last = place
            if last is None:
                first += 1
                continue
            kept += [run[copied : groups[first].start()], "<card>"]
            copied, first = groups[last].end(), last + 1
            self.count += 1
        return "".join(kept) + run[copied:]

    def _phones(self, text: str) -> str:
        if not _MANY_DIGITS.search(text):
            return text
        import phonenumbers

        found = list(phonenumbers.PhoneNumberMatcher(text, self._region))
        for match in reversed(found):
            text = f"{text[: match.start]}<phone>{text[match.end :]}"
        self.count += len(found)
        return text


def _checked_region(region: str) -> str:
    with needs_extra("redact", "Redacting phone numbers"):
        import phonenumbers

    if region.upper() not in phonenumbers.SUPPORTED_REGIONS:
        raise FlywheelError(f"pairs.redact_region is not a country's two-letter code: {region!r}. Use one such as US or DE.")
    return region.upper()


def _load(name: str) -> Callable[[str], str]:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
        if not callable(found):
            raise TypeError("it cannot be called")
        return found
    except Exception as error:
        raise FlywheelError(
            f"{name!r} (pairs.redact_hook) names no function that can be imported ({error}); write it as module:function."
        ) from error
