"""The same object for equal settings: a program is compiled for objects, not for what they hold."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

Factory = TypeVar("Factory", bound=Callable[..., Any])


def reused(factory: Factory) -> Factory:
    """A factory that makes one object for equal arguments, and keeps the last 256.

    Where an argument cannot be hashed, such as a traced number of a sweep, it makes a new one. What
    it makes must not be changed by anyone.
    """
    # 1, 1.0 and True are equal, and a factory may refuse one of them.
    kept = functools.lru_cache(maxsize=256, typed=True)(factory)

    @functools.wraps(factory)
    def make(*args: Any, **settings: Any) -> Any:
        try:
            hash((args, tuple(settings.values())))
        except TypeError:
            return factory(*args, **settings)
        return kept(*args, **settings)

    return make  # type: ignore[return-value]
