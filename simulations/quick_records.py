"""Frozen dataclasses that are made faster, for processes that make hundreds of millions.

A frozen class's own `__init__` looks each field up by its name to set it. The one given here calls what sets the field's slot, as
the readers of `encoding.record_codec` do, and else does the same.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, Final

PACKAGES: Final = ("hivenode.", "simulations.")
_MAKER: Final = object()
"""Stands for a default that is made anew each time."""


def quicken() -> None:
    """Does it to every frozen dataclass with slots that was imported so far from the product and the simulator."""
    for kind in frozen_classes():
        kind.__init__ = quick_init(kind)


def frozen_classes() -> list[Any]:
    """The classes that can be made faster, of all modules that were imported so far."""
    modules = [(name, vars(module)) for name, module in sys.modules.items() if name.startswith(PACKAGES)]
    return [kind for name, made in modules for kind in made.values() if _is_fit(kind) and kind.__module__ == name]


def _is_fit(kind: Any) -> bool:
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        return False
    # Looked for in the class alone, since one that inherits from such a class need not be one itself.
    parameters = vars(kind).get("__dataclass_params__")
    made = parameters is not None and parameters.frozen and parameters.init and "__slots__" in vars(kind)
    return made and all(field.init for field in dataclasses.fields(kind))


def quick_init(kind: Any) -> Callable[..., None]:
    """An `__init__` with the arguments, defaults and effects of the class's own."""
    names: dict[str, Any] = {"MAKER": _MAKER}
    plain: list[str] = []
    by_name: list[str] = []
    lines: list[str] = []
    for field in dataclasses.fields(kind):
        argument = field.name
        if field.default is not dataclasses.MISSING:
            names[f"default_{field.name}"] = field.default
            argument += f"=default_{field.name}"
        elif field.default_factory is not dataclasses.MISSING:
            names[f"make_{field.name}"] = field.default_factory
            argument += "=MAKER"
            lines.append(f"    if {field.name} is MAKER: {field.name} = make_{field.name}()")
        (by_name if field.kw_only else plain).append(argument)
        names[f"set_{field.name}"] = getattr(kind, field.name).__set__
        lines.append(f"    set_{field.name}(self, {field.name})")
    if hasattr(kind, "__post_init__"):
        lines.append("    self.__post_init__()")
    arguments = ", ".join(["self", *plain, *(["*", *by_name] if by_name else [])])
    exec("\n".join([f"def __init__({arguments}):", *lines, "    return"]), names)  # noqa: S102 - made from the class alone.
    made: Callable[..., None] = names["__init__"]
    return made
