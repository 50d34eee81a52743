"""The one name that LeRobot looks up, for images stored in parquet."""


class ToTensor:
    """A stand-in for torchvision's ToTensor, which cannot be made."""

    def __init__(self) -> None:
        raise NotImplementedError("this benchmark loads video only: torchvision is a stand-in here")
