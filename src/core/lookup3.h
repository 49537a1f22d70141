// PostgreSQL's hash of bytes (hash_bytes_extended: Bob Jenkins's lookup3, in the public domain), bit for bit, in pieces: indexes
// and partitions hold such hashes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/poll.h"

namespace vkv {

uint64_t hash_in_pieces(const void *data, size_t n, uint64_t seed, Poll poll);

}  // namespace vkv
