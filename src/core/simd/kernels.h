// Distance and quantization kernels: one table, filled by one file per instruction set, chosen once at run time
// (cpuid and the register state the system saves). Scalar is the truth that every other level is tested against.
//
// Integer kernels and the sums of a cosine (cosine.h) are bit-equal on every level; float kernels agree to 1e-6 relative (sums are
// reassociated).
// No pointer needs alignment. n may be 0.
#pragma once
#include <cstddef>
#include <cstdint>

namespace vkv::simd {

enum class Level : int { scalar = 0, neon = 1, avx2 = 2, avx512 = 3 };

struct CosineParts {
    double dot, norm_a, norm_b;  // <a,b>, <a,a>, <b,b>
};

struct Kernels {
    // float
    float (*l2_f32)(const float *a, const float *b, size_t n);  // squared
    float (*ip_f32)(const float *a, const float *b, size_t n);
    float (*l1_f32)(const float *a, const float *b, size_t n);
    CosineParts (*cosine_f32)(const float *a, const float *b, size_t n);
    // IEEE half, stored as uint16_t; sums in float
    float (*l2_f16)(const uint16_t *a, const uint16_t *b, size_t n);
    float (*ip_f16)(const uint16_t *a, const uint16_t *b, size_t n);
    float (*l1_f16)(const uint16_t *a, const uint16_t *b, size_t n);
    CosineParts (*cosine_f16)(const uint16_t *a, const uint16_t *b, size_t n);
    void (*f16_to_f32)(const uint16_t *in, float *out, size_t n);
    void (*f32_to_f16)(const float *in, uint16_t *out, size_t n);  // round to nearest even, overflow to infinity
    // bits, whole bytes (unused bits are zero)
    uint64_t (*hamming)(const uint8_t *a, const uint8_t *b, size_t bytes);
    void (*and_or_count)(const uint8_t *a, const uint8_t *b, size_t bytes, uint64_t *and_count, uint64_t *or_count);
    // codes. u8: one byte a value. u4: blocks of 32 values in 16 bytes, value i of a block in the low nibble of byte i for
    // i < 16 and in the high nibble of byte i - 16 otherwise; the last block is padded with zero codes.
    // |q| <= 4095, so that int32 partial sums hold for 16,000 values.
    int64_t (*dot_u8_s16)(const uint8_t *codes, const int16_t *q, size_t n);
    int64_t (*dot_u4_s16)(const uint8_t *codes, const int16_t *q, size_t n);  // n = values; q padded with zeros to 32
    int64_t (*dot_u8_u8)(const uint8_t *a, const uint8_t *b, size_t n);
    int64_t (*dot_u4_u4)(const uint8_t *a, const uint8_t *b, size_t n);
    // encoding
    void (*min_max)(const float *x, size_t n, float *min, float *max);
    // codes[i] = clamp(round_half_even((x[i] - bias) * inverse_step), 0, levels)
    void (*quantize_u8)(const float *x, size_t n, float bias, float inverse_step, int levels, uint8_t *codes);
};

const char *level_name(Level level);
bool supported(Level level);  // by this processor and this build
Level best_level();           // the highest that is supported
Level active_level();
void set_level(Level level);          // throws Error(not_supported) if it is not; not thread-safe
const Kernels &kernels(Level level);  // of one level, for tests
const Kernels &kernels();             // the active table

}  // namespace vkv::simd
