// The encoder for AVX-512 F, BW, VL and DQ. No header with inline functions of external linkage is included: the linker could keep
// the copy that was compiled here for everyone.
#include <immintrin.h>

#include "core/kv/encode.h"

namespace vkv::kv {
namespace {

inline float load_half(uint16_t half) { return _cvtsh_ss(half); }
inline uint16_t store_half(float value) { return static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT)); }
constexpr int kVector = 16;

inline void widen(const uint16_t *in, float *out)
{
    _mm512_storeu_ps(out, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(in))));
}

#include "core/kv/encode_body.inl"

}  // namespace

extern constinit const PlaneEncoder kAvx512Encoder = {encode_plane, measure_plane};

}  // namespace vkv::kv
