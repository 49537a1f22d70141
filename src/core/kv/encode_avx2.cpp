// The encoder for AVX2, FMA and F16C. No header with inline functions of external linkage is included: the linker could keep
// the copy that was compiled here for everyone.
#include <immintrin.h>

#include "core/kv/encode.h"

namespace vkv::kv {
namespace {

inline float load_half(uint16_t half) { return _cvtsh_ss(half); }
inline uint16_t store_half(float value) { return static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT)); }
constexpr int kVector = 8;

inline void widen(const uint16_t *in, float *out)
{
    _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(in))));
    _mm256_storeu_ps(out + 8, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(in + 8))));
}

#include "core/kv/encode_body.inl"

}  // namespace

extern constinit const PlaneEncoder kAvx2Encoder = {encode_plane, measure_plane};

}  // namespace vkv::kv
