# nutproxy/hashkit/hashes.py: key -> 32 bits
"""The hash functions that a pool can name, each with the quirks of twemproxy's copy.

    key bytes ──> hash_t ──> uint32 ──> Ring.dispatch ──> server index

All take a pointer and a length and return 32 unsigned bits. Where twemproxy departs from the
published algorithm, this module departs in the same way, because a key that hashes differently is
no longer found:

- one_at_a_time and the four FNV hashes read a key as *signed* bytes, as x86-64 does with a plain
  `char`: 0xff is added as 0xffffffff. hsieh does so only for the last byte of a three-byte tail.
  Here that holds on every platform, even where `char` is unsigned.
- crc16 is never truncated to 16 bits; crc32 is truncated to 15.
- fnv1_64 and fnv1a_64 return the low half. The 64-bit prime is 2^40 + 0x1b3, and nothing above bit
  31 ever reaches the low half, so both are computed in 32 bits.

The functions hash an empty key by their own rules; the router gives an empty key hash 0. Words are
assembled from bytes, so neither alignment nor byte order matters.

No function except murmur3 touches a Python object.
"""

import math

import cython
import mmh3
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.libc.string import memcpy, memset

HASHES: dict[str, str] = {}
"""Every accepted name with its help text."""


def hash_by_name(name):
    for row, accepted in enumerate(HASHES):
        if accepted == name:
            return FUNCTIONS[row]
    raise ValueError(f"unknown hash {name!r}, accepted are: {', '.join(HASHES)}")


def hash_four_by_name(name):
    """The function that hashes four keys at once, or NULL if that would not be faster.

    FNV is a chain of multiplications, each of which waits for the previous one. With four chains
    side by side the processor always has one to work on."""
    if name == "fnv1a_64":
        return hash_four_fnv1a_64
    return cython.NULL


def hash_value(name: str, key: bytes) -> int:
    """The unsigned 32-bit hash of `key` by the function `name`; ValueError for an unknown name."""
    return hash_by_name(name)(key, len(key))


# ---- shared parts ---------------------------------------------------------------------------


def rotate_left(word, bits):
    return (word << bits) | (word >> (32 - bits))


def signed_byte(byte):
    return cython.cast(uint32_t, cython.cast(cython.schar, byte))


def little_endian_16(at):
    return cython.cast(uint32_t, at[0]) | (cython.cast(uint32_t, at[1]) << 8)


def little_endian_32(at):
    return little_endian_16(at) | (little_endian_16(at + 2) << 16)


def little_endian_tail(at, length):
    """The word of at most four bytes, zero where `length` ends it early."""
    word: uint32_t = 0
    i: cython.size_t
    for i in range(length if length < 4 else 4):
        word |= cython.cast(uint32_t, at[i]) << (8 * i)
    return word


# ---- one_at_a_time (Bob Jenkins, 1997) ------------------------------------------------------


def hash_one_at_a_time(key, length):
    h: uint32_t = 0
    i: cython.size_t
    for i in range(length):
        h += signed_byte(key[i])
        h += h << 10
        h ^= h >> 6
    h += h << 3
    h ^= h >> 11
    h += h << 15
    return h


# ---- FNV (Fowler, Noll, Vo) -----------------------------------------------------------------

FNV_64_BASIS = cython.declare(uint32_t, 0x84222325)  # the low half of the 64-bit offset basis
FNV_32_BASIS = cython.declare(uint32_t, 0x811C9DC5)
FNV_32_PRIME = cython.declare(uint32_t, 0x01000193)


def hash_fnv1_64(key, length):
    h: uint32_t = FNV_64_BASIS
    i: cython.size_t
    for i in range(length):
        h *= FNV_64_PRIME
        h ^= signed_byte(key[i])
    return h


def hash_fnv1a_64(key, length):
    h: uint32_t = FNV_64_BASIS
    i: cython.size_t
    for i in range(length):
        h = (h ^ signed_byte(key[i])) * FNV_64_PRIME
    return h


def hash_four_fnv1a_64(keys, lengths, hashes):
    common: cython.size_t = lengths[0]
    i: cython.size_t
    n: cython.int
    h0: uint32_t = FNV_64_BASIS
    h1: uint32_t = FNV_64_BASIS
    h2: uint32_t = FNV_64_BASIS
    h3: uint32_t = FNV_64_BASIS
    for n in range(1, 4):
        if lengths[n] < common:
            common = lengths[n]
    for i in range(common):
        h0 = (h0 ^ signed_byte(keys[0][i])) * FNV_64_PRIME
        h1 = (h1 ^ signed_byte(keys[1][i])) * FNV_64_PRIME
        h2 = (h2 ^ signed_byte(keys[2][i])) * FNV_64_PRIME
        h3 = (h3 ^ signed_byte(keys[3][i])) * FNV_64_PRIME
    hashes[0] = h0
    hashes[1] = h1
    hashes[2] = h2
    hashes[3] = h3
    for n in range(4):
        for i in range(common, lengths[n]):
            hashes[n] = (hashes[n] ^ signed_byte(keys[n][i])) * FNV_64_PRIME


def hash_fnv1_32(key, length):
    h: uint32_t = FNV_32_BASIS
    i: cython.size_t
    for i in range(length):
        h *= FNV_32_PRIME
        h ^= signed_byte(key[i])
    return h


def hash_fnv1a_32(key, length):
    h: uint32_t = FNV_32_BASIS
    i: cython.size_t
    for i in range(length):
        h ^= signed_byte(key[i])
        h *= FNV_32_PRIME
    return h


# ---- CRC ------------------------------------------------------------------------------------

CRC16_TABLE = cython.declare(uint32_t[256])
CRC32_TABLE = cython.declare(uint32_t[256])
CRC16_POLYNOMIAL = cython.declare(uint32_t, 0x1021)
CRC32_POLYNOMIAL = cython.declare(uint32_t, 0xEDB88320)


def fill_crc_tables():
    """CRC-16/XMODEM (most significant bit first) and CRC-32 (reflected), from their polynomials."""
    byte: uint32_t
    crc16: uint32_t
    crc32: uint32_t
    for byte in range(256):
        crc16 = byte << 8
        crc32 = byte
        for _ in range(8):
            crc16 = (crc16 << 1) ^ (CRC16_POLYNOMIAL if crc16 & 0x8000 else 0)
            crc32 = (crc32 >> 1) ^ (CRC32_POLYNOMIAL if crc32 & 1 else 0)
        CRC16_TABLE[byte] = crc16 & 0xFFFF
        CRC32_TABLE[byte] = crc32


fill_crc_tables()


def hash_crc16(key, length):
    h: uint32_t = 0
    i: cython.size_t
    for i in range(length):
        # Bits above the sixteenth are kept and shifted on.
        h = (h << 8) ^ CRC16_TABLE[((h >> 8) ^ key[i]) & 0xFF]
    return h


def hash_crc32a(key, length):
    h: uint32_t = 0xFFFFFFFF
    i: cython.size_t
    for i in range(length):
        h = (h >> 8) ^ CRC32_TABLE[(h ^ key[i]) & 0xFF]
    return ~h


def hash_crc32(key, length):
    # libmemcached's form. With ketama it is a trap: all values lie below the ring's first points.
    return (hash_crc32a(key, length) >> 16) & 0x7FFF


# ---- hsieh (SuperFastHash, Paul Hsieh) ------------------------------------------------------


def hash_hsieh(key, length):
    h: uint32_t = 0
    i: cython.size_t = 0
    while length - i >= 4:
        h += little_endian_16(key + i)
        h = (h << 16) ^ (little_endian_16(key + i + 2) << 11) ^ h
        h += h >> 11
        i += 4
    if length - i == 3:
        h += little_endian_16(key + i)
        h ^= h << 16
        h ^= signed_byte(key[i + 2]) << 18
        h += h >> 11
    elif length - i == 2:
        h += little_endian_16(key + i)
        h ^= h << 11
        h += h >> 17
    elif length - i == 1:
        h += key[i]
        h ^= h << 10
        h += h >> 1
    h ^= h << 3
    h += h >> 5
    h ^= h << 4
    h += h >> 17
    h ^= h << 25
    h += h >> 6
    return h


# ---- murmur (MurmurHash2, Austin Appleby) ---------------------------------------------------

MURMUR_MULTIPLIER = cython.declare(uint32_t, 0x5BD1E995)


def hash_murmur(key, length):
    size: uint32_t = length
    # The seed depends on the length, which is libmemcached's invention.
    h: uint32_t = (cython.cast(uint32_t, 0xDEADBEEF) * size) ^ size
    k: uint32_t
    i: cython.size_t = 0
    while length - i >= 4:
        k = little_endian_32(key + i) * MURMUR_MULTIPLIER
        k ^= k >> 24
        h = (h * MURMUR_MULTIPLIER) ^ (k * MURMUR_MULTIPLIER)
        i += 4
    if i < length:
        h = (h ^ little_endian_tail(key + i, length - i)) * MURMUR_MULTIPLIER
    h ^= h >> 13
    h *= MURMUR_MULTIPLIER
    h ^= h >> 15
    return h


# ---- jenkins (lookup3, Bob Jenkins, 2006) ---------------------------------------------------


def hash_jenkins(key, length):
    a: uint32_t = cython.cast(uint32_t, 0xDEADBEEF) + cython.cast(uint32_t, length)
    a += 13  # twemproxy's initial value
    b: uint32_t = a
    c: uint32_t = a
    if length == 0:
        return c
    # The last block, full or not, gets the final mix instead of this one.
    while length > 12:
        a += little_endian_32(key)
        b += little_endian_32(key + 4)
        c += little_endian_32(key + 8)
        a = (a - c) ^ rotate_left(c, 4)
        c += b
        b = (b - a) ^ rotate_left(a, 6)
        a += c
        c = (c - b) ^ rotate_left(b, 8)
        b += a
        a = (a - c) ^ rotate_left(c, 16)
        c += b
        b = (b - a) ^ rotate_left(a, 19)
        a += c
        c = (c - b) ^ rotate_left(b, 4)
        b += a
        key += 12
        length -= 12
    a += little_endian_tail(key, length)
    if length > 4:
        b += little_endian_tail(key + 4, length - 4)
    if length > 8:
        c += little_endian_tail(key + 8, length - 8)
    c = (c ^ b) - rotate_left(b, 14)
    a = (a ^ c) - rotate_left(c, 11)
    b = (b ^ a) - rotate_left(a, 25)
    c = (c ^ b) - rotate_left(b, 16)
    a = (a ^ c) - rotate_left(c, 4)
    b = (b ^ a) - rotate_left(a, 14)
    return (c ^ b) - rotate_left(b, 24)


# ---- md5 (RFC 1321) -------------------------------------------------------------------------

MD5_SINES = cython.declare(uint32_t[64])


def fill_md5_sines():
    """The RFC's own formula; every value is far enough from an integer for any libm to agree."""
    i: cython.int
    for i in range(64):
        MD5_SINES[i] = int(abs(math.sin(i + 1)) * 4294967296)


fill_md5_sines()


def md5_block(words, block):
    """Mixes one block of 64 bytes into the four words."""
    a: uint32_t = words[0]
    b: uint32_t = words[1]
    c: uint32_t = words[2]
    d: uint32_t = words[3]
    x = cython.declare(uint32_t[16])
    k: cython.pointer(uint32_t) = MD5_SINES
    i: cython.int
    for i in range(16):
        x[i] = little_endian_32(block + 4 * i)
    for i in range(0, 16, 4):
        a = b + rotate_left(a + (d ^ (b & (c ^ d))) + x[i] + k[i], 7)
        d = a + rotate_left(d + (c ^ (a & (b ^ c))) + x[i + 1] + k[i + 1], 12)
        c = d + rotate_left(c + (b ^ (d & (a ^ b))) + x[i + 2] + k[i + 2], 17)
        b = c + rotate_left(b + (a ^ (c & (d ^ a))) + x[i + 3] + k[i + 3], 22)
    for i in range(16, 32, 4):
        a = b + rotate_left(a + (c ^ (d & (b ^ c))) + x[(5 * i + 1) & 15] + k[i], 5)
        d = a + rotate_left(d + (b ^ (c & (a ^ b))) + x[(5 * i + 6) & 15] + k[i + 1], 9)
        c = d + rotate_left(c + (a ^ (b & (d ^ a))) + x[(5 * i + 11) & 15] + k[i + 2], 14)
        b = c + rotate_left(b + (d ^ (a & (c ^ d))) + x[(5 * i) & 15] + k[i + 3], 20)
    for i in range(32, 48, 4):
        a = b + rotate_left(a + (b ^ c ^ d) + x[(3 * i + 5) & 15] + k[i], 4)
        d = a + rotate_left(d + (a ^ b ^ c) + x[(3 * i + 8) & 15] + k[i + 1], 11)
        c = d + rotate_left(c + (d ^ a ^ b) + x[(3 * i + 11) & 15] + k[i + 2], 16)
        b = c + rotate_left(b + (c ^ d ^ a) + x[(3 * i + 14) & 15] + k[i + 3], 23)
    for i in range(48, 64, 4):
        a = b + rotate_left(a + (c ^ (b | ~d)) + x[(7 * i) & 15] + k[i], 6)
        d = a + rotate_left(d + (b ^ (a | ~c)) + x[(7 * i + 7) & 15] + k[i + 1], 10)
        c = d + rotate_left(c + (a ^ (d | ~b)) + x[(7 * i + 14) & 15] + k[i + 2], 15)
        b = c + rotate_left(b + (d ^ (c | ~a)) + x[(7 * i + 5) & 15] + k[i + 3], 21)
    words[0] += a
    words[1] += b
    words[2] += c
    words[3] += d


def md5(data, length, words):
    tail = cython.declare(cython.uchar[128])
    done: cython.size_t = 0
    rest: cython.size_t = length & 63
    padded: cython.size_t = 64 if rest < 56 else 128  # 0x80 and the 64-bit length follow the data
    i: cython.size_t
    words[0] = 0x67452301
    words[1] = 0xEFCDAB89
    words[2] = 0x98BADCFE
    words[3] = 0x10325476
    while length - done >= 64:
        md5_block(words, data + done)
        done += 64
    memset(tail, 0, 128)
    memcpy(tail, data + done, rest)
    tail[rest] = 0x80
    for i in range(8):
        tail[padded - 8 + i] = cython.cast(cython.uchar, (length << 3) >> (8 * i))
    md5_block(words, tail)
    if padded == 128:
        md5_block(words, cython.address(tail[64]))


def hash_md5(key, length):
    words = cython.declare(uint32_t[4])
    md5(key, length, words)
    return words[0]


# ---- murmur3 (MurmurHash3_x86_32) -----------------------------------------------------------


def hash_murmur3(key, length):
    # Python clients that shard by this hash use the mmh3 package, so it is called here too. This
    # hash therefore costs a Python call per key.
    return mmh3.hash(key[:length], 0, False)


# ---- the table ------------------------------------------------------------------------------


def row(name, function, text):
    FUNCTIONS[len(HASHES)] = function
    HASHES[name] = text


row("one_at_a_time", hash_one_at_a_time, "Bob Jenkins' one-at-a-time")
row("md5", hash_md5, "the first four bytes of MD5; about ten times the cost of the others")
row("crc16", hash_crc16, "CRC-16/XMODEM, not cut to 16 bits")
row("crc32", hash_crc32, "15 bits of CRC-32, as libmemcached; useless with ketama, see crc32a")
row("crc32a", hash_crc32a, "CRC-32 as in zlib")
row("fnv1_64", hash_fnv1_64, "FNV-1, low half of 64 bits")
row("fnv1a_64", hash_fnv1a_64, "FNV-1a, low half of 64 bits; twemproxy's default")
row("fnv1_32", hash_fnv1_32, "FNV-1, 32 bits")
row("fnv1a_32", hash_fnv1a_32, "FNV-1a, 32 bits")
row("hsieh", hash_hsieh, "Paul Hsieh's SuperFastHash")
row("murmur", hash_murmur, "MurmurHash2, seeded with the key's length")
row("jenkins", hash_jenkins, "Bob Jenkins' lookup3")
row("murmur3", hash_murmur3, "MurmurHash3, 32 bits, seed 0; not in twemproxy")
