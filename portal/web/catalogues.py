"""The catalogues of translations: what guests' pages say in English, and whether each language says all of it.

    python -m portal.web.catalogues           compile every .po into its .mo; names what a language misses
    python -m portal.web.catalogues update    bring every .po up to date with the sources first

Promises: reads sources and catalogues, writes catalogues, nothing else. A tool for those who change a page's words;
the server reads the compiled files alone, which are committed with their sources.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path

from babel.messages import Catalog, Message
from babel.messages.extract import extract_from_file
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from portal.web.languages import DOMAIN, LANGUAGES, TRANSLATIONS

# The functions whose first literal argument is a message, or its two forms.
KEYWORDS: Mapping[str, tuple[int, ...] | None] = {"translated": None, "say": None, "_": None, "counted": (1, 2)}
SOURCES = TRANSLATIONS.parent
# English is what the sources say.
TRANSLATED = tuple(code for code in LANGUAGES if code != "en")

_PLACEHOLDER = re.compile(r"%\(\w+\)s")
_MARKUP = re.compile(r"</?[a-z][^>]*>")


def messages() -> Catalog:
    """Every message of the guests' pages, with the files it stands in."""
    found = Catalog(domain=DOMAIN, project="Gatepost", charset="utf-8")
    for path, method in _sources():
        name = path.relative_to(SOURCES.parent.parent).as_posix()
        for _, message, comments, _ in extract_from_file(
            method, path, KEYWORDS, ["Translators:"], strip_comment_tags=True
        ):
            found.add(message, locations=[(name, 0)], auto_comments=comments)
    return found


def source(language: str) -> Path:
    """The catalogue that a translator edits."""
    return TRANSLATIONS / language / "LC_MESSAGES" / f"{DOMAIN}.po"


def compiled_file(language: str) -> Path:
    """The catalogue that the server reads."""
    return source(language).with_suffix(".mo")


def read(language: str) -> Catalog:
    """That catalogue."""
    with source(language).open("rb") as file:
        return read_po(file, locale=language, domain=DOMAIN)


def compiled(catalogue: Catalog) -> bytes:
    """What the server reads of a catalogue."""
    made = BytesIO()
    write_mo(made, catalogue)
    return made.getvalue()


def faults(language: str) -> list[str]:
    """What is wrong with a language's catalogue: messages missing, left over, or with other placeholders or markup."""
    catalogue, wanted = read(language), messages()
    found = []
    for message in wanted:
        if not message.id:
            continue
        told = catalogue.get(message.id)
        if told is None or told.fuzzy or not _forms(told) or not all(_forms(told)):
            found.append(f"{language}: {_one(message)!r} is not translated")
            continue
        found += [
            f"{language}: {_one(message)!r}: {fault}" for form in _forms(told) for fault in _differences(message, form)
        ]
        if message.pluralizable and len(_forms(told)) != catalogue.num_plurals:
            found.append(f"{language}: {_one(message)!r} needs {catalogue.num_plurals} forms")
    found += [f"{language}: {_one(told)!r} is said nowhere" for told in catalogue if told.id and told.id not in wanted]
    return found


def update(language: str) -> None:
    """Give a language's catalogue the messages of the sources, as they are now; the new ones wait for a translation."""
    path = source(language)
    catalogue = read(language) if path.exists() else Catalog(locale=language, domain=DOMAIN, charset="utf-8")
    catalogue.update(messages(), no_fuzzy_matching=True, update_creation_date=False)
    catalogue.obsolete.clear()
    catalogue.fuzzy = False
    catalogue.project, catalogue.version, catalogue.header_comment = "Gatepost", "", "# What guests' pages say."
    catalogue.last_translator, catalogue.language_team, catalogue.msgid_bugs_address = "", "", ""
    catalogue.revision_date = catalogue.creation_date
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        write_po(file, catalogue, width=120, omit_header=False, sort_output=False, include_lineno=False)


def main(arguments: list[str]) -> int:
    """Update if told so, compile, and name what is missing: the exit status says whether anything is."""
    missing: list[str] = []
    for language in TRANSLATED:
        if arguments == ["update"]:
            update(language)
        compiled_file(language).write_bytes(compiled(read(language)))
        missing += faults(language)
    for line in missing:
        print(line, file=sys.stderr)  # noqa: T201
    return 1 if missing else 0


def _sources() -> Iterator[tuple[Path, str]]:
    for path in sorted([SOURCES / "languages.py", *(SOURCES / "guest").glob("*.py")]):
        yield path, "python"
    for path in sorted((SOURCES / "templates" / "guest").glob("*.html")):
        yield path, "jinja2.ext:babel_extract"


def _one(message: Message) -> str:
    return message.id[0] if isinstance(message.id, (tuple, list)) else str(message.id)


def _forms(message: Message) -> tuple[str, ...]:
    string = message.string
    if isinstance(string, (tuple, list)):
        return tuple(string)
    return (str(string),) if string else ()


def _differences(message: Message, form: str) -> Iterator[str]:
    one = _one(message)
    wanted, given = set(_PLACEHOLDER.findall(one)), set(_PLACEHOLDER.findall(form))
    # One of something may be said without its number.
    if given - wanted or (wanted - given and not message.pluralizable):
        yield f"placeholders {sorted(given)}, expected {sorted(wanted)}"
    if sorted(_MARKUP.findall(one)) != sorted(_MARKUP.findall(form)):
        yield "other markup"
    if '"' in _MARKUP.sub("", form):
        yield "a straight quotation mark, which would end an attribute"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
