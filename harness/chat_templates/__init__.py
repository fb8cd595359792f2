"""Chat templates of common families of models, each a file here; a recipe names one with ``chat_template``.

They write what the models' own templates write, and mark with ``{% generation %}`` what the assistant writes, its end
token included. Each file says where it differs.
"""

from __future__ import annotations

import re
from pathlib import Path

from harness.errors import MoemixError, nearest

_FOLDER = Path(__file__).parent


def chat_template_names() -> list[str]:
    """Return the names of the shipped templates."""
    return sorted(path.stem for path in _FOLDER.glob("*.jinja"))


def chat_template(given: str) -> str:
    """Return a chat template from a shipped one's name, a file, or the Jinja text itself.

    Raises:
        MoemixError: there is no such template or file, or it is not valid Jinja.
    """
    if "{%" in given or "{{" in given:
        return _valid(given, "the chat template")
    if given in chat_template_names():
        return (_FOLDER / f"{given}.jinja").read_text(encoding="utf-8")
    if not Path(given).is_file():
        hint = f"expected a name, a file or Jinja; {nearest(given, chat_template_names())}"
        raise MoemixError(f"unknown chat template {given!r}", hint=hint)
    try:
        return _valid(Path(given).read_text(encoding="utf-8"), given)
    except UnicodeDecodeError:
        raise MoemixError("the chat template is not UTF-8 text", where=given) from None


def _valid(text: str, where: str) -> str:
    """Return the template if it is Jinja, with the tag that marks what the assistant writes."""
    from jinja2 import Environment, TemplateSyntaxError

    plain = re.sub(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}", "", text)
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=True).parse(plain)
    except TemplateSyntaxError as error:
        raise MoemixError(f"line {error.lineno} is not valid Jinja: {error.message}", where=where) from None
    return text
