// Attention over tiles: which kernel takes which tile, what each row may see, and the running sums.
//
// Sums of rotated tiles stay in the rotated basis, in sums of their own with the same m and l; they are turned back when somebody
// asks. A tile whose values are its keys has values in the basis of its keys, so those sums have the dimension of the keys.
#include "core/kv/attend.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/kv/levels.h"
#include "core/kv/queries.h"


namespace vkv::kv {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr int kRowsOfBlocks = 64;  // rows that a decoded block serves before the next is decoded

size_t padded(size_t n, size_t to) { return (n + to - 1) / to * to; }

// The tokens of a tile that a row sees: [begin, sinks_end) and [window, end).
struct Seen {
    int begin = 0, sinks_end = 0, window = 0, end = 0;
    bool all(int tokens) const { return end == tokens && begin == 0 && window <= sinks_end; }
    bool none() const { return begin >= end || (window >= end && sinks_end <= begin); }
};

Seen seen_by(const TileView &tile, const Selection &selection, int row)
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

void hide(const Seen &seen, int tokens, float *scores)
{
    std::fill(scores, scores + std::min(seen.begin, tokens), kNothing);
    if (seen.window > seen.sinks_end) std::fill(scores + seen.sinks_end, scores + seen.window, kNothing);
    std::fill(scores + seen.end, scores + tokens, kNothing);
}

void check_tile(const Queries::Forms &forms, const TileView &tile, const Selection &selection)
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
          direct_keys_(scores_kernel() && !tile.before_rope() && !tile.values_in_keys() && (tile.codec != Codec::f16 || bytes_behind_keys() >= 64)),
          direct_values_(values_kernel() && !tile.values_in_keys() && (tile.codec == Codec::f16 || tile.tokens <= kMostTokens)),
          queries_(forms.in_basis(rotated_ && !tile.before_rope(), direct_keys_ && tile.codec != Codec::f16, kernels_)),
          stride_(padded(static_cast<size_t>(tile.tokens), kScorePad) + kScorePad)
    {
        if (!selection.next) return;
        ahead_.at = static_cast<const uint8_t *>(selection.next);
        ahead_.end = ahead_.at + kTileHeaderBytes + kMaxTileData;
    }

    int rows_at_once() const { return direct_keys_ && direct_values_ ? kRowsAtOnce : kRowsOfBlocks; }
    size_t stride() const { return stride_; }
    const AttendKernels &kernels() const { return kernels_; }

    // Scores of rows [row, row + rows), masked; false: none of them sees anything of the tile, and no score is made.
    bool scores(int row, int rows, float *out)
    {
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

    // Dimension of the sums of a tile whose values are in the rotated basis.
    int values_dim() const { return tile_.values_in_keys() && rotated_values() ? tile_.dim_k : tile_.dim_v; }
    bool rotated_values() const { return rotated_ && !(tile_.values_in_keys() && tile_.before_rope()); }

private:
    using ScoresKernel = void (*)(const ScoreJob &);
    using ValuesKernel = void (*)(const ValueJob &);
    ScoresKernel scores_kernel() const { return kernels_.scores[static_cast<int>(tile_.codec)]; }
    ValuesKernel values_kernel() const { return kernels_.values[static_cast<int>(tile_.codec)]; }

    

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
            scores_kernel()(
                {job_, query_rows(row + r, std::min(kRowsAtOnce, rows - r)), out + static_cast<size_t>(r) * stride_, stride_, &ahead_});
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

}  // namespace

struct Accumulator::Parts {
    int rows = 0, dim_v = 0;
    size_t stride = 0;
    std::vector<float> m;
    std::vector<double> l;
    Scratch<float> lanes;  // [rows][16]: what has come to l since tiles_in_lanes was 0
    int tiles_in_lanes = 0;
    Scratch<float> o;
    // Sums in the rotated basis: of rotated_dim dimensions, 0 when there are none.
    int rotated_dim = 0;
    size_t rotated_stride = 0;
    Scratch<float> rotated;

    // Sums of floats stay short, so that they stay exact.
    static constexpr int kMostInLanes = 64;

    double sum_of_lanes(int r) const
    {
        double sum = 0;
        for (int i = 0; i < kBlock; i++) sum += static_cast<double>(lanes.data()[r * kBlock + i]);
        return sum;
    }
    double l_of(int r) const { return l[static_cast<size_t>(r)] + (tiles_in_lanes ? sum_of_lanes(r) : 0); }
    void empty_lanes()
    {
        for (int r = 0; r < rows && tiles_in_lanes; r++) l[static_cast<size_t>(r)] += sum_of_lanes(r);
        tiles_in_lanes = 0;
    }
    // Before a tile is added.
    void use_lanes()
    {
        if (tiles_in_lanes == kMostInLanes) empty_lanes();
        if (tiles_in_lanes++ == 0) std::fill_n(lanes.data(), static_cast<size_t>(rows) * kBlock, 0.0f);
    }

    float *row(int r) const { return o.data() + static_cast<size_t>(r) * stride; }
    float *rotated_row(int r) const { return rotated.data() + static_cast<size_t>(r) * rotated_stride; }

    void use_rotated(int dim)
    {
        if (rotated_dim == dim) return;
        add_rotated();
        rotated_dim = dim;
        rotated_stride = padded(static_cast<size_t>(dim), kBlock);
        const size_t n = static_cast<size_t>(rows) * rotated_stride;
        std::fill_n(rotated.get(n), n, 0.0f);
    }

    // The row's sum in the caller's basis.
    void sum_of(int r, float *out) const
    {
        std::copy_n(row(r), dim_v, out);
        if (!rotated_dim) return;
        float turned[kMaxHeadDim];
        std::copy_n(rotated_row(r), rotated_dim, turned);
        rotate_back_by(attend_kernels(simd::active_level()), turned, rotated_dim);
        for (int d = 0; d < dim_v; d++) out[d] += turned[d];
    }

    void add_rotated()
    {
        if (!rotated_dim) return;
        for (int r = 0; r < rows; r++) sum_of(r, row(r));
        rotated_dim = 0;
    }

    void scale_row(const AttendKernels &kernels, int r, float factor)
    {
        l[static_cast<size_t>(r)] *= static_cast<double>(factor);
        kernels.scale(row(r), stride, factor);
        if (rotated_dim) kernels.scale(rotated_row(r), rotated_stride, factor);
    }
};

Accumulator::Accumulator() : parts_(std::make_unique<Parts>()) {}
Accumulator::~Accumulator() = default;
Accumulator::Accumulator(Accumulator &&) noexcept = default;
Accumulator &Accumulator::operator=(Accumulator &&) noexcept = default;

void Accumulator::reset(int rows, int dim_v)
{
    if (rows < 1) throw Error(Errc::data_exception, "there must be at least one row of queries, not " + std::to_string(rows));
    if (dim_v < 1 || dim_v > kMaxHeadDim)
        throw Error(Errc::data_exception,
                    "values must have 1 to " + std::to_string(kMaxHeadDim) + " dimensions, not " + std::to_string(dim_v));
    Parts &parts = *parts_;
    parts.rows = rows;
    parts.dim_v = dim_v;
    parts.stride = padded(static_cast<size_t>(dim_v), kBlock);
    parts.m.assign(static_cast<size_t>(rows), kNothing);
    parts.l.assign(static_cast<size_t>(rows), 0.0);
    parts.lanes.get(static_cast<size_t>(rows) * kBlock);
    parts.tiles_in_lanes = 0;
    const size_t n = static_cast<size_t>(rows) * parts.stride;
    std::fill_n(parts.o.get(n), n, 0.0f);
    parts.rotated_dim = 0;
}

void Accumulator::add(const Queries &queries, const TileView &tile, const Selection &selection)
{
    Queries::Forms &forms = queries.forms();
    Parts &parts = *parts_;
    check_tile(forms, tile, selection);
    if (tile.dim_v != parts.dim_v)
        throw Error(Errc::data_exception,
                    "tile has values of " + std::to_string(tile.dim_v) + " dimensions, not " + std::to_string(parts.dim_v));
    if (forms.rows != parts.rows)
        throw Error(Errc::data_exception,
                    "there are " + std::to_string(forms.rows) + " rows of queries, not " + std::to_string(parts.rows));
    TilePass pass(forms, tile, selection);
    parts.use_lanes();
    if (pass.rotated_values()) parts.use_rotated(pass.values_dim());
    const int most = std::min(pass.rows_at_once(), forms.rows);
    float *scores = forms.scores.get(static_cast<size_t>(most) * pass.stride());
    forms.factors.resize(static_cast<size_t>(most));
    // Chunks of equal size, as far as they go: nine rows are three times three.
    const int chunks = (forms.rows + most - 1) / most;
    for (int chunk = 0, row = 0; chunk < chunks; chunk++) {
        const int rows = (forms.rows - row) / (chunks - chunk);
        if (pass.scores(row, rows, scores)) {
            if (pass.kernels().softmax({scores, pass.stride(), rows, tile.tokens, &parts.m[static_cast<size_t>(row)],
                                        parts.lanes.data() + static_cast<size_t>(row) * kBlock, forms.factors.data()}))
                for (int r = 0; r < rows; r++)
                    if (forms.factors[static_cast<size_t>(r)] != 1)
                        parts.scale_row(pass.kernels(), row + r, forms.factors[static_cast<size_t>(r)]);
            if (pass.rotated_values())
                pass.values(scores, rows, parts.rotated_row(row), parts.rotated_stride);
            else
                pass.values(scores, rows, parts.row(row), parts.stride);
        }
        row += rows;
    }
}

void Accumulator::merge(const float *m, const float *l, const float *o)
{
    Parts &parts = *parts_;
    const AttendKernels &kernels = attend_kernels(simd::active_level());
    parts.empty_lanes();
    for (int r = 0; r < parts.rows; r++) {
        const auto at = static_cast<size_t>(r);
        if (m[r] == kNothing) continue;
        if (m[r] > parts.m[at]) {
            const double factor = std::exp(static_cast<double>(parts.m[at]) - static_cast<double>(m[r]));
            parts.scale_row(kernels, r, static_cast<float>(factor));
            parts.m[at] = m[r];
        }
        const double factor = std::exp(static_cast<double>(m[r]) - static_cast<double>(parts.m[at]));
        parts.l[at] += factor * static_cast<double>(l[r]);
        float *sum = parts.row(r);
        const float *other = o + at * static_cast<size_t>(parts.dim_v);
        for (int d = 0; d < parts.dim_v; d++) sum[d] += static_cast<float>(factor) * other[d];
    }
}

void Accumulator::state(float *m, float *l, float *o) const
{
    const Parts &parts = *parts_;
    for (int r = 0; r < parts.rows; r++) {
        const auto at = static_cast<size_t>(r);
        if (m) m[r] = parts.m[at];
        if (l) l[r] = static_cast<float>(parts.l_of(r));
        if (o) parts.sum_of(r, o + at * static_cast<size_t>(parts.dim_v));
    }
}

void Accumulator::finish(float *output, float *lse) const
{
    const Parts &parts = *parts_;
    for (int r = 0; r < parts.rows; r++) {
        const auto at = static_cast<size_t>(r);
        const double l = parts.l_of(r);
        if (lse) lse[r] = l > 0 ? static_cast<float>(static_cast<double>(parts.m[at]) + std::log(l)) : kNothing;
        if (!output) continue;
        float *out = output + at * static_cast<size_t>(parts.dim_v);
        parts.sum_of(r, out);
        const double inverse = l > 0 ? 1 / l : 0;
        for (int d = 0; d < parts.dim_v; d++) out[d] = static_cast<float>(static_cast<double>(out[d]) * inverse);
    }
}

void logits(const Queries &queries, const TileView &tile, const Selection &selection, float *out)
{
    Queries::Forms &forms = queries.forms();
    check_tile(forms, tile, selection);
    TilePass pass(forms, tile, selection);
    const int most = std::min(kRowsOfBlocks, forms.rows);
    float *scores = forms.scores.get(static_cast<size_t>(most) * pass.stride());
    for (int row = 0; row < forms.rows; row += most) {
        const int rows = std::min(most, forms.rows - row);
        const bool any = pass.scores(row, rows, scores);
        for (int r = 0; r < rows; r++) {
            float *to = out + static_cast<size_t>(row + r) * static_cast<size_t>(tile.tokens);
            if (any)
                std::copy_n(scores + static_cast<size_t>(r) * pass.stride(), tile.tokens, to);
            else
                std::fill_n(to, tile.tokens, kNothing);
        }
    }
}

void merge_states(int rows, int dim_v, float *m, float *l, float *o, const float *m2, const float *l2, const float *o2)
{
    const auto dims = static_cast<size_t>(dim_v);
    for (int r = 0; r < rows; r++, o += dims, o2 += dims) {
        if (m2[r] == kNothing) continue;
        const double most = std::max(m[r], m2[r]);
        const double first = std::exp(static_cast<double>(m[r]) - most), second = std::exp(static_cast<double>(m2[r]) - most);
        m[r] = static_cast<float>(most);
        l[r] = static_cast<float>(first * static_cast<double>(l[r]) + second * static_cast<double>(l2[r]));
        for (size_t d = 0; d < dims; d++)
            o[d] = static_cast<float>(first * static_cast<double>(o[d]) + second * static_cast<double>(o2[d]));
    }
}

}  // namespace vkv::kv
