// The running sums of attention over tiles; tile_pass.h leads each tile through the kernels.
//
// Sums of rotated tiles stay in the rotated basis, in sums of their own with the same m and l; they are turned back when somebody
// asks. A tile whose values are its keys has values in the basis of its keys, so those sums have the dimension of the keys.
#include "core/kv/attend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/kv/queries.h"
#include "core/kv/tile_pass.h"

namespace vkv::kv {

namespace {

// Sums of floats stay short, so that they stay exact; longer ones are of doubles.
constexpr int kMostTilesInFloats = 128;

// Sums of weighted values, [rows][stride]: of the newest tiles, and of those before once there are any.
class Sums {
public:
    void begin(int rows, int dim)
    {
        dim_ = dim;
        stride_ = padded(static_cast<size_t>(dim), kBlock);
        size_ = static_cast<size_t>(rows) * stride_;
        std::fill_n(newest_.get(size_), size_, 0.0f);
        long_ = false;
    }
    int dim() const { return dim_; }
    size_t stride() const { return stride_; }
    float *newest(int r) const { return newest_.data() + static_cast<size_t>(r) * stride_; }
    void scale(const AttendKernels &kernels, int r, float factor)
    {
        kernels.scale(newest(r), stride_, factor);
        if (!long_) return;
        double *sums = before_.data() + static_cast<size_t>(r) * stride_;
        for (size_t d = 0; d < stride_; d++) sums[d] *= static_cast<double>(factor);
    }
    // The newest tiles are some of those before.
    void settle()
    {
        if (!long_) std::fill_n(before_.get(size_), size_, 0.0);
        long_ = true;
        for (size_t i = 0; i < size_; i++) before_.data()[i] += static_cast<double>(newest_.data()[i]);
        std::fill_n(newest_.data(), size_, 0.0f);
    }
    void of(int r, float *out) const
    {
        const float *sums = newest(r);
        std::copy_n(sums, dim_, out);
        if (!long_) return;
        const double *before = before_.data() + static_cast<size_t>(r) * stride_;
        for (int d = 0; d < dim_; d++) out[d] = static_cast<float>(before[d] + static_cast<double>(sums[d]));
    }
    void add(int r, const float *other)
    {
        for (int d = 0; d < dim_; d++) newest(r)[d] += other[d];
    }
    size_t bytes() const { return newest_.bytes() + before_.bytes(); }

private:
    int dim_ = 0;
    size_t stride_ = 0, size_ = 0;
    Scratch<float> newest_;
    Scratch<double> before_;
    bool long_ = false;
};

}  // namespace

struct Accumulator::Parts {
    // Of the rows of one chunk: scores, what they lack, and the sums of the weights that they become.
    struct Rowwise {
        float *scores;
        float left[kRowsOfBlocks], weights[kRowsOfBlocks];
    };
    int rows = 0, dim_v = 0;
    std::vector<float> m;
    std::vector<double> l;
    Scratch<float> lanes;  // [rows][16]: what has come to l since newest_tiles was 0
    int newest_tiles = 0;  // in floats
    Sums o;
    bool has_rotated = false;
    Sums rotated;  // in the rotated basis, if there are any

    double sum_of_lanes(int r) const
    {
        double sum = 0;
        for (int i = 0; i < kBlock; i++) sum += static_cast<double>(lanes.data()[r * kBlock + i]);
        return sum;
    }
    double l_of(int r) const { return l[static_cast<size_t>(r)] + (newest_tiles ? sum_of_lanes(r) : 0); }
    void empty_lanes()
    {
        for (int r = 0; r < rows && newest_tiles; r++) l[static_cast<size_t>(r)] += sum_of_lanes(r);
        newest_tiles = 0;
    }
    // Before a tile is added.
    void make_room()
    {
        if (newest_tiles == kMostTilesInFloats) {
            empty_lanes();
            o.settle();
            if (has_rotated) rotated.settle();
        }
        if (newest_tiles++ == 0) std::fill_n(lanes.data(), static_cast<size_t>(rows) * kBlock, 0.0f);
    }

    void use_rotated(int dim)
    {
        if (has_rotated && rotated.dim() == dim) return;
        add_rotated();
        has_rotated = true;
        rotated.begin(rows, dim);
    }

    // The row's sum in the caller's basis.
    void sum_of(int r, float *out) const
    {
        o.of(r, out);
        if (!has_rotated) return;
        float turned[kMaxHeadDim];
        turned_back(r, turned);
        for (int d = 0; d < dim_v; d++) out[d] += turned[d];
    }
    void turned_back(int r, float *out) const
    {
        rotated.of(r, out);
        rotate_back_by(attend_kernels(simd::active_level()), out, rotated.dim());
    }

    void add_rotated()
    {
        if (!has_rotated) return;
        float turned[kMaxHeadDim];
        for (int r = 0; r < rows; r++) {
            turned_back(r, turned);
            o.add(r, turned);
        }
        has_rotated = false;
    }

    float newest_l(int r) const
    {
        typedef float Floats __attribute__((vector_size(64)));
        Floats x;
        std::memcpy(&x, lanes.data() + r * kBlock, sizeof x);
        float sums[4];
        for (int i = 0; i < 4; i++) sums[i] = (x[i] + x[i + 4]) + (x[i + 8] + x[i + 12]);
        return (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }

    // Scores that lack what is left of a row go beside its largest score without it. What its weights come to is what l has more:
    // they are needed to no more digits than l has.
    bool softmax(const TilePass &pass, int row, int rows, Rowwise *of, float *factors)
    {
        float *most = &m[static_cast<size_t>(row)], before[kRowsOfBlocks];
        const bool weigh = pass.has_means_of_values();
        for (int r = 0; r < rows; r++) {
            before[r] = most[r];
            most[r] -= of->left[r];
            if (weigh) of->weights[r] = newest_l(row + r);
        }
        const bool grew = pass.kernels().softmax(
            {of->scores, pass.stride(), rows, pass.tokens(), most, lanes.data() + static_cast<size_t>(row) * kBlock, factors});
        for (int r = 0; r < rows; r++) {
            most[r] = factors[r] == 1 ? before[r] : most[r] + of->left[r];
            if (weigh) of->weights[r] = newest_l(row + r) - factors[r] * of->weights[r];
        }
        return grew;
    }

    void scale_row(const AttendKernels &kernels, int r, float factor)
    {
        l[static_cast<size_t>(r)] *= static_cast<double>(factor);
        o.scale(kernels, r, factor);
        if (has_rotated) rotated.scale(kernels, r, factor);
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
    parts.m.assign(static_cast<size_t>(rows), kNothing);
    parts.l.assign(static_cast<size_t>(rows), 0.0);
    parts.lanes.get(static_cast<size_t>(rows) * kBlock);
    parts.newest_tiles = 0;
    parts.o.begin(rows, dim_v);
    parts.has_rotated = false;
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
    parts.make_room();
    if (pass.rotated_values()) parts.use_rotated(pass.values_dim());
    const int most = std::min(pass.rows_at_once(), forms.rows);
    float *scores = forms.scores.get(static_cast<size_t>(most) * pass.stride());
    forms.factors.resize(static_cast<size_t>(most));
    // Chunks of equal size, as far as they go: nine rows are three times three.
    const int chunks = (forms.rows + most - 1) / most;
    for (int chunk = 0, row = 0; chunk < chunks; chunk++) {
        const int rows = (forms.rows - row) / (chunks - chunk);
        Parts::Rowwise of;
        of.scores = scores;
        if (pass.scores(row, rows, scores, of.left)) {
            if (parts.softmax(pass, row, rows, &of, forms.factors.data()))
                for (int r = 0; r < rows; r++)
                    if (forms.factors[static_cast<size_t>(r)] != 1)
                        parts.scale_row(pass.kernels(), row + r, forms.factors[static_cast<size_t>(r)]);
            const Sums &sums = pass.rotated_values() ? parts.rotated : parts.o;
            pass.values(scores, rows, sums.newest(row), sums.stride());
            if (pass.has_means_of_values()) pass.add_means_of_values(of.weights, rows, parts.o.newest(row), parts.o.stride());
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
        float *sum = parts.o.newest(r);
        const float *other = o + at * static_cast<size_t>(parts.dim_v);
        for (int d = 0; d < parts.dim_v; d++) sum[d] += static_cast<float>(factor) * other[d];
    }
}

size_t Accumulator::bytes() const
{
    const Parts &parts = *parts_;
    return sizeof(Parts) + parts.m.capacity() * sizeof(float) + parts.l.capacity() * sizeof(double) + parts.lanes.bytes() +
           parts.o.bytes() + parts.rotated.bytes();
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
