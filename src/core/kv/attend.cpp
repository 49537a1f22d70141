// The running sums of attention over tiles; tile_pass.h leads each tile through the kernels.
//
// Sums of rotated tiles stay in the rotated basis, in sums of their own with the same m and l; they are turned back when somebody
// asks. A tile whose values are its keys has values in the basis of its keys, so those sums have the dimension of the keys.
#include "core/kv/attend.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/kv/queries.h"
#include "core/kv/tile_pass.h"

namespace vkv::kv {

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
