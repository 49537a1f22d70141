// One tile on its way through attention: what each row may see of it, which kernels take it, and its scores and values. Used by
// attend.cpp, which keeps the sums.
#pragma once
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <string>

#include "core/error.h"
#include "core/kv/attend.h"
#include "core/kv/levels.h"
#include "core/kv/queries.h"
#include "core/simd/half.h"

namespace vkv::kv {

inline constexpr float kNothing = -std::numeric_limits<float>::infinity();
inline constexpr int kRowsOfBlocks = 64;  // rows that a decoded block serves before the next is decoded

// The tokens of a tile that a row sees: [begin, sinks_end) and [window, end).
struct Seen {
    int begin = 0, sinks_end = 0, window = 0, end = 0;
    bool all(int tokens) const { return end == tokens && begin == 0 && window <= sinks_end; }
    bool none() const { return begin >= end || (window >= end && sinks_end <= begin); }
};

inline Seen seen_by(const TileView &tile, const Selection &selection, int row)
{
    const int64_t behind = int64_t{tile.first} + tile.tokens;
    if (!selection.sights && selection.from <= tile.first && selection.to >= behind) return {0, 0, 0, tile.tokens};
    const auto offset = [&](int64_t position) {
        return static_cast<int>(std::clamp<int64_t>(position - tile.first, 0, tile.tokens));
    };
    Seen seen;
    seen.begin = seen.sinks_end = seen.window = offset(selection.from);
    seen.end = offset(selection.to);
    if (!selection.sights) return seen;
    const Sight &sight = selection.sights[row];
    seen.end = std::min(seen.end, offset(sight.last));
    seen.window = std::max(seen.begin, offset(sight.first));
    seen.sinks_end = std::clamp(offset(selection.sinks), seen.begin, std::max(seen.begin, seen.end));
    return seen;
}

inline void hide(const Seen &seen, int tokens, float *scores)
{
    std::fill(scores, scores + std::min(seen.begin, tokens), kNothing);
    if (seen.window > seen.sinks_end) std::fill(scores + seen.sinks_end, scores + seen.window, kNothing);
    std::fill(scores + seen.end, scores + tokens, kNothing);
}

inline void check_tile(const Queries::Forms &forms, const TileView &tile, const Selection &selection)
{
    if (tile.dim_k != forms.dim)
        throw Error(Errc::data_exception,
                    "tile has keys of " + std::to_string(tile.dim_k) + " dimensions, queries have " + std::to_string(forms.dim));
    if (!tile.before_rope()) return;
    if (!selection.rope)
        throw Error(Errc::data_exception, "tile has keys before their rotary embedding, whose parameters are missing");
    if (selection.rope->dims() > tile.dim_k)
        throw Error(Errc::data_exception, "rotary embedding turns " + std::to_string(selection.rope->dims()) +
                                              " dimensions, keys have " + std::to_string(tile.dim_k));
}

// One tile being attended to: kernels, forms, and what of the tile's basis they share.
class TilePass {
public:
    TilePass(Queries::Forms &forms, const TileView &tile, const Selection &selection)
        : kernels_(attend_kernels(simd::active_level())),
          forms_(forms),
          tile_(tile),
          selection_(selection),
          job_{&tile, is_rotated(tile.codec) ? levels(bits_of(tile.codec)) : nullptr},
          rotated_(is_rotated(tile.codec)),
          direct_keys_(scores_kernel() && !tile.before_rope() && !tile.values_in_keys() &&
                       (tile.codec != Codec::f16 || bytes_behind_keys() >= 64)),
          direct_values_(values_kernel() && !tile.values_in_keys() && (tile.codec == Codec::f16 || tile.tokens <= kMostTokens)),
          queries_(forms.in_basis(rotated_ && !tile.before_rope(), direct_keys_ && tile.codec != Codec::f16 && kernels_.digits,
                                  kernels_)),
          stride_(padded(static_cast<size_t>(tile.tokens), kScorePad) + kScorePad)
    {
        if (!selection.next) return;
        ahead_.at = static_cast<const uint8_t *>(selection.next);
        ahead_.end = ahead_.at + kTileHeaderBytes + kMaxTileData;
    }

    int rows_at_once() const { return direct_keys_ && direct_values_ ? kRowsAtOnce : kRowsOfBlocks; }
    size_t stride() const { return stride_; }
    int tokens() const { return tile_.tokens; }
    const AttendKernels &kernels() const { return kernels_; }

    // Scores of rows [row, row + rows), masked; false: none of them sees anything of the tile, and no score is made. Where the
    // means of the keys are the last that is added to them, they may be left out: `left` gets what each row lacks, or zeros.
    bool scores(int row, int rows, float *out, float *left = nullptr)
    {
        if (left) std::fill_n(left, rows, 0.0f);
        bool any = false, all = true;
        for (int r = 0; r < rows && (selection_.sights || r == 0); r++) {
            const Seen seen = seen_by(tile_, selection_, row + r);
            any = any || !seen.none();
            all = all && seen.all(tile_.tokens);
        }
        if (!any) return false;
        if (direct_keys_)
            direct_scores(row, rows, out);
        else
            blocks_of_scores(row, rows, out);
        const int tokens = tile_.tokens;
        if (tile_.k_means.count > 0 && !tile_.before_rope()) {
            float shifts[kRowsOfBlocks];
            const bool leave = left && forms_.softcap == 0;
            find_shifts(row, rows, leave ? left : shifts);
            for (int r = 0; r < rows && !leave; r++)
                kernels_.shift(out + static_cast<size_t>(r) * stride_, padded(static_cast<size_t>(tokens), kBlock), shifts[r]);
        }
        if (forms_.softcap > 0)
            for (int r = 0; r < rows; r++)
                kernels_.softcap(out + static_cast<size_t>(r) * stride_, padded(tokens, 16), forms_.softcap);
        if (!all)
            for (int r = 0; r < rows; r++)
                hide(seen_by(tile_, selection_, row + r), tokens, out + static_cast<size_t>(r) * stride_);
        return true;
    }

    // o [rows][o_stride] += weights * values.
    void values(const float *weights, int rows, float *o, size_t o_stride)
    {
        if (direct_values_) {
            for (int r = 0; r < rows; r += kRowsAtOnce) {
                const auto at = static_cast<size_t>(r);
                values_kernel()(
                    {job_, weights + at * stride_, stride_, std::min(kRowsAtOnce, rows - r), o + at * o_stride, o_stride, &ahead_});
            }
            return;
        }
        const size_t room = tile_.values_in_keys() ? 0 : kBlock * o_stride;
        float *block = forms_.values.get(std::max(room, static_cast<size_t>(1)));
        for (int t = 0; t < tile_.tokens; t += kBlock) {
            const int count = std::min(kBlock, tile_.tokens - t);
            if (tile_.values_in_keys())
                block = forms_.values.data() + static_cast<size_t>(t) * o_stride;  // left there by the scores
            else
                kernels_.decode_values[static_cast<int>(tile_.codec)]({job_, t, count, block, o_stride});
            kernels_.block_values({block, count, weights + t, stride_, rows, o, o_stride});
        }
    }

    // What the means of the values add to the sums of rows, in the caller's basis; weights: of each row, summed over the tile.
    bool has_means_of_values() const { return tile_.v_means.count > 0 && !(tile_.values_in_keys() && tile_.before_rope()); }
    void add_means_of_values(const float *weights, int rows, float *sums, size_t sums_stride) const
    {
        const Means &means = tile_.v_means;
        for (int i = 0; i < means.count; i++) {
            const float mean = finite_half(means.values[i]);
            float *sum = sums + means.channel(i);
            for (int r = 0; r < rows; r++) sum[static_cast<size_t>(r) * sums_stride] += weights[r] * mean;
        }
    }

    // Dimension of the sums of a tile whose values are in the rotated basis.
    int values_dim() const { return tile_.values_in_keys() && rotated_values() ? tile_.dim_k : tile_.dim_v; }
    bool rotated_values() const { return rotated_ && !(tile_.values_in_keys() && tile_.before_rope()); }

private:
    // Without branches. Means are finite (choose_means).
    static float finite_half(uint16_t half)
    {
        const float magnitude = std::bit_cast<float>((half & 0x7FFFu) << 13) * 0x1p112f;
        return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | (half & 0x8000u) << 16);
    }

    using ScoresKernel = void (*)(const ScoreJob &);
    using ValuesKernel = void (*)(const ValueJob &);
    bool few_rows() const { return tile_.codec == Codec::f16 || forms_.rows <= kernels_.most_rows_of_codes; }
    ScoresKernel scores_kernel() const { return few_rows() ? kernels_.scores[static_cast<int>(tile_.codec)] : nullptr; }
    ValuesKernel values_kernel() const { return few_rows() ? kernels_.values[static_cast<int>(tile_.codec)] : nullptr; }

    // Direct kernels read whole vectors of tokens: that must stay within the tile.
    size_t bytes_behind_keys() const { return static_cast<size_t>((tile_.tokens + 1) / 2 * tile_.dim_v) * 4; }

    QueryRows query_rows(int row, int rows) const
    {
        QueryRows part = queries_;
        const auto at = static_cast<size_t>(row);

        part.q += at * part.stride;
        if (part.digits) {
            part.digits += at * part.stride;
            part.digit_sums += at * part.stride / kRowPad * 4;
            part.steps += at;
        }
        part.rows = rows;
        return part;
    }

    void direct_scores(int row, int rows, float *out)
    {
        for (int r = 0; r < rows; r += kRowsAtOnce)
            scores_kernel()({job_, query_rows(row + r, std::min(kRowsAtOnce, rows - r)), out + static_cast<size_t>(r) * stride_,
                             stride_, &ahead_});
    }

    // The same number for all tokens. Keys that are turned when they are read get theirs before (blocks_of_scores).
    void find_shifts(int row, int rows, float *shifts) const
    {
        const QueryRows &plain = forms_.in_basis(false, false, kernels_);
        const Means &means = tile_.k_means;
        double sums[kRowsOfBlocks];
        std::fill_n(sums, rows, 0.0);
        for (int i = 0; i < means.count; i++) {
            const auto mean = static_cast<double>(finite_half(means.values[i]));
            const float *q = plain.q + static_cast<size_t>(row) * plain.stride + means.channel(i);
            for (int r = 0; r < rows; r++) sums[r] += static_cast<double>(q[static_cast<size_t>(r) * plain.stride]) * mean;
        }
        for (int r = 0; r < rows; r++) shifts[r] = static_cast<float>(sums[r]);
    }

    void blocks_of_scores(int row, int rows, float *out)
    {
        const int dim = tile_.dim_k;
        float *block = forms_.block.get(static_cast<size_t>(dim) * kBlock);
        const size_t v_stride = padded(static_cast<size_t>(values_dim()), kBlock);
        float *v = tile_.values_in_keys() ? forms_.values.get(static_cast<size_t>(tile_.tokens) * v_stride) : nullptr;
        for (int t = 0; t < tile_.tokens; t += kBlock) {
            const int count = std::min(kBlock, tile_.tokens - t);
            kernels_.decode_keys[static_cast<int>(tile_.codec)]({job_, t, count, block, kBlock});
            if (rotated_ && tile_.before_rope()) turn_back(block);
            if (tile_.before_rope()) add_means(block);
            if (v) copy_values(block, count, v + static_cast<size_t>(t) * v_stride, v_stride);
            if (tile_.before_rope()) {
                RopeBlock rope = forms_.phases.at(*selection_.rope, int64_t{tile_.first} + t);
                rope.block = block;
                kernels_.rope_block(rope);
            }
            kernels_.block_scores({block, dim, query_rows(row, rows), out + t, stride_});
        }
    }

    // A block of rotated keys in the caller's basis.
    void turn_back(float *block) const
    {
        float key[kMaxHeadDim];
        for (int lane = 0; lane < kBlock; lane++) {
            for (int d = 0; d < tile_.dim_k; d++) key[d] = block[d * kBlock + lane];
            rotate_back_by(kernels_, key, tile_.dim_k);
            for (int d = 0; d < tile_.dim_k; d++) block[d * kBlock + lane] = key[d];
        }
    }

    void add_means(float *block) const
    {
        const Means &means = tile_.k_means;
        for (int i = 0; i < means.count; i++) {
            float *channel = block + means.channel(i) * kBlock;
            const float mean = half_to_float(means.values[i]);
            for (int lane = 0; lane < kBlock; lane++) channel[lane] += mean;
        }
    }

    void copy_values(const float *block, int count, float *v, size_t v_stride) const
    {
        const auto dim = static_cast<size_t>(values_dim());
        for (int t = 0; t < count; t++, v += v_stride) {
            for (size_t d = 0; d < dim; d++) v[d] = block[d * kBlock + static_cast<size_t>(t)];
            std::fill(v + dim, v + v_stride, 0.0f);
        }
    }

    const AttendKernels &kernels_;
    Queries::Forms &forms_;
    const TileView &tile_;
    const Selection &selection_;
    const TileJob job_;
    const bool rotated_, direct_keys_, direct_values_;
    const QueryRows &queries_;
    const size_t stride_;
    Ahead ahead_;
};

}  // namespace vkv::kv
