"""The world words in Python, by componentize-py: an interpreter of its own, beside the runner."""

import wit_world


class WitWorld(wit_world.WitWorld):
    def shout(self, text: str) -> str:
        return text.upper()

    def total(self, numbers: list[int]) -> int:
        return sum(numbers)
