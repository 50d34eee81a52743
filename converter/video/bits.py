"""The first bits of a packet."""


class Bits:
    """Read bits one after the other, the highest of a byte first.

    Raises IndexError after the last.
    """

    def __init__(self, packet: memoryview, num_bytes: int = 32) -> None:
        """Read the first `num_bytes` of a packet, or fewer if it is shorter."""
        self._left = 8 * min(len(packet), num_bytes)
        self._value = int.from_bytes(packet[:num_bytes], "big")

    def read(self, count: int) -> int:
        """Return the next `count` bits as a number."""
        self._left -= count
        if self._left < 0:
            raise IndexError("it ends before that")
        return self._value >> self._left & (1 << count) - 1
