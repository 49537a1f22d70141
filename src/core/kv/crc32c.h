// CRC-32C (Castagnoli), as PostgreSQL, iSCSI and ext4 use it: by the processor's instruction where it has one, else by tables.
#pragma once
#include <cstddef>
#include <cstdint>

namespace vkv::kv {

// Continues a checksum: crc32c(crc32c(0, a), b) is that of a and b together. crc32c of "123456789" is 0xE3069283.
uint32_t crc32c(uint32_t crc, const void *data, size_t bytes);
uint32_t crc32c_by_tables(uint32_t crc, const void *data, size_t bytes);  // the same, for tests

}  // namespace vkv::kv
