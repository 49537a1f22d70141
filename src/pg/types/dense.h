// What vector and halfvec have in common, written once: a traits type per SQL type and the SQL functions' bodies as templates.
//
// The traits say how elements are stored, converted and compared; kernels do the distances. Frames here hold trivial locals only,
// so PostgreSQL is called bare; our own errors are thrown as Error.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/error.h"
#include "core/nearest/distance.h"
#include "core/simd/half.h"
#include "core/simd/kernels.h"
#include "core/text/limits.h"
#include "core/text/parse.h"
#include "core/text/wire.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/types/types.h"

namespace vkv {

struct VectorTraits {
    using Struct = Vector;
    using Element = float;
    static constexpr const char *kName = kVectorName;
    static Vector *make(int dim) { return make_vector(dim); }
    static float widen(float x) { return x; }
    static float narrow(float x) { return x; }  // to the nearest element; an overflow gives infinity
    static int parse(const char *text, float *out) { return parse_vector(text, out, look_for_interrupts); }
    static size_t size(int dim) { return vector_size(dim); }
    static void decode(Bytes payload, float *out) { decode_floats(payload, out); }
    static void encode(std::span<const float> values, uint8_t *out) { encode_vector(values, out); }
    static float l2(const float *a, const float *b, size_t n) { return simd::kernels().l2_f32(a, b, n); }
    static float ip(const float *a, const float *b, size_t n) { return nearest::inner_product(a, b, n); }
    static float l1(const float *a, const float *b, size_t n) { return simd::kernels().l1_f32(a, b, n); }
    static simd::CosineParts cosine(const float *a, const float *b, size_t n) { return simd::kernels().cosine_f32(a, b, n); }
};

struct HalfvecTraits {
    using Struct = HalfVec;
    using Element = uint16_t;
    static constexpr const char *kName = kHalfvecName;
    static HalfVec *make(int dim) { return make_halfvec(dim); }
    static float widen(uint16_t x) { return half_to_float(x); }
    static uint16_t narrow(float x) { return float_to_half(x); }
    static int parse(const char *text, uint16_t *out) { return parse_halfvec(text, out, look_for_interrupts); }
    static size_t size(int dim) { return halfvec_size(dim); }
    static void decode(Bytes payload, uint16_t *out) { decode_halves(payload, out); }
    static void encode(std::span<const uint16_t> values, uint8_t *out) { encode_halfvec(values, out); }
    static float l2(const uint16_t *a, const uint16_t *b, size_t n) { return simd::kernels().l2_f16(a, b, n); }
    static float ip(const uint16_t *a, const uint16_t *b, size_t n) { return simd::kernels().ip_f16(a, b, n); }
    static float l1(const uint16_t *a, const uint16_t *b, size_t n) { return simd::kernels().l1_f16(a, b, n); }
    static simd::CosineParts cosine(const uint16_t *a, const uint16_t *b, size_t n) { return simd::kernels().cosine_f16(a, b, n); }
};

// Argument i, detoasted.
template <typename T>
T *argument(FunctionCallInfo fcinfo, int i)
{
    return reinterpret_cast<T *>(PG_DETOAST_DATUM(PG_GETARG_DATUM(i)));
}

// A float as it is stored in the type; refuses what the type cannot hold.
float check_halfvec_range(float value);  // value, unless it rounds to an infinite half

template <typename Traits>
typename Traits::Element to_element(float value)
{
    if constexpr (std::is_same_v<Traits, HalfvecTraits>) check_halfvec_range(value);
    check_finite(value, Traits::kName);
    return Traits::narrow(value);
}

// Two arguments of the same number of dimensions.
template <typename Traits>
struct Pair {
    explicit Pair(FunctionCallInfo fcinfo)
        : a(argument<typename Traits::Struct>(fcinfo, 0)), b(argument<typename Traits::Struct>(fcinfo, 1))
    {
        check_same_dim(a->dim, b->dim, Traits::kName);
    }
    size_t dim() const { return static_cast<size_t>(a->dim); }
    const typename Traits::Struct *a, *b;
};

template <typename Traits>
double dense_l2_squared(FunctionCallInfo fcinfo)
{
    Pair<Traits> p(fcinfo);
    return static_cast<double>(Traits::l2(p.a->values(), p.b->values(), p.dim()));
}

template <typename Traits>
double dense_inner_product(FunctionCallInfo fcinfo)
{
    Pair<Traits> p(fcinfo);
    return static_cast<double>(Traits::ip(p.a->values(), p.b->values(), p.dim()));
}

template <typename Traits>
double dense_l1(FunctionCallInfo fcinfo)
{
    Pair<Traits> p(fcinfo);
    return static_cast<double>(Traits::l1(p.a->values(), p.b->values(), p.dim()));
}

template <typename Traits>
double dense_cosine(FunctionCallInfo fcinfo)
{
    Pair<Traits> p(fcinfo);
    return nearest::cosine_distance(Traits::cosine(p.a->values(), p.b->values(), p.dim()));
}

// The angle between unit vectors in half turns.
template <typename Traits>
double dense_spherical(FunctionCallInfo fcinfo)
{
    return std::acos(nearest::clamp_similarity(dense_inner_product<Traits>(fcinfo))) / M_PI;
}

template <typename Traits>
double dense_norm(const typename Traits::Struct *v)
{
    double sum = 0;
    for (int i = 0; i < v->dim; ++i) {
        double x = static_cast<double>(Traits::widen(v->values()[i]));
        sum += x * x;
    }
    return std::sqrt(sum);
}

template <typename Traits>
Datum dense_normalize(FunctionCallInfo fcinfo)
{
    const auto *v = argument<typename Traits::Struct>(fcinfo, 0);
    auto *result = Traits::make(v->dim);
    double norm = dense_norm<Traits>(v);
    if (norm > 0) {
        for (int i = 0; i < v->dim; ++i) {
            float x = static_cast<float>(static_cast<double>(Traits::widen(v->values()[i])) / norm);
            result->values()[i] = Traits::narrow(x);
            if (std::isinf(Traits::widen(result->values()[i]))) throw_overflow();
        }
    }
    return PointerGetDatum(result);
}

// Elementwise op(a, b); kCanUnderflow: a product may become 0 although no factor is.
template <typename Traits, bool kCanUnderflow, typename Op>
Datum dense_arithmetic(FunctionCallInfo fcinfo, Op op)
{
    Pair<Traits> p(fcinfo);
    auto *result = Traits::make(p.a->dim);
    auto *out = result->values();
    const auto *a = p.a->values(), *b = p.b->values();
    for (size_t i = 0; i < p.dim(); ++i) out[i] = Traits::narrow(op(Traits::widen(a[i]), Traits::widen(b[i])));
    for (size_t i = 0; i < p.dim(); ++i) {
        float x = Traits::widen(out[i]);
        if (std::isinf(x)) throw_overflow();
        if (kCanUnderflow && x == 0 && Traits::widen(a[i]) != 0 && Traits::widen(b[i]) != 0) throw_underflow();
    }
    return PointerGetDatum(result);
}

template <typename Traits>
Datum dense_concat(FunctionCallInfo fcinfo)
{
    const auto *a = argument<typename Traits::Struct>(fcinfo, 0), *b = argument<typename Traits::Struct>(fcinfo, 1);
    int dim = a->dim + b->dim;
    check_dense_dim(dim, Traits::kName);
    auto *result = Traits::make(dim);
    std::copy_n(a->values(), a->dim, result->values());
    std::copy_n(b->values(), b->dim, result->values() + a->dim);
    return PointerGetDatum(result);
}

// Elements start to start + count - 1 of those that exist, counted from 1, like substring.
template <typename Traits>
Datum dense_subvector(FunctionCallInfo fcinfo)
{
    const auto *v = argument<typename Traits::Struct>(fcinfo, 0);
    int64_t start = PG_GETARG_INT32(1), count = PG_GETARG_INT32(2);
    if (count < 1) check_dense_dim(0, Traits::kName);
    int64_t first = std::max<int64_t>(start, 1);
    int64_t past = std::min<int64_t>(start + count, v->dim + 1);
    int dim = static_cast<int>(std::max<int64_t>(past - first, 0));
    check_dense_dim(dim, Traits::kName);
    auto *result = Traits::make(dim);
    std::copy_n(v->values() + (first - 1), dim, result->values());
    return PointerGetDatum(result);
}

template <typename Traits>
Datum dense_binary_quantize(FunctionCallInfo fcinfo)
{
    const auto *v = argument<typename Traits::Struct>(fcinfo, 0);
    VarBit *result = make_bits(v->dim);
    bits8 *out = VARBITS(result);
    for (int i = 0; i < v->dim; ++i) {
        if (Traits::widen(v->values()[i]) > 0) out[i / 8] = static_cast<bits8>(out[i / 8] | (0x80 >> (i % 8)));
    }
    return VarBitPGetDatum(result);
}

// Values first and then dimensions, as arrays compare.
template <typename Traits>
int dense_compare(const typename Traits::Struct *a, const typename Traits::Struct *b)
{
    int common = std::min(a->dim, b->dim);
    for (int i = 0; i < common; ++i) {
        float x = Traits::widen(a->values()[i]), y = Traits::widen(b->values()[i]);
        if (x < y) return -1;
        if (x > y) return 1;
    }
    return (a->dim > b->dim) - (a->dim < b->dim);
}

template <typename Traits>
int dense_compare_arguments(FunctionCallInfo fcinfo)
{
    auto *a = argument<typename Traits::Struct>(fcinfo, 0), *b = argument<typename Traits::Struct>(fcinfo, 1);
    int order = dense_compare<Traits>(a, b);
    PG_FREE_IF_COPY(a, 0);  // comparisons run by the million in one memory context
    PG_FREE_IF_COPY(b, 1);
    return order;
}

}  // namespace vkv
