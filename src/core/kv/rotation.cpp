// The rotation of one vector; encode_body.inl does the same for many at once, in the same order of operations.
#include "core/kv/rotation.h"

#include <bit>
#include <cmath>

namespace vkv::kv {
namespace {

using Signs = std::array<std::array<uint32_t, kMaxHeadDim>, 2>;

constexpr Signs make_signs()
{
    Signs signs{};
    uint64_t state = kSignSeed;
    for (auto &set : signs)
        for (int base = 0; base < kMaxHeadDim; base += 64) {
            state += 0x9E3779B97F4A7C15;  // SplitMix64
            uint64_t z = state;
            z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
            z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
            z ^= z >> 31;
            for (int i = 0; i < 64; ++i) set[static_cast<size_t>(base + i)] = (z >> i & 1) ? 0x80000000u : 0;
        }
    return signs;
}

constinit const Signs kSigns = make_signs();

void flip(float *x, int dim, const uint32_t *signs)
{
    for (int d = 0; d < dim; ++d) x[d] = std::bit_cast<float>(std::bit_cast<uint32_t>(x[d]) ^ signs[d]);
}

// Its own inverse.
void hadamard(float *x, int p)
{
    for (int half = 1; half < p; half *= 2)
        for (int base = 0; base < p; base += 2 * half)
            for (int i = base; i < base + half; ++i) {
                const float a = x[i], b = x[i + half];
                x[i] = a + b;
                x[i + half] = a - b;
            }
    const float scale = 1 / std::sqrt(static_cast<float>(p));
    for (int i = 0; i < p; ++i) x[i] *= scale;
}

}  // namespace

const uint32_t *rotation_signs(int set) { return kSigns[static_cast<size_t>(set)].data(); }

void rotate(float *x, int dim)
{
    const int p = hadamard_size(dim);
    flip(x, dim, rotation_signs(0));
    hadamard(x, p);
    if (p == dim) return;
    flip(x, dim, rotation_signs(1));
    hadamard(x + dim - p, p);
}

void rotate_back(float *x, int dim)
{
    const int p = hadamard_size(dim);
    if (p != dim) {
        hadamard(x + dim - p, p);
        flip(x, dim, rotation_signs(1));
    }
    hadamard(x, p);
    flip(x, dim, rotation_signs(0));
}

}  // namespace vkv::kv
