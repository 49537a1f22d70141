// Cases of attention over tiles: keys and values, tiles made of them, and attention in float64 over what the tiles decode to. Used
// by the unit tests, and by the benchmark before it times anything.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "core/kv/attend.h"
#include "core/kv/tile.h"
#include "core/simd/half.h"

namespace vkv::kv {

struct Tile {
    std::vector<uint64_t> bytes;  // 8-aligned
    size_t size = 0;
    TileView view() const { return view_tile(bytes.data(), size); }
};

inline Tile make_tile(const TileShape &shape, int32_t first, int tokens, const uint16_t *k, const uint16_t *v)
{
    Tile tile;
    tile.bytes.assign((most_tile_bytes(shape, tokens) + 7) / 8, 0);
    tile.size = encode_tile(shape, 0, first, tokens, {k, static_cast<size_t>(shape.dim_k)}, {v, static_cast<size_t>(shape.dim_v)},
                            tile.bytes.data());
    return tile;
}

struct KvData {
    std::vector<uint16_t> k, v;  // [tokens][dim]
    // bias: what a few channels have more in all tokens, as those of models do.
    KvData(int tokens, int dim_k, int dim_v, uint32_t seed, float k_size = 1, float bias = 0)
        : k(static_cast<size_t>(tokens) * static_cast<size_t>(dim_k)), v(static_cast<size_t>(tokens) * static_cast<size_t>(dim_v))
    {
        std::mt19937 random(seed);
        std::normal_distribution<float> normal;
        for (uint16_t &x : k) x = float_to_half(k_size * normal(random));
        for (uint16_t &x : v) x = float_to_half(normal(random));
        if (bias == 0) return;
        for (const auto &[channel, by] : {std::pair{5, bias}, {37, bias}, {90, -bias}}) {
            for (size_t i = static_cast<size_t>(channel % dim_k); i < k.size(); i += static_cast<size_t>(dim_k))
                k[i] = float_to_half(half_to_float(k[i]) + by);
            for (size_t i = static_cast<size_t>((channel + 4) % dim_v); i < v.size(); i += static_cast<size_t>(dim_v))
                v[i] = float_to_half(half_to_float(v[i]) - by);
        }
    }
};

inline std::vector<float> random_queries(int rows, int dim, uint32_t seed, float size = 1)
{
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> q(static_cast<size_t>(rows) * static_cast<size_t>(dim));
    for (float &x : q) x = size * normal(random);
    return q;
}

// All tokens as tiles of `a_tile` tokens, 0: full ones.
inline std::vector<Tile> make_tiles(const TileShape &shape, int tokens, const KvData &data, int a_tile = 0)
{
    std::vector<Tile> tiles;
    const int most = a_tile ? a_tile : tile_capacity(shape);
    for (int t = 0; t < tokens; t += most)
        tiles.push_back(
            make_tile(shape, t, std::min(most, tokens - t), &data.k[static_cast<size_t>(t) * static_cast<size_t>(shape.dim_k)],
                      shape.flags & kValuesInKeys ? nullptr : &data.v[static_cast<size_t>(t) * static_cast<size_t>(shape.dim_v)]));
    return tiles;
}

inline bool sees(const Selection &selection, int row, int64_t position)
{
    if (position < selection.from || position >= selection.to) return false;
    if (!selection.sights) return true;
    const Sight &sight = selection.sights[row];
    return position < sight.last && (position >= sight.first || position < selection.sinks);
}

// What attention is, in float64.
struct Reference {
    int rows, dim_v;
    std::vector<double> logits;         // of the tile added last: [rows][tokens]
    std::vector<double> m, l, o, size;  // size: sum of weights times |value|, what errors of o are measured by

    Reference(int r, int d) : rows(r), dim_v(d)
    {
        const auto n = static_cast<size_t>(r), dims = static_cast<size_t>(d);
        m.assign(n, -std::numeric_limits<double>::infinity());
        l.assign(n, 0);
        o.assign(n * dims, 0);
        size.assign(n, 0);
    }
    void add(const float *q, double scale, double softcap, const TileView &tile, const Selection &selection)
    {
        const auto tokens = static_cast<size_t>(tile.tokens), dim_k = static_cast<size_t>(tile.dim_k),
                   dims = static_cast<size_t>(dim_v);
        std::vector<float> k(tokens * dim_k), v(tokens * dims);
        decode_tile(tile, k.data(), v.data());
        if (tile.before_rope())
            for (size_t t = 0; t < tokens; t++) selection.rope->rotate(&k[t * dim_k], tile.first + static_cast<int32_t>(t));
        logits.assign(static_cast<size_t>(rows) * tokens, -std::numeric_limits<double>::infinity());
        for (int r = 0; r < rows; r++) {
            const auto row = static_cast<size_t>(r);
            for (size_t t = 0; t < tokens; t++) {
                if (!sees(selection, r, int64_t{tile.first} + static_cast<int64_t>(t))) continue;
                double logit = 0;
                for (size_t d = 0; d < dim_k; d++)
                    logit += static_cast<double>(q[row * dim_k + d]) * static_cast<double>(k[t * dim_k + d]);
                logit *= scale;
                if (softcap > 0) logit = softcap * std::tanh(logit / softcap);
                logits[row * tokens + t] = logit;
                take(row, logit, &v[t * dims]);
            }
        }
    }
    void take(size_t row, double logit, const float *v)
    {
        const auto dims = static_cast<size_t>(dim_v);
        if (logit > m[row]) {
            const double factor = std::exp(m[row] - logit);
            l[row] *= factor;
            size[row] *= factor;
            for (size_t d = 0; d < dims; d++) o[row * dims + d] *= factor;
            m[row] = logit;
        }
        const double p = std::exp(logit - m[row]);
        double most = 0;
        l[row] += p;
        for (size_t d = 0; d < dims; d++) {
            o[row * dims + d] += p * static_cast<double>(v[d]);
            most = std::max(most, std::fabs(static_cast<double>(v[d])));
        }
        size[row] += p * most;
    }
    // The largest error of a state, in what does not depend on its m: log-sum-exp, relative where it is large, and output, relative
    // to the mean weight times the largest |value| of each token. m and l of a row that saw nothing must be exact.
    double error(const float *m2, const float *l2, const float *o2) const
    {
        double worst = 0;
        const auto note = [&](double x) {
            worst = std::isnan(x) ? std::numeric_limits<double>::infinity() : std::max(worst, std::fabs(x));
        };
        const auto dims = static_cast<size_t>(dim_v);
        for (size_t r = 0; r < static_cast<size_t>(rows); r++) {
            const auto m_got = static_cast<double>(m2[r]), l_got = static_cast<double>(l2[r]);
            if (l[r] == 0) {
                if (l_got != 0 || m_got != m[r]) note(1);
                for (size_t d = 0; d < dims; d++)
                    if (o2[r * dims + d] != 0) note(1);
                continue;
            }
            note((m_got - m[r]) / std::max(1.0, std::fabs(m[r])));
            const double lse = m[r] + std::log(l[r]);
            note((m_got + std::log(l_got) - lse) / std::max(1.0, std::fabs(lse)));
            for (size_t d = 0; d < dims; d++)
                note((static_cast<double>(o2[r * dims + d]) / l_got - o[r * dims + d] / l[r]) / std::max(size[r] / l[r], 1e-30));
        }
        return worst;
    }
};

struct State {
    std::vector<float> m, l, o;
    State(int rows, int dim_v)
        : m(static_cast<size_t>(rows)), l(static_cast<size_t>(rows)), o(static_cast<size_t>(rows) * static_cast<size_t>(dim_v))
    {
    }
    explicit State(const Accumulator &from, int rows, int dim_v) : State(rows, dim_v) { from.state(m.data(), l.data(), o.data()); }
};

}  // namespace vkv::kv
