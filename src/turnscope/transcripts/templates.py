"""Chat templates: which one a tokenizer is rendered with, and the plain one for those that have none.

The plain template is chosen by name (`plain`, or `auto` for a tokenizer without one) and the choice comes with a
notice to print: activations made with a template that the model never saw are a different thing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from turnscope.artifacts.errors import ConfigError
from turnscope.artifacts.fingerprint import fingerprint

# Content stands on a line of its own: after "role: " a byte-level tokenizer would glue the space to the first word, and
# that word would straddle the boundary in every turn.
PLAIN_TEMPLATE = (
    "{%- if cls_token is defined and cls_token %}{{ cls_token }}"
    "{%- elif bos_token is defined and bos_token %}{{ bos_token }}{% endif %}"
    "{%- for message in messages %}{{ message['role'] + ':\\n' }}"
    "{%- if message['reasoning_content'] %}{{ '(' + message['reasoning_content'] | trim + ')\\n' }}{% endif %}"
    "{%- if message['content'] is string %}{{ message['content'] | trim }}"
    "{%- else %}{% for part in message['content'] %}"
    "{{ part['text'] | trim if part['type'] == 'text' else '[' + part['type'] + ']' }}"
    "{{ '' if loop.last else '\\n' }}{% endfor %}{% endif %}"
    "{%- for call in message['tool_calls'] or [] %}"
    "{{ '\\n' + call['function']['name'] + ' ' + (call['function']['arguments'] | tojson) }}{% endfor %}"
    "{{ '\\n\\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"
    "{%- if cls_token is defined and cls_token and sep_token %}{{ sep_token }}{% endif %}"
)


class TemplateChoice(NamedTuple):
    """A chat template, how it was chosen, and what to tell the user about it (empty: nothing)."""

    template: str
    name: str
    notice: str

    @property
    def fingerprint(self) -> str:
        """Names the template in artifacts downstream."""
        return fingerprint(self.template)


def choose_template(tokenizer: Any, choice: str | None = None) -> TemplateChoice:
    """The template to render with.

    Args:
        tokenizer: a transformers tokenizer.
        choice: None for the tokenizer's own; `plain`; `auto` (its own, else plain); or the text of a template.

    Raises:
        ConfigError: the tokenizer has no template and none was chosen.
    """
    own = _own_template(tokenizer)
    if choice in (None, "auto") and own is not None:
        return TemplateChoice(own, "own", "")
    if choice in ("auto", "plain"):
        why = "was asked for" if own is not None else "is used: the tokenizer has no chat template"
        return TemplateChoice(PLAIN_TEMPLATE, "plain", f"the plain chat template {why}")
    if choice is None:
        raise ConfigError(
            "the tokenizer has no chat template",
            where=str(getattr(tokenizer, "name_or_path", "")),
            fix="choose the plain one: chat_template = plain",
        )
    if "{" not in choice:
        raise ConfigError(f"no such chat template: {choice}", fix="auto, plain, or the text of a Jinja template")
    return TemplateChoice(choice, "given", "a chat template other than the tokenizer's own is used")


def _own_template(tokenizer: Any) -> str | None:
    if not getattr(tokenizer, "chat_template", None):
        return None
    # A tokenizer may carry several named templates; transformers picks the default one and refuses where there is none.
    try:
        return str(tokenizer.get_chat_template(None, None))
    except ValueError:
        return None
