// The encoder without assumptions about the processor: what all others must equal.
#include "core/kv/encode.h"
#include "core/simd/half.h"

namespace vkv::kv {
namespace {

inline float load_half(uint16_t half) { return half_to_float(half); }
inline uint16_t store_half(float value) { return float_to_half(value); }
constexpr int kVector = 4;

// Without branches: the bits of a half where those of a float have their place, times what is between their exponents.
inline void widen(const uint16_t *in, float *out)
{
    for (int i = 0; i < kLanes; ++i) {
        const uint32_t magnitude = static_cast<uint32_t>(in[i] & 0x7FFF) << 13, sign = static_cast<uint32_t>(in[i] & 0x8000) << 16;
        const uint32_t value = __builtin_bit_cast(uint32_t, __builtin_bit_cast(float, magnitude) * 0x1p112f) | sign;
        __builtin_memcpy(out + i, &value, sizeof value);
    }
}

#include "core/kv/encode_body.inl"

}  // namespace

extern constinit const PlaneEncoder kScalarEncoder = {encode_plane, measure_plane};

}  // namespace vkv::kv
