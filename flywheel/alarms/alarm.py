"""What is told of an event: its kind, a sentence, and the page of the UI that shows more."""

from dataclasses import dataclass

from flywheel.alarms.options import Kind
from flywheel.registry.champions import Entry
from flywheel.registry.decisions import in_words

_BEGINS = {
    "promoted": "New champion.",
    "kept": "Nothing was promoted.",
    "not judged": "Retrained.",
    "rolled back": "Rolled back.",
}
_LONGEST = 600


@dataclass(frozen=True)
class Alarm:
    """One message. `page` is the path of the UI's page, `runs/...`."""

    kind: Kind
    sentence: str
    page: str

    def text(self, ui_url: str) -> str:
        """The sentence on one line, and the link."""
        words = " ".join(self.sentence.split())
        if len(words) > _LONGEST:
            words = words[:_LONGEST].rsplit(" ", 1)[0] + " ..."
        return f"{words}\n{ui_url.rstrip('/')}/{self.page}"


def alarm_of(entry: Entry, page: str) -> Alarm:
    """What is told of an entry of the champions' history."""
    return Alarm(entry.action, f"{_BEGINS[entry.action]} {in_words(entry)}", page)
