# The hash functions of twemproxy, and murmur3; see hashes.py.

from libc.stdint cimport uint32_t

# 0xFFFFFFFF is also a valid hash, so the caller checks for an exception when it is returned. Only
# murmur3 can raise one.
ctypedef uint32_t (*hash_t)(const unsigned char* key, size_t length) except? 0xFFFFFFFF

cdef enum:
    FNV_64_PRIME = 0x1B3     # the low half of the 64-bit prime

# The hashes of four keys.
ctypedef void (*hash_four_t)(const unsigned char** keys, const size_t* lengths,
                             uint32_t* hashes) noexcept

# The function of a name in HASHES. Raises ValueError for any other name.
cdef hash_t hash_by_name(str name) except NULL
cdef hash_four_t hash_four_by_name(str name) noexcept

# MD5 as the four words whose little-endian bytes are the digest.
cdef void md5(const unsigned char* data, size_t length, uint32_t* words) noexcept

cdef uint32_t hash_one_at_a_time(const unsigned char* key, size_t length) noexcept
cdef uint32_t hash_md5(const unsigned char* key, size_t length) noexcept
cdef uint32_t hash_crc16(const unsigned char* key, size_t length) noexcept
cdef uint32_t hash_crc32(const unsigned char* key, size_t length) noexcept
cdef uint32_t hash_crc32a(const unsigned char* key, size_t length) noexcept
cdef uint32_t hash_fnv1_64(const unsigned char* key, size_t length) noexcept
cdef uint32_t hash_fnv1a_64(const unsigned char* key, size_t length) noexcept
cdef uint32_t hash_fnv1_32(const unsigned char* key, size_t length) noexcept
cdef uint32_t hash_fnv1a_32(const unsigned char* key, size_t length) noexcept
cdef uint32_t hash_hsieh(const unsigned char* key, size_t length) noexcept
cdef uint32_t hash_murmur(const unsigned char* key, size_t length) noexcept
cdef uint32_t hash_jenkins(const unsigned char* key, size_t length) noexcept
cdef uint32_t hash_murmur3(const unsigned char* key, size_t length) except? 0xFFFFFFFF

# The parts that several of them share.
cdef void hash_four_fnv1a_64(const unsigned char** keys, const size_t* lengths,
                             uint32_t* hashes) noexcept

cdef uint32_t rotate_left(uint32_t word, int bits) noexcept
cdef uint32_t signed_byte(unsigned char byte) noexcept
cdef uint32_t little_endian_16(const unsigned char* at) noexcept
cdef uint32_t little_endian_32(const unsigned char* at) noexcept
cdef uint32_t little_endian_tail(const unsigned char* at, size_t length) noexcept
cdef void md5_block(uint32_t* words, const unsigned char* block) noexcept

cdef hash_t[13] FUNCTIONS    # in the order of HASHES

cdef void row(str name, hash_t function, str text) except *
cdef void fill_crc_tables() noexcept
cdef void fill_md5_sines() except *
