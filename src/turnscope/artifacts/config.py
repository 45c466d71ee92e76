"""The base of every config: frozen, no unknown fields, and a record of itself that holds no path."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from turnscope.artifacts.errors import ConfigError


class Config(BaseModel):
    """Frozen and strict about names: an unknown or invalid field raises ConfigError, naming field and value.

    Because a bad value raises at once, a union of two Configs needs a discriminator field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    if not TYPE_CHECKING:  # type checkers keep the fields as the constructor's arguments

        def __init__(self, **data: Any) -> None:
            try:
                super().__init__(**data)
            except ValidationError as error:
                raise _config_error(type(self), error) from None

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """As pydantic's, but raises ConfigError."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise _config_error(cls, error) from None

    def recorded(self) -> dict[str, Any]:
        """The fields as plain JSON values, as a manifest records them.

        Fields whose type mentions Path are left out (inputs are recorded by fingerprint instead, and the place of
        the output must not change its bytes), and so are fields declared with `Field(exclude=True)`, the way to
        mark settings such as a device that must not bar a resume.
        """
        plain = self.model_dump(mode="json")
        record: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            if name not in plain or _mentions_path(field.annotation):
                continue
            value = getattr(self, name)
            record[name] = value.recorded() if isinstance(value, Config) else plain[name]
        return record


def _mentions_path(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return True
    return annotation is Path or any(_mentions_path(part) for part in get_args(annotation))


def _config_error(cls: type[Config], error: ValidationError) -> ConfigError:
    problems = [_problem(cls, details) for details in error.errors(include_url=False)]
    fix = ""
    if any(details["type"] == "extra_forbidden" for details in error.errors(include_url=False)):
        fix = f"the fields are: {', '.join(cls.model_fields)}"
    return ConfigError("; ".join(problems), where=cls.__name__, fix=fix)


def _problem(cls: type[Config], details: ErrorDetails) -> str:
    name = ".".join(str(part) for part in details["loc"])
    if details["type"] == "missing":
        return f"{name}: must be given"
    if details["type"] == "extra_forbidden":
        return f"{name}: no such field"
    message = details["msg"].removeprefix("Value error, ")
    # A whole-config check is handed the whole config as its input: no use repeating it.
    return f"{name}: {message} (got {details['input']!r})" if name else message
