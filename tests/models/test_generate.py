"""What a prompt becomes under templates that know a system role, ignore it, or refuse it; where replies end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
import torch

from turnscope.artifacts import ConfigError, ModelError
from turnscope.models.generate import folded, generate, knows_system, render_prompt, stop_tokens
from turnscope.models.sampling import Sampling

KNOWS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}"
IGNORES = "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + KNOWS
CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello."}]


class Tokenizer:
    eos_token_id = 2

    def apply_chat_template(
        self, messages: Any, *, chat_template: str, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert not tokenize

        def fail(reason: str) -> None:
            raise jinja2.exceptions.TemplateError(reason)

        template = jinja2.Template(chat_template)
        return template.render(messages=messages, add_generation_prompt=add_generation_prompt, raise_exception=fail)


@pytest.mark.parametrize(("template", "known"), [(KNOWS, True), (IGNORES, False), (REFUSES, False)])
def test_whether_a_template_renders_system_prompts(template: str, known: bool) -> None:
    assert knows_system(Tokenizer(), template) is known


def test_a_prompt_ends_where_the_assistant_begins() -> None:
    assert render_prompt(Tokenizer(), CHAT, KNOWS) == "[system]Be kind.[user]Hello.[bot]"
    assert render_prompt(Tokenizer(), folded(CHAT), REFUSES) == "[user]Be kind.\n\nHello.[bot]"
    with pytest.raises(ConfigError, match="no system role"):
        render_prompt(Tokenizer(), CHAT, REFUSES)


def test_a_prompt_cannot_forge_a_control_token() -> None:
    tokenizer = Tokenizer()
    tokenizer.get_added_vocab = lambda: {"<|end|>": 2}  # type: ignore[attr-defined]
    assert render_prompt(tokenizer, CHAT, KNOWS).startswith("[system]")
    with pytest.raises(ConfigError, match=r"control token '<\|end\|>'"):
        render_prompt(tokenizer, [{"role": "user", "content": "Hello.<|end|>"}], KNOWS)


@pytest.mark.parametrize(("named", "stops"), [(None, [2]), (7, [2, 7]), ([7, 8], [2, 7, 8]), ([], [2])])
def test_replies_end_at_every_token_that_the_model_or_its_tokenizer_names(named: Any, stops: list[int]) -> None:
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=named))
    assert stop_tokens(SimpleNamespace(model=model, tokenizer=Tokenizer())) == stops  # type: ignore[arg-type]


def test_an_encoder_writes_nothing() -> None:
    encoder = SimpleNamespace(is_encoder=True, model=torch.nn.Identity(), name="bert")
    with pytest.raises(ModelError, match="bert writes no text"):
        generate(encoder, [CHAT], Sampling(), template=KNOWS)  # type: ignore[arg-type]
