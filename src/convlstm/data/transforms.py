"""Invertible transforms between physical values and model values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from convlstm.data.checks import require_finite, require_positive
from convlstm.data.units import Field, dbz_to_mm_per_hour, mm_per_hour_to_dbz
from convlstm.errors import ConfigError


@dataclass(frozen=True)
class Transform(ABC):
    """The interface of a transform: forward, inverse, and a dictionary to save it.

    Example:
        >>> isinstance(Identity(), Transform)
        True
    """

    name: ClassVar[str]

    def forward(self, x: ArrayLike) -> Field:
        """Return the model values of physical values.

        Args:
            x: Values in the physical unit, of any shape; NaN stays NaN.

        Returns:
            Model values, float32, of the same shape.

        Example:
            >>> LogRain().forward([-1.0, 0.0, 1000.0])
            array([0., 0., 1.], dtype=float32)
        """
        return np.asarray(self._forward(np.asarray(x, dtype=np.float32)), dtype=np.float32)

    def inverse(self, y: ArrayLike) -> Field:
        """Return the physical values of model values.

        Args:
            y: Model values, of any shape; NaN stays NaN.

        Returns:
            Values in the physical unit, float32, of the same shape.

        Example:
            >>> LogRain().inverse([-0.2, 0.0, 1.0]).round(2)
            array([  0.,   0., 100.], dtype=float32)
        """
        return np.asarray(self._inverse(np.asarray(y, dtype=np.float32)), dtype=np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return name and options for `transform_from_dict`.

        Returns:
            A dictionary of JSON values.

        Example:
            >>> LogRain().to_dict()
            {'name': 'log_rain', 'scale': 10.0, 'ceiling': 100.0, 'top': 1.0}
        """
        return {"name": self.name, **asdict(self)}

    @abstractmethod
    def _forward(self, x: Field) -> Field: ...

    @abstractmethod
    def _inverse(self, y: Field) -> Field: ...


@dataclass(frozen=True)
class LogRain(Transform):
    """Rain rate on a logarithmic scale: y = top · ln(1 + s·R) / ln(1 + s·R_max), with R cut to 0 … R_max.

    No rain is 0 and the ceiling is `top`. The inverse clips y to 0 … top first, so that the output of a model is never
    negative and never above the ceiling.

    Args:
        scale: s, in h/mm; a larger value resolves light rain better.
        ceiling: R_max, in mm/h.
        top: Model value of R_max.

    Raises:
        ConfigError: if an option is not a positive number.

    Example:
        >>> LogRain().forward([0.0, 1.0, 100.0]).round(4)
        array([0.    , 0.3471, 1.    ], dtype=float32)
    """

    name: ClassVar[str] = "log_rain"
    scale: float = 10.0
    ceiling: float = 100.0
    top: float = 1.0

    def __post_init__(self) -> None:
        require_positive("scale", self.scale)
        require_positive("ceiling", self.ceiling)
        require_positive("top", self.top)

    def _forward(self, x: Field) -> Field:
        y: Field = np.log1p(np.clip(x, 0, self.ceiling) * np.float32(self.scale))
        return y / self._span

    def _inverse(self, y: Field) -> Field:
        x: Field = np.expm1(np.clip(y, 0, self.top) * self._span)
        return x / np.float32(self.scale)

    @property
    def _span(self) -> np.float32:
        return np.float32(math.log1p(self.scale * self.ceiling) / self.top)


@dataclass(frozen=True)
class Reflectivity(Transform):
    """Rain rate as radar reflectivity, Z = a·R^b in dBZ, from the floor (0) to the ceiling (1).

    Rain below the floor gives y = 0, whose inverse is 0 mm/h. The inverse clips y to 0 … 1 first.

    Args:
        a: Factor of the Z–R relation.
        b: Exponent of the Z–R relation.
        floor: Reflectivity that becomes 0, in dBZ.
        ceiling: Reflectivity that becomes 1, in dBZ.

    Raises:
        ConfigError: if a or b is not positive, or the floor is not below the ceiling.

    Source: Marshall and Palmer (1948), doi:10.1175/1520-0469(1948)005<0165:TDORWS>2.0.CO;2, a = 200, b = 1.6.

    Example:
        >>> Reflectivity(floor=0, ceiling=60).forward([0.0, 1.0]).round(4)
        array([0.    , 0.3835], dtype=float32)
    """

    name: ClassVar[str] = "reflectivity"
    a: float = 200.0
    b: float = 1.6
    floor: float = 0.0
    ceiling: float = 60.0

    def __post_init__(self) -> None:
        require_positive("a and b", (self.a, self.b))
        require_finite("floor and ceiling", (self.floor, self.ceiling))
        if self.ceiling <= self.floor:
            raise ConfigError(
                "ceiling",
                expected=f"dBZ above the floor of {self.floor}",
                received=self.ceiling,
                hint="Increase `ceiling`.",
            )

    def _forward(self, x: Field) -> Field:
        dbz = np.clip(mm_per_hour_to_dbz(x, a=self.a, b=self.b), self.floor, self.ceiling)
        return (dbz - np.float32(self.floor)) / np.float32(self.ceiling - self.floor)

    def _inverse(self, y: Field) -> Field:
        y = np.clip(y, 0, 1)
        dbz = y * np.float32(self.ceiling - self.floor) + np.float32(self.floor)
        return np.where(y == 0, np.float32(0), dbz_to_mm_per_hour(dbz, a=self.a, b=self.b))


@dataclass(frozen=True)
class Standard(Transform):
    """Values minus their mean, divided by their standard deviation.

    Args:
        mean: One number, or one for each channel.
        std: One number, or one for each channel.

    Raises:
        ConfigError: if a number is not finite, a deviation is not positive, or the two differ in length.

    Shapes:
        x, y: any shape, or (..., channel, height, width) with one number per channel.

    Example:
        >>> Standard(mean=10.0, std=5.0).forward([10.0, 20.0])
        array([0., 2.], dtype=float32)
    """

    name: ClassVar[str] = "standard"
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]

    def __post_init__(self) -> None:
        for option in ("mean", "std"):
            # JSON returns lists, and a frozen dataclass needs object.__setattr__
            if isinstance(numbers := getattr(self, option), list):
                object.__setattr__(self, option, tuple(numbers))
        require_finite("mean", self.mean)
        require_positive("std", self.std)
        if np.shape(self.mean) != np.shape(self.std):
            raise ConfigError(
                "std", expected="as many numbers as mean", received=self.std, hint="Pass one number per channel."
            )

    @classmethod
    def fit(cls, x: ArrayLike) -> Self:
        """Return the transform with mean and deviation of each channel of the data, without missing values.

        Args:
            x: Training values, (..., channel, height, width).

        Returns:
            The transform; a constant channel gets a deviation of 1.

        Raises:
            ConfigError: if a channel has no value at all.

        Example:
            >>> Standard.fit(np.float32([1, 3]).reshape(2, 1, 1, 1))
            Standard(mean=2.0, std=1.0)
        """
        return cls.fit_parts([x])

    @classmethod
    def fit_parts(cls, parts: Iterable[ArrayLike]) -> Self:
        """Return the transform of `fit` for data in parts, which are read once, one after another.

        Args:
            parts: Training values, each (..., channel, height, width).

        Returns:
            The transform; a constant channel gets a deviation of 1.

        Raises:
            ConfigError: if a channel has no value at all.

        Source: Chan, Golub and LeVeque (1983), doi:10.1080/00031305.1983.10483115, for joining the sums of two parts.

        Example:
            >>> Standard.fit_parts(np.float32([value]).reshape(1, 1, 1) for value in (1, 3))
            Standard(mean=2.0, std=1.0)
        """
        moments: list[_Moments] = []
        for part in parts:
            channels = [_Moments.of(channel[np.isfinite(channel)]) for channel in np.moveaxis(np.asarray(part), -3, 0)]
            moments = [old.joined(new) for old, new in zip(moments, channels, strict=True)] if moments else channels
        means = tuple(each.mean if each.number else math.nan for each in moments)
        stds = tuple(math.sqrt(each.variance) or 1.0 if each.number else math.nan for each in moments)
        return cls(means[0], stds[0]) if len(means) == 1 else cls(means, stds)

    def _forward(self, x: Field) -> Field:
        return (x - _per_channel(self.mean)) / _per_channel(self.std)

    def _inverse(self, y: Field) -> Field:
        return y * _per_channel(self.std) + _per_channel(self.mean)


class _Moments(NamedTuple):
    """Number, mean and variance of some values."""

    number: int
    mean: float
    variance: float

    @classmethod
    def of(cls, values: Field) -> _Moments:
        if not values.size:
            return cls(0, 0.0, 0.0)
        return cls(values.size, float(values.mean(dtype=np.float64)), float(values.var(dtype=np.float64)))

    def joined(self, other: _Moments) -> _Moments:
        """Return the moments of the values of both."""
        if not other.number or not self.number:
            return self if self.number else other
        number = self.number + other.number
        share, distance = other.number / number, other.mean - self.mean
        variance = (1 - share) * self.variance + share * other.variance + share * (1 - share) * distance**2
        return _Moments(number, self.mean + share * distance, variance)


@dataclass(frozen=True)
class Identity(Transform):
    """The identity.

    Example:
        >>> Identity().forward([0.5])
        array([0.5], dtype=float32)
    """

    name: ClassVar[str] = "identity"

    def _forward(self, x: Field) -> Field:
        return x

    def _inverse(self, y: Field) -> Field:
        return y


TRANSFORMS: Mapping[str, type[Transform]] = {kind.name: kind for kind in (LogRain, Reflectivity, Standard, Identity)}


def transform_from_dict(options: Mapping[str, Any]) -> Transform:
    """Return the transform of a dictionary from `to_dict`.

    Args:
        options: "name" ("log_rain", "reflectivity", "standard" or "identity") and the options of that transform.

    Returns:
        The transform.

    Raises:
        ConfigError: if the name is unknown, or an option is unknown, missing or not allowed.

    Example:
        >>> transform_from_dict({"name": "log_rain", "scale": 5.0})
        LogRain(scale=5.0, ceiling=100.0, top=1.0)
    """
    name = str(options.get("name"))
    if name not in TRANSFORMS:
        raise ConfigError(
            "transform name",
            expected=" or ".join(TRANSFORMS),
            received=repr(name),
            hint="Pass one of the listed names.",
        )
    kind = TRANSFORMS[name]
    values = {key: value for key, value in options.items() if key != "name"}
    known = {field.name for field in fields(kind)}
    missing = {field.name for field in fields(kind) if field.default is MISSING} - values.keys()
    unknown = values.keys() - known
    if missing or unknown:
        raise ConfigError(
            f"options of the transform {name}",
            expected=", ".join(field.name for field in fields(kind)) or "none",
            received=", ".join(values) or "none",
            hint=f"Check {', '.join(sorted(missing | unknown))}.",
        )
    return kind(**values)


def _per_channel(value: float | tuple[float, ...]) -> Field:
    """Return one number, or numbers that broadcast over (..., channel, height, width)."""
    numbers = np.asarray(value, dtype=np.float32)
    return numbers.reshape(-1, 1, 1) if numbers.ndim else numbers
