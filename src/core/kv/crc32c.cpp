// CRC-32C in two ways that give the same: eight bytes an instruction (SSE 4.2), or eight tables of 256 words.
#include "core/kv/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace vkv::kv {
namespace {

using Tables = std::array<std::array<uint32_t, 256>, 8>;

// tables[k][b]: what byte b adds when k bytes follow it.
constexpr Tables make_tables()
{
    constexpr uint32_t kPolynomial = 0x82F63B78;  // reflected
    Tables tables{};
    for (uint32_t b = 0; b < 256; ++b) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? kPolynomial : 0);
        tables[0][b] = crc;
    }
    for (size_t k = 1; k < 8; ++k)
        for (uint32_t b = 0; b < 256; ++b) tables[k][b] = (tables[k - 1][b] >> 8) ^ tables[0][tables[k - 1][b] & 0xFF];
    return tables;
}

constinit const Tables kTables = make_tables();

uint64_t load64(const uint8_t *p)
{
    uint64_t value;
    std::memcpy(&value, p, sizeof value);
    return value;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t crc32c_by_instruction(uint32_t crc, const uint8_t *p, size_t bytes)
{
    uint64_t sum = ~crc;
    for (; bytes >= 8; p += 8, bytes -= 8) sum = _mm_crc32_u64(sum, load64(p));
    auto rest = static_cast<uint32_t>(sum);
    for (; bytes; ++p, --bytes) rest = _mm_crc32_u8(rest, *p);
    return ~rest;
}
#endif

}  // namespace

uint32_t crc32c_by_tables(uint32_t crc, const void *data, size_t bytes)
{
    const auto *p = static_cast<const uint8_t *>(data);
    crc = ~crc;
    for (; bytes >= 8; p += 8, bytes -= 8) {
        const uint64_t word = load64(p) ^ crc;
        crc = 0;
        for (int k = 0; k < 8; ++k) crc ^= kTables[static_cast<size_t>(7 - k)][(word >> (8 * k)) & 0xFF];
    }
    for (; bytes; ++p, --bytes) crc = (crc >> 8) ^ kTables[0][(crc ^ *p) & 0xFF];
    return ~crc;
}

uint32_t crc32c(uint32_t crc, const void *data, size_t bytes)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) return crc32c_by_instruction(crc, static_cast<const uint8_t *>(data), bytes);
#endif
    return crc32c_by_tables(crc, data, bytes);
}

}  // namespace vkv::kv
