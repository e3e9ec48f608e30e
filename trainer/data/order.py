"""In which order sequences are drawn: a keyed permutation, at no cost in memory or time however
long the run. Sequences are shuffled, not only documents."""

import hashlib


def _round(value: int, key: bytes) -> int:
    digest = hashlib.blake2b(value.to_bytes(8, "little"), key=key, digest_size=8).digest()
    return int.from_bytes(digest, "little")


def shuffled_index(index: int, count: int, key: bytes) -> int:
    """Where `index` of range(count) goes under the permutation that `key` names.

    Four Feistel rounds on the smallest even-bit domain that holds `count`, walked until the
    result falls inside it (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for number in range(4):
            left, right = right, left ^ (_round(right, key + bytes([number])) & mask)
        index = left << half | right
        if index < count:
            return index


def sequence_at(position: int, count: int, seed: int | str) -> int:
    """Which of `count` sequences stands at `position` of the run's endless order: every epoch
    holds each sequence once, in an order of its own."""
    epoch, index = divmod(position, count)
    key = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=32).digest()
    return shuffled_index(index, count, key)
