"""What objectives and schedules have in common as entries of a registry: options, look-up by name or import path.

A record says, beside the code, everything that a tool needs to know about it, so that no tool compares names.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Keywords whose user-facing option has another name; every other keyword is set by the option of its own name.
OPTION_OF = {
    "alpha_end": "alpha_min",
    "alpha_start": "alpha_max",
    "epsilon_low": "epsilon",
    "max_tokens": "max_completion_tokens",
    "num_steps": "steps",
    "scale": "advantage_scale",
    "target_fraction": "ess_fraction",
}


@dataclass(frozen=True, kw_only=True)
class Record:
    """One entry of a registry.

    name: what the user calls it: a built-in name or "module:attribute".
    summary: one line for lists and help texts.
    options: keyword of the function (or constructor) -> user-facing option that sets it, as the trainer spells it.
    found: False where the name could not be looked up here; such an entry cannot run and counts as reading every option.
    """

    name: str
    summary: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    found: bool = True

    @property
    def target(self) -> Callable[..., Any]:
        """The function or class that the record describes."""
        raise NotImplementedError

    def reads(self, option: str) -> bool:
        """Whether a user-facing option changes what the entry does."""
        return not self.found or option in self.options.values()

    def bind(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords of the target from the values of user-facing options, e.g. `vars(config)`.

        An option that is absent or None leaves the target's own default.

        Raises:
            ValueError: an option without a value whose keyword has no default.
        """
        given = {keyword: values[option] for keyword, option in self.options.items() if values.get(option) is not None}
        parameters = inspect.signature(self.target).parameters
        for keyword, option in self.options.items():
            required = keyword in parameters and parameters[keyword].default is inspect.Parameter.empty
            if required and keyword not in given:
                raise ValueError(
                    f"{self.name} needs a value for {keyword}, which the option {option} sets; got none. Set {option}, "
                    f"or give {keyword} a default."
                )
        return given


def options_of(target: Callable[..., Any], *, positional: bool) -> dict[str, str]:
    """Keyword -> user-facing option, derived from a signature: the option of the same name, but for `OPTION_OF`.

    Args:
        positional: whether arguments that may also be given by position count (a constructor's; not an objective's batch).
    """
    kinds = {inspect.Parameter.KEYWORD_ONLY} | ({inspect.Parameter.POSITIONAL_OR_KEYWORD} if positional else set())
    names = [name for name, parameter in inspect.signature(target).parameters.items() if parameter.kind in kinds]
    return {name: OPTION_OF.get(name, name) for name in names}


def import_attribute(kind: str, path: str) -> Any:
    """What "module:attribute" names.

    Raises:
        ValueError: the module is a file's path, cannot be imported or has no such attribute.
    """
    module, _, attribute = path.partition(":")
    importable = module.removesuffix(".py").lstrip("./").replace("/", ".")
    if importable != module:
        raise ValueError(
            f"{kind} is {path!r}; expected module:name with the module as in an import. Try {importable}:{attribute}, run from "
            "the folder that it begins in or with that on PYTHONPATH."
        )
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{kind} is {path!r}, and {module} cannot be imported: {error}. Is its folder on PYTHONPATH?"
        ) from None
    except Exception as error:  # whatever a module of somebody else's may do
        raise ValueError(
            f"{kind} is {path!r}, and {module} cannot be imported: {type(error).__name__}: {error}. Correct the module."
        ) from error
    if not hasattr(found, attribute):
        raise ValueError(
            f"{kind} is {path!r}, and {module} has no {attribute!r}; expected module:name of something it defines."
            f"{nearest(attribute.partition('.')[0], dir(found))}"
        )
    return getattr(found, attribute)


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean ...?' where one of the known names is close, or a dot stands for the colon of module:name; or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    module, _, attribute = name.rpartition(".")
    if not close and module and attribute.isidentifier():
        close = [f"{module}:{attribute}"]
    return f" Did you mean {close[0]!r}?" if close else ""
