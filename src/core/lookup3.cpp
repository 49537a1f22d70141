// See lookup3.h.
#include "core/lookup3.h"

#include <bit>
#include <cstring>

namespace vkv {
namespace {

static_assert(std::endian::native == std::endian::little, "words are read as they lie in memory");

constexpr size_t kBlock = 12;

struct Lookup3 {
    uint32_t a, b, c;

    void mix()
    {
        const auto step = [](uint32_t *x, uint32_t *y, uint32_t z, int bits) {
            *x = (*x - *y) ^ std::rotl(*y, bits);
            *y += z;
        };
        step(&a, &c, b, 4);
        step(&b, &a, c, 6);
        step(&c, &b, a, 8);
        step(&a, &c, b, 16);
        step(&b, &a, c, 19);
        step(&c, &b, a, 4);
    }

    void finish()
    {
        const auto step = [](uint32_t *x, uint32_t y, int bits) { *x = (*x ^ y) - std::rotl(y, bits); };
        step(&c, b, 14);
        step(&a, c, 11);
        step(&b, a, 25);
        step(&c, b, 16);
        step(&a, c, 4);
        step(&b, a, 14);
        step(&c, b, 24);
    }

    // The lowest byte of c is the length's in the last, short block.
    void add(const char *block, size_t n)
    {
        uint32_t words[3] = {};
        std::memcpy(words, block, n);
        a += words[0];
        b += words[1];
        c += n < kBlock ? words[2] << 8 : words[2];
    }
};

}  // namespace

uint64_t hash_in_pieces(const void *data, size_t n, uint64_t seed, Poll poll)
{
    const uint32_t start = 0x9e3779b9 + static_cast<uint32_t>(n) + 3923095;
    Lookup3 h{start, start, start};
    if (seed != 0) {
        h.a += static_cast<uint32_t>(seed >> 32);
        h.b += static_cast<uint32_t>(seed);
        h.mix();
    }
    const auto *bytes = static_cast<const char *>(data);
    by_pieces(n / kBlock, piece_of(kBlock), poll, [&](size_t first, size_t blocks) {
        for (size_t i = first; i < first + blocks; ++i) {
            h.add(bytes + i * kBlock, kBlock);
            h.mix();
        }
    });
    h.add(bytes + n / kBlock * kBlock, n % kBlock);
    h.finish();
    return static_cast<uint64_t>(h.b) << 32 | h.c;
}

}  // namespace vkv
