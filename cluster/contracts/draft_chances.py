"""How often tokens of drafts are right, by their place."""

from dataclasses import dataclass

from baton.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DraftChances:
    """Attributes:
    by_place: For each place of a draft the chance that its token is right if those before it are; the last one is
        that of all further places too.
    """

    by_place: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.by_place:
            raise ConfigError("acceptance: no share is given; give one, or one for each place of a draft")
        for chance in self.by_place:
            if not 0 <= chance <= 1:
                raise ConfigError(f"acceptance {chance:g} must be in [0, 1]")

    @classmethod
    def read(cls, text: str, option: str) -> "DraftChances":
        """Of one share or of several with commas between them. Raises: ConfigError: which names `option`."""
        try:
            return cls(tuple(float(part) for part in text.split(",")))
        except (ValueError, ConfigError) as error:
            raise ConfigError(
                f"{option} {text} must be a share in [0, 1], for example 0.7, or one for each place: 0.8,0.7,0.6"
            ) from error

    def at(self, place: int) -> float:
        """The first is 0."""
        return self.by_place[min(place, len(self.by_place) - 1)]

    def expected(self, num_drafts: int) -> float:
        """Of so many tokens drafted in a row, those that are right before the first wrong one."""
        total, all_right = 0.0, 1.0
        for place in range(num_drafts):
            all_right *= self.at(place)
            total += all_right
        return total
