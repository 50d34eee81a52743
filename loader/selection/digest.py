"""A hash of what was chosen: states and statistics are of one selection, and know it by that."""

import hashlib

from roboshard.loader.order.episodes import Episodes


def selection_digest(episodes: Episodes) -> str:
    """Return a hash of which frames are samples, and how often they come."""
    digest = hashlib.sha256()
    arrays = [episodes.position, episodes.first_row, episodes.num_rows]
    if episodes.kept is not None:
        arrays += [episodes.kept.first_row, episodes.kept.start]
    if episodes.repeats is not None:
        repeats = episodes.repeats
        arrays += [repeats.numerator, repeats.denominator, repeats.phase]
    for array in arrays:
        digest.update(array.astype("<i8").tobytes())
    return digest.hexdigest()
