// What a warp does with a tile in shared memory: scores of a row tile (eight rows of queries), online softmax, sums of values.
//
// Queries are sums of two halves, high and low, and the sixteen rows of operand A are the eight high ones and the eight low ones,
// so the matrix units are used in full and the sum of both is an addition of two registers of the same lane. Weights of the values
// are made in the same way. So the products are those of 22-bit factors with codes that are exact, and sums are of floats: the
// state's relative error stays below 1e-5 (gpu tests have the bound that is reached).
//
// Lane: row lane / 4 of the row tile; of each chunk of tokens the columns 2 * (lane % 4) + {0, 1} (codes.cuh says which tokens
// those are); of sums over values dims 16 * p + 4 * (lane % 4) + {0..3} for each p.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "gpu/cuda/codes.cuh"
#include "gpu/cuda/plan.h"
#include "gpu/cuda/rotate.cuh"
#include "gpu/cuda/target.h"
#include "gpu/cuda/tile_walk.cuh"

namespace vkv::gpu::cu {

struct alignas(8) TwoWords {
    uint32_t x, y;
};
struct alignas(16) FourWords {
    uint32_t x, y, z, w;
};

VKV_DEVICE uint32_t load32(const uint8_t *at) { return *reinterpret_cast<const uint32_t *>(at); }
VKV_DEVICE TwoWords load64(const uint8_t *at) { return *reinterpret_cast<const TwoWords *>(at); }
VKV_DEVICE float load_half(const uint8_t *at) { return half_to_float(*reinterpret_cast<const uint16_t *>(at)); }

// What a row may see; in registers of the lanes that have the row.
struct RowSight {
    int32_t first, last, sinks;
};

VKV_DEVICE RowSight sight_of_row(const Geometry &geometry, int32_t total, uint32_t row)
{
    RowSight sight{0, INT32_MAX, geometry.sinks};
    if (row >= geometry.rows) return sight;  // no row: what it gets is not used
    const int32_t position = total - static_cast<int32_t>(geometry.q_len) + static_cast<int32_t>(row % geometry.q_len);
    if (geometry.window > 0) sight.first = position + 1 - geometry.window > 0 ? position + 1 - geometry.window : 0;
    sight.last = geometry.causal ? (position + 1 > 0 ? position + 1 : 0) : total;
    return sight;
}

// The state of a warp's row tile, spread over its lanes.
template <kv::Codec codec, int dim_v>
struct WarpSums {
    using C = Codes<codec>;
    static constexpr int kGroups = C::kUniform ? (dim_v + 63) / 64 : 1;
    float m = -INFINITY;          // largest logit so far, of the row
    float l = 0;                  // of this lane's tokens
    float unit = 5.9604645e-8f;   // power of two that sums of scaled values are in: not below the largest scale, nearly
    float o[dim_v / 16][4] = {};  // sums of weight * code
    float least[kGroups] = {};    // uniform codes: sums of weight * minimum, of this lane's tokens
};

template <kv::Codec codec, int dim_v>
class TileWork {
    using C = Codes<codec>;
    using Sums = WarpSums<codec, dim_v>;
    using Tokens = Chunk<codec, dim_v>;
    static constexpr int kTiles = Tokens::kTiles, kChunk = Tokens::kTokens;

public:
    VKV_DEVICE TileWork(const uint8_t *prepared, int dim_k, float softcap)
        : prepared_(prepared), dim_k_(dim_k), lane_(thread() % kWarp), quad_(lane_ % 4), column_(lane_ / 4), softcap_(softcap)
    {
        const auto *rows = reinterpret_cast<const PreparedRows *>(prepared + 32 * dim_k);
        factor_ = rows->factor[column_];
        sums_ = rows->sums[column_];
    }

    // Adds the tile that lies in `slot`, positions [from, to) of it. What is in the slot is lost. plain_rows(): the queries as they
    // are, for tiles with means.
    template <typename PlainRows>
    VKV_DEVICE void add(uint8_t *slot, int32_t from, int32_t to, const RowSight &sight, const PlainRows &plain_rows,
                        const RotationSigns &signs, Sums &sums)
    {
        tile_.template read<codec, dim_v>(slot, dim_k_);
        if constexpr (C::kScaled) {
            more_ = weight_ = 0;
            if (tile_.k_means > 0) more_ = score_of_means(plain_rows());
        }
        int32_t last = tile_.first + tile_.tokens;
        last = min_of(min_of(last, to), sight.last);
        scale_values(sums);
        for (int chunk = 0; chunk < tile_.tokens; chunk += kChunk) {
            const int32_t position = tile_.first + chunk;
            const bool some = position < last && position + kChunk > from;
            if (!warp_any(some)) continue;
            const bool all = position >= from && position >= sight.first && position + kChunk <= last;
            float s[kTiles][2];
            scores(chunk, s);
            if (warp_any(!all)) hide(position, from, last, sight, s);
            add_chunk(chunk, s, sums);
        }
        if constexpr (C::kScaled)
            if (tile_.v_means > 0) add_means(slot, signs, sums);
    }

private:
    static VKV_DEVICE int32_t min_of(int32_t a, int32_t b) { return a < b ? a : b; }

    // What the means of the keys add to the lane's row in all scores of the tile: each of the row's four lanes takes every fourth.
    VKV_DEVICE float score_of_means(const float *plain) const
    {
        const uint8_t *values = tile_.template means<codec, dim_v>(), *channels = values + 2 * (tile_.k_means + tile_.v_means);
        const float *row = plain + column_ * dim_k_;
        float sum = 0;
        for (int i = quad_; i < tile_.k_means; i += 4) sum += row[min_of(channels[i], dim_k_ - 1)] * load_half(values + 2 * i);
        sum += shuffle_xor(sum, 1);
        sum += shuffle_xor(sum, 2);
        return sum * reinterpret_cast<const PreparedRows *>(prepared_ + 32 * dim_k_)->units[column_];
    }

    // The tile's weights times the means of its values, in the basis of its codes. The slot becomes that vector.
    VKV_DEVICE void add_means(uint8_t *slot, const RotationSigns &signs, Sums &sums)
    {
        const bool has_one = lane_ < tile_.v_means;
        float mean = 0;
        int channel = 0;
        if (has_one) {
            const uint8_t *values = tile_.template means<codec, dim_v>();
            mean = load_half(values + 2 * (tile_.k_means + lane_));
            channel = min_of(values[2 * (tile_.k_means + tile_.v_means) + tile_.k_means + lane_], dim_v - 1);
        }
        warp_barrier();  // nobody reads the tile any more
        auto *const vector = reinterpret_cast<float *>(slot);
        for (int d = lane_; d < dim_v; d += kWarp) vector[d] = 0;
        warp_barrier();
        if (has_one) vector[channel] = mean;
        warp_barrier();
        if constexpr (C::kRotated) rotate_rows(WarpTeam(), SharedRows{vector, 1, dim_v}, signs);
        weight_ += shuffle_xor(weight_, 1);
        weight_ += shuffle_xor(weight_, 2);
        const float by = weight_ * (16384 / C::kFactor) / sums.unit;  // as sums are scaled
        VKV_UNROLL
        for (int pair = 0; pair < dim_v / 16; ++pair)
            for (int i = 0; i < 4; ++i) sums.o[pair][i] = fmaf(by, vector[16 * pair + 4 * quad_ + i], sums.o[pair][i]);
    }

    // Operand B of one unit of keys for n-tile j: `at` is the lane's token in the first row of words.
    VKV_DEVICE void load_keys(int unit, int chunk, int j, uint32_t *out) const
    {
        const int tokens = tile_.tokens;
        const int token = chunk + Tokens::token_of_lane(column_ / 2, column_ % 2) + Tokens::token_of_tile(j);
        if constexpr (C::kBits == 16) {
            out[0] = load32(tile_.k + 4 * ((8 * unit + quad_) * tokens + token));
            out[1] = load32(tile_.k + 4 * ((8 * unit + quad_ + 4) * tokens + token));
        } else if constexpr (C::kBits == 8) {
            bytes_to_halves(load32(tile_.k + 4 * ((4 * unit + quad_) * tokens + token)), out);
        } else if constexpr (C::kBits == 4) {
            nibbles_to_halves<codec>(load32(tile_.k + 4 * ((4 * unit + quad_) * tokens + token)), out);
        } else {
            const uint32_t word = load32(tile_.k + 4 * ((2 * unit + quad_ / 2) * tokens + token));
            uint32_t high = 0;
            if constexpr (C::kHigh) high = load32(tile_.k_high + 4 * (unit * tokens + token)) >> (4 * (quad_ / 2));
            nibbles_to_halves<codec>(nibbles_of_part(word, high, quad_ % 2), out);
        }
    }
    static VKV_DEVICE uint32_t nibbles_of_part(uint32_t word, uint32_t high, int part)
    {
        if constexpr (C::kHigh)
            return nibbles_of_triples(word, high, part);
        else
            return nibbles_of_pairs(word, part);
    }

    // Sums of products of the chunk's keys with the lane's row, scaled: columns 2 * quad + {0, 1} of each n-tile.
    VKV_DEVICE void scores(int chunk, float (&s)[kTiles][2]) const
    {
        const int units = dim_k_ / C::kUnitDims;
        constexpr int kGroupUnits = C::kGroup / C::kUnitDims;
        for (int j = 0; j < kTiles; ++j) s[j][0] = s[j][1] = C::kScaled ? more_ : 0;
        for (int unit = 0, group = 0; unit < units; ++group) {
            const int end = min_of(unit + kGroupUnits, units);
            float c[kTiles][4] = {};
            for (; unit < end; ++unit) {
                uint32_t a[C::kSteps][4];
                for (int step = 0; step < C::kSteps; ++step) {
                    const auto q =
                        *reinterpret_cast<const FourWords *>(prepared_ + 16 * ((unit * C::kSteps + step) * kWarp + lane_));
                    a[step][0] = q.x, a[step][1] = q.y, a[step][2] = q.z, a[step][3] = q.w;
                }
                VKV_UNROLL
                for (int j = 0; j < kTiles; ++j) {
                    uint32_t b[2 * C::kSteps];
                    load_keys(unit, chunk, j, b);
                    for (int step = 0; step < C::kSteps; ++step) {
                        const uint32_t pair[2] = {b[2 * step], b[2 * step + 1]};
                        mma_m16n8k16(c[j], a[step], pair);
                    }
                }
            }
            scale_scores(chunk, group, c, s);
        }
    }

    VKV_DEVICE int token_of(int j, int half) const { return Tokens::token_of_lane(quad_, half) + Tokens::token_of_tile(j); }

    // Scales of a group for the tokens that this lane has weights of. Those of rotated codes lie side by side: a few wide loads.
    // Behind the tile's end there may be anything.
    VKV_DEVICE void load_scales(const uint8_t *plane, int chunk, int group, float (&out)[kTiles][2]) const
    {
        if constexpr (C::kRotated) {
            // Four tokens a load: of a row all that the word has, or, where it is halved, every second four.
            constexpr int kStride = Tokens::kHalved ? 8 : 4, kWords = kChunk / 8;
            const uint8_t *own = plane + 2 * (chunk + Tokens::token_of_lane(quad_, 0));
            uint32_t words[kWords];
            VKV_UNROLL
            for (int i = 0; i < kWords / 2; ++i) {
                constexpr int kLoads = kWords / 2 / Tokens::kRows;  // of a row
                const TwoWords two = load64(own + 2 * (i / kLoads * Tokens::kRowTokens + i % kLoads * kStride));
                words[2 * i] = two.x, words[2 * i + 1] = two.y;
            }
            VKV_UNROLL
            for (int j = 0; j < kTiles; ++j) {
                constexpr int kRowWords = kWords / Tokens::kRows;
                const int row = Tokens::token_of_tile(j) / Tokens::kRowTokens, at = Tokens::token_of_tile(j) % Tokens::kRowTokens;
                const uint32_t word = words[row * kRowWords + at / kStride * 2 + at % kStride / 2];
                out[j][0] = half_to_float(static_cast<uint16_t>(word));
                out[j][1] = half_to_float(static_cast<uint16_t>(word >> 16));
            }
        } else {
            VKV_UNROLL
            for (int j = 0; j < kTiles; ++j)
                for (int half = 0; half < 2; ++half)
                    out[j][half] = load_half(plane + 2 * (group * tile_.tokens + chunk + token_of(j, half)));
        }
    }

    VKV_DEVICE void scale_scores(int chunk, int group, const float (&c)[kTiles][4], float (&s)[kTiles][2]) const
    {
        float scale[kTiles][2] = {}, least[kTiles][2] = {};
        if constexpr (C::kScaled) load_scales(tile_.k_scale, chunk, group, scale);
        if constexpr (C::kUniform) load_scales(tile_.k_scale, chunk, C::groups(dim_k_) + group, least);
        VKV_UNROLL
        for (int j = 0; j < kTiles; ++j)
            for (int half = 0; half < 2; ++half) {
                const float sum = c[j][half] + c[j][half + 2];
                s[j][half] = C::kScaled ? fmaf(sum, scale[j][half], s[j][half]) : sum;
                if constexpr (C::kUniform) s[j][half] = fmaf(sums_[group], least[j][half], s[j][half]);
            }
    }

    VKV_DEVICE void hide(int32_t position, int32_t from, int32_t last, const RowSight &sight, float (&s)[kTiles][2]) const
    {
        VKV_UNROLL
        for (int j = 0; j < kTiles; ++j)
            for (int half = 0; half < 2; ++half) {
                const int32_t at = position + token_of(j, half);
                if (at < from || at >= last || (at < sight.first && at >= sight.sinks)) s[j][half] = -INFINITY;
            }
    }

    // Sums of scaled values are kept in a unit so that weights use the range of halves: it grows with the scales.
    VKV_DEVICE void scale_values(Sums &sums) const
    {
        if constexpr (C::kScaled) {
            uint32_t most = 0;
            const int count = C::groups(dim_v) * tile_.tokens;
            for (int i = lane_; i < count; i += kWarp) {
                const uint32_t bits = *reinterpret_cast<const uint16_t *>(tile_.v_scale + 2 * i);
                most = bits > most ? bits : most;
            }
            for (int mask = 1; mask < kWarp; mask *= 2) {
                const uint32_t other = shuffle_xor(most, mask);
                most = other > most ? other : most;
            }
            const float largest = half_to_float(static_cast<uint16_t>(most));
            if (largest >= 2 * sums.unit) {
                const float unit = power_below(largest), ratio = sums.unit / unit;
                sums.unit = unit;
                VKV_UNROLL
                for (int p = 0; p < dim_v / 16; ++p)
                    for (int i = 0; i < 4; ++i) sums.o[p][i] *= ratio;
            }
        }
    }
    static VKV_DEVICE float power_below(float x)
    {
        float power = 5.9604645e-8f;
        while (2 * power <= x) power *= 2;
        return power;
    }

    VKV_DEVICE void add_chunk(int chunk, float (&s)[kTiles][2], Sums &sums)
    {
        float factor = factor_;
        if (softcap_ > 0) {
            for (int j = 0; j < kTiles; ++j)
                for (int half = 0; half < 2; ++half)
                    if (s[j][half] > -INFINITY) s[j][half] = softcap_ * 1.44269504f * tanh_exact(s[j][half] * factor_);
            factor = 1;
        }
        float most = -INFINITY;
        for (int j = 0; j < kTiles; ++j)
            for (int half = 0; half < 2; ++half) most = fmaxf(most, s[j][half]);
        most = fmaxf(most, shuffle_xor(most, 1));
        most = fmaxf(most, shuffle_xor(most, 2));
        most = fmaxf(sums.m, most * factor);
        const float at = most == -INFINITY ? 0 : most;
        const float change = exp2_fast(sums.m - at);
        sums.m = most;
        float weight = 0;
        for (int j = 0; j < kTiles; ++j)
            for (int half = 0; half < 2; ++half) {
                s[j][half] = exp2_fast(fmaf(s[j][half], factor, -at));
                weight += s[j][half];
            }
        sums.l = fmaf(sums.l, change, weight);
        if constexpr (C::kScaled) weight_ = fmaf(weight_, change, weight);
        add_values(chunk, s, change, sums);
    }

    // Operand A of one scale group: weights times scales, high and low halves.
    VKV_DEVICE void weights(int chunk, int group, const float (&p)[kTiles][2], Sums &sums, uint32_t (&a)[kTiles / 2][4]) const
    {
        constexpr float kRange = 16384;  // what is small beside the largest keeps its digits
        const float by = kRange / sums.unit;
        float scale[kTiles][2] = {}, least[kTiles][2] = {};
        if constexpr (C::kScaled) load_scales(tile_.v_scale, chunk, group, scale);
        if constexpr (C::kUniform) load_scales(tile_.v_scale, chunk, C::groups(dim_v) + group, least);
        VKV_UNROLL
        for (int j = 0; j < kTiles; ++j) {
            float w[2];
            for (int half = 0; half < 2; ++half) {
                if constexpr (!C::kScaled) {
                    w[half] = p[j][half] * kRange;
                } else {  // the weight of what is behind the tile's end is 0, whatever its scale
                    const float most = C::sixteenth(j % 4) ? 0.125f * kRange : 2 * kRange;
                    w[half] = p[j][half] * fminf(fabsf(scale[j][half]) * (C::sixteenth(j % 4) ? 0.0625f * by : by), most);
                    if constexpr (C::kUniform) sums.least[group] += p[j][half] * fmaxf(fminf(least[j][half], 65504.0f), -65504.0f);
                }
            }
            const uint32_t high = floats_to_half2(w[0], w[1]);
            a[j / 2][j % 2 * 2] = high;
            a[j / 2][j % 2 * 2 + 1] = floats_to_half2(w[0] - half_to_float(static_cast<uint16_t>(high)),
                                                      w[1] - half_to_float(static_cast<uint16_t>(high >> 16)));
        }
    }

    // Operand B of two n-tiles (dims `dim` + {0, 1}, dim even) for all of the chunk's tokens.
    VKV_DEVICE void load_values(int chunk, int dim, uint32_t (&b)[2][kTiles]) const
    {
        if constexpr (C::kBits < 4) {
            const int word = Tokens::kHalved ? quad_ / 2 : quad_;
            const int row = min_of(chunk / 16 + word, tile_.v_rows - 1);
            const TwoWords words = load64(tile_.v + 4 * (row * dim_v + dim));
            TwoWords high{0, 0};
            if constexpr (C::kHigh) {
                const int high_row = min_of(chunk / 32 + word / 2, (tile_.tokens + 31) / 32 - 1);
                high = load64(tile_.v_high + 4 * (high_row * dim_v + dim));
                high.x >>= 4 * (word % 2), high.y >>= 4 * (word % 2);
            }
            for (int i = 0; i < kTiles / 4; ++i) {
                const int part = Tokens::kHalved ? quad_ % 2 : i;
                nibbles_to_halves<codec>(nibbles_of_part(words.x, high.x, part), &b[0][4 * i]);
                nibbles_to_halves<codec>(nibbles_of_part(words.y, high.y, part), &b[1][4 * i]);
            }
        } else {
            for (int i = 0; i < kChunk / Tokens::kRowTokens; ++i) {
                const int row = min_of(chunk / C::kWord + 4 * i + quad_, tile_.v_rows - 1);
                const TwoWords words = load64(tile_.v + 4 * (row * dim_v + dim));
                if constexpr (C::kBits == 16) {
                    b[0][i] = words.x, b[1][i] = words.y;
                } else if constexpr (C::kBits == 8) {
                    bytes_to_halves(words.x, &b[0][2 * i]);
                    bytes_to_halves(words.y, &b[1][2 * i]);
                } else {
                    nibbles_to_halves<codec>(words.x, &b[0][4 * i]);
                    nibbles_to_halves<codec>(words.y, &b[1][4 * i]);
                }
            }
        }
    }

    VKV_DEVICE void add_values(int chunk, const float (&p)[kTiles][2], float change, Sums &sums)
    {
        constexpr int kPairs = dim_v / 16, kGroupPairs = C::kGroup / 16;
        uint32_t a[kTiles / 2][4];
        for (int group = 0; group < Sums::kGroups; ++group) sums.least[group] *= change;
        VKV_UNROLL
        for (int pair = 0; pair < kPairs; ++pair) {
            if (pair % kGroupPairs == 0) weights(chunk, pair / kGroupPairs, p, sums, a);
            uint32_t b[2][kTiles];
            load_values(chunk, 16 * pair + 2 * column_, b);
            for (int i = 0; i < 2; ++i) {
                float c[4] = {};
                for (int step = 0; step < kTiles / 2; ++step) {
                    const uint32_t both[2] = {b[i][2 * step], b[i][2 * step + 1]};
                    mma_m16n8k16(c, a[step], both);
                }
                sums.o[pair][i] = fmaf(sums.o[pair][i], change, c[0] + c[2]);
                sums.o[pair][2 + i] = fmaf(sums.o[pair][2 + i], change, c[1] + c[3]);
            }
        }
    }

    TileInSlot tile_;
    const uint8_t *prepared_;
    const float *sums_;
    int dim_k_, lane_, quad_, column_;
    float softcap_, factor_;
    float more_ = 0, weight_ = 0;  // of the tile: in all its scores for its means, and its weights so far, of this lane's tokens
};

}  // namespace vkv::gpu::cu
