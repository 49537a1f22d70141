// Element types of tensors and their conversions.
#include "core/kv/tensor.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/simd/half.h"
#include "core/simd/kernels.h"

namespace vkv::kv {
namespace {

constexpr size_t kChunk = 256;

float from_bf16(uint16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }

// Rounds to nearest, ties to even; a NaN becomes quiet.
uint16_t to_bf16(float value)
{
    const auto bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
    return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

template <class T>
T load_as(const void *data, size_t index)
{
    T value;
    std::memcpy(&value, static_cast<const char *>(data) + index * sizeof(T), sizeof(T));
    return value;
}

// Whether the element, given by the bits of its magnitude, has no finite half.
bool beyond_half(Dtype dtype, const void *in, size_t index)
{
    if (dtype == Dtype::f16) return (load_as<uint16_t>(in, index) & 0x7C00u) == 0x7C00u;
    const uint32_t bits =
        dtype == Dtype::f32 ? load_as<uint32_t>(in, index) : static_cast<uint32_t>(load_as<uint16_t>(in, index)) << 16;
    return (bits & 0x7FFFFFFFu) >= 0x477FF000u;  // 65520, the least that rounds to infinity; infinities and NaN are above
}

// Whether any of n elements has no finite half; without branches, so that it runs at the speed of memory.
bool any_beyond_half(Dtype dtype, const void *in, size_t first, size_t n)
{
    uint32_t found = 0;
    if (dtype == Dtype::f16)
        for (size_t i = 0; i < n; ++i) found |= beyond_half(Dtype::f16, in, first + i) ? 1u : 0u;
    else if (dtype == Dtype::f32)
        for (size_t i = 0; i < n; ++i) found |= beyond_half(Dtype::f32, in, first + i) ? 1u : 0u;
    else
        for (size_t i = 0; i < n; ++i) found |= beyond_half(Dtype::bf16, in, first + i) ? 1u : 0u;
    return found != 0;
}

std::string lower(const std::string &text)
{
    std::string result = text;
    for (char &c : result)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return result;
}

}  // namespace

const char *dtype_name(Dtype dtype)
{
    switch (dtype) {
        case Dtype::f32:
            return "f32";
        case Dtype::f16:
            return "f16";
        case Dtype::bf16:
            return "bf16";
    }
    return "unknown";
}

Dtype dtype_named(const std::string &name)
{
    const std::string known = lower(name);
    if (known == "f32" || known == "float32") return Dtype::f32;
    if (known == "f16" || known == "float16" || known == "half") return Dtype::f16;
    if (known == "bf16" || known == "bfloat16") return Dtype::bf16;
    throw Error(Errc::invalid_parameter, "unknown element type \"" + name + "\"", "Valid element types are f32, f16 and bf16.");
}

std::string shape_text(const TensorView &tensor)
{
    std::string text = "[";
    for (int i = 0; i < tensor.dims; ++i) text += (i ? ", " : "") + std::to_string(tensor.shape[i]);
    return text + "]";
}

void to_f32(Dtype dtype, const void *in, float *out, size_t n)
{
    if (n == 0) return;
    if (dtype == Dtype::f32)
        std::memcpy(out, in, n * sizeof(float));
    else if (dtype == Dtype::f16)
        simd::kernels().f16_to_f32(static_cast<const uint16_t *>(in), out, n);
    else
        for (size_t i = 0; i < n; ++i) out[i] = from_bf16(load_as<uint16_t>(in, i));
}

void to_f16(Dtype dtype, const void *in, uint16_t *out, size_t n)
{
    if (n == 0) return;
    if (dtype == Dtype::f16) {
        std::memcpy(out, in, n * sizeof(uint16_t));
        return;
    }
    if (dtype == Dtype::f32) {
        simd::kernels().f32_to_f16(static_cast<const float *>(in), out, n);
        return;
    }
    float wide[kChunk];
    for (size_t done = 0; done < n; done += kChunk) {
        const size_t count = std::min(kChunk, n - done);
        to_f32(dtype, static_cast<const char *>(in) + done * sizeof(uint16_t), wide, count);
        simd::kernels().f32_to_f16(wide, out + done, count);
    }
}

size_t first_not_finite_f16(Dtype dtype, const void *in, size_t n)
{
    for (size_t done = 0; done < n; done += kChunk) {
        const size_t count = std::min(kChunk, n - done);
        if (!any_beyond_half(dtype, in, done, count)) continue;
        while (!beyond_half(dtype, in, done)) ++done;
        return done;
    }
    return n;
}

size_t inexact_bf16(const void *in, size_t n)
{
    // A value is (128 + fraction) * 2^(exponent - 134), the step of the smallest halves 2^-24.
    constexpr int kExact = 110;
    size_t inexact = 0;
    for (size_t i = 0; i < n; ++i) {
        uint16_t bits;
        std::memcpy(&bits, static_cast<const char *>(in) + i * sizeof bits, sizeof bits);
        const int exponent = (bits >> 7) & 0xff;
        if (exponent >= kExact || (bits & 0x7fff) == 0) continue;
        const int dropped = kExact - exponent, significand = 128 + (bits & 0x7f);
        if (exponent == 0 || dropped > 7 || (significand & ((1 << dropped) - 1)) != 0) ++inexact;
    }
    return inexact;
}

void from_f32(Dtype dtype, const float *in, void *out, size_t n)
{
    if (n == 0) return;
    if (dtype == Dtype::f32)
        std::memcpy(out, in, n * sizeof(float));
    else if (dtype == Dtype::f16)
        simd::kernels().f32_to_f16(in, static_cast<uint16_t *>(out), n);
    else
        for (size_t i = 0; i < n; ++i) {
            const uint16_t value = to_bf16(in[i]);
            std::memcpy(static_cast<char *>(out) + i * sizeof value, &value, sizeof value);
        }
}

float element(Dtype dtype, const void *data, size_t index)
{
    if (dtype == Dtype::f32) return load_as<float>(data, index);
    const auto half = load_as<uint16_t>(data, index);
    return dtype == Dtype::f16 ? half_to_float(half) : from_bf16(half);
}

}  // namespace vkv::kv
