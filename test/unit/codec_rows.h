// Rows of vectors for the codec tests: real embeddings of test/data or made-up ones, and their codes.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "core/codec/codec.h"
#include "core/simd/half.h"

namespace vkv {

inline constexpr uint32_t kDim = 384;  // of the real embeddings

inline std::vector<uint16_t> load_halves(const char *name)
{
    std::ifstream file(std::string(VKV_TEST_DATA) + "/" + name, std::ios::binary);
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
    std::vector<uint16_t> values(bytes.size() / 2);
    std::memcpy(values.data(), bytes.data(), values.size() * 2);
    return values;
}

// Rows of one dense type, kept so that both a view and the numbers are at hand.
struct Rows {
    uint32_t dim = 0;
    Scalar scalar = Scalar::f32;
    std::vector<float> values;
    std::vector<uint16_t> halves;

    size_t size() const { return values.size() / dim; }
    const float *row(size_t i) const { return &values[i * dim]; }
    VectorView view(size_t i) const
    {
        if (scalar == Scalar::f16) return {scalar, dim, &halves[i * dim], nullptr, 0};
        return {scalar, dim, &values[i * dim], nullptr, 0};
    }
};

inline Rows make_rows(Scalar scalar, uint32_t dim, std::vector<float> values)
{
    Rows rows{dim, scalar, std::move(values), {}};
    if (scalar == Scalar::f16) {
        for (float &value : rows.values) {
            rows.halves.push_back(float_to_half(value));
            value = half_to_float(rows.halves.back());
        }
    }
    return rows;
}

inline Rows real_rows(const char *name, Scalar scalar, size_t limit)
{
    std::vector<uint16_t> halves = load_halves(name);
    halves.resize(std::min(halves.size(), limit * kDim));
    std::vector<float> values;
    for (uint16_t half : halves) values.push_back(half_to_float(half));
    return make_rows(scalar, kDim, std::move(values));
}

struct Encoded {
    std::vector<uint8_t> model;
    std::unique_ptr<Codec> codec;
    std::vector<uint8_t> codes, seconds;

    const uint8_t *code(size_t i) const { return &codes[i * codec->code_size()]; }
    const uint8_t *second(size_t i) const { return codec->second_size() ? &seconds[i * codec->second_size()] : nullptr; }
    std::vector<const uint8_t *> pointers(size_t n) const
    {
        std::vector<const uint8_t *> all;
        for (size_t i = 0; i < n; i++) all.push_back(code(i));
        return all;
    }
};

// Fills in the codes; the codec is there.
inline void encode_all(const Rows &rows, Encoded *to)
{
    Encoded &out = *to;
    const size_t size = out.codec->code_size(), second = out.codec->second_size();
    out.codes.resize(rows.size() * size);
    out.seconds.resize(rows.size() * second);
    for (size_t i = 0; i < rows.size(); i++)
        out.codec->encode(rows.view(i), &out.codes[i * size], second ? &out.seconds[i * second] : nullptr);
}

inline Encoded encode(CodecId id, Metric metric, const Rows &rows, bool train = true)
{
    Encoded out;
    auto trainer = make_trainer(id, rows.scalar, metric, rows.dim);
    for (size_t i = 0; train && i < rows.size(); i++) trainer->add(rows.view(i));
    out.model = trainer->finish();
    out.codec = make_codec(id, rows.scalar, metric, rows.dim, out.model);
    encode_all(rows, &out);
    return out;
}

inline std::vector<double> normalised(const float *x, uint32_t dim, Metric metric)
{
    std::vector<double> values(x, x + dim);
    if (metric != Metric::cosine) return values;
    const double norm = std::sqrt(std::inner_product(values.begin(), values.end(), values.begin(), 0.0));
    for (double &value : values) value = norm > 0 ? value / norm : 0;
    return values;
}

inline std::vector<size_t> nearest(const std::vector<double> &distance, size_t k)
{
    std::vector<size_t> order(distance.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(k), order.end(),
                      [&](size_t a, size_t b) { return distance[a] < distance[b]; });
    order.resize(k);
    return order;
}

inline size_t common(const std::vector<size_t> &a, const std::vector<size_t> &b)
{
    return static_cast<size_t>(std::count_if(a.begin(), a.end(), [&](size_t x) { return std::count(b.begin(), b.end(), x) > 0; }));
}

inline std::string label(CodecId id, Metric metric, Scalar scalar)
{
    return std::string(codec_name(id)) + " metric " + std::to_string(static_cast<int>(metric)) + " scalar " +
           std::to_string(static_cast<int>(scalar));
}

}  // namespace vkv
