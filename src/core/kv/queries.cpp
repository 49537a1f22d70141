// Queries in the forms that tiles ask for: scaled and padded, rotated, as digits; and the angles of rotary embeddings.
#include "core/kv/queries.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "core/error.h"
#include "core/kv/rotation.h"

namespace vkv::kv {

Queries::Queries() : forms_(std::make_unique<Forms>()) {}
Queries::~Queries() = default;
Queries::Queries(Queries &&) noexcept = default;
Queries &Queries::operator=(Queries &&) noexcept = default;
int Queries::rows() const { return forms_->rows; }
int Queries::dim_k() const { return forms_->dim; }
void Queries::set(const float *q, int rows, int dim_k, float scale, float softcap) { forms_->set(q, rows, dim_k, scale, softcap); }

namespace {

// No key of a tile is larger (halves times levels, turned by a rotation, and a mean), so scores of queries below kMostQuery stay
// finite.
constexpr double kMostKey = 65504.0 * (127.0 * 32.0 + 1);
constexpr double kMostQuery = 1e38 / kMostKey;

// Bits of the largest magnitude: of a finite number they are below those of infinity.
uint32_t most_bits(const float *q, size_t n)
{
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++) most = std::max(most, std::bit_cast<uint32_t>(q[i]) & 0x7FFFFFFF);
    return most;
}

[[noreturn]] void refuse_query(const float *q, int row, int dim)
{
    for (int d = 0; d < dim; d++)
        if (!std::isfinite(q[d]))
            throw Error(Errc::data_exception, "query values must be finite: row " + std::to_string(row) + ", dimension " +
                                                  std::to_string(d) + " is " + std::to_string(q[d]));
    throw Error(Errc::data_exception, "query of row " + std::to_string(row) + " is too large: its scores would overflow");
}

}  // namespace

bool query_fits(const float *q, int dim, float scale)
{
    const float most = std::bit_cast<float>(most_bits(q, static_cast<size_t>(dim)));
    return static_cast<double>(most) * dim * std::fabs(static_cast<double>(scale)) <= kMostQuery;
}

void Queries::Forms::set(const float *q, int new_rows, int dim_k, float scale, float new_softcap)
{
    if (new_rows < 1)
        throw Error(Errc::data_exception, "there must be at least one row of queries, not " + std::to_string(new_rows));
    if (dim_k < 1 || dim_k > kMaxHeadDim)
        throw Error(Errc::data_exception,
                    "queries must have 1 to " + std::to_string(kMaxHeadDim) + " dimensions, not " + std::to_string(dim_k));
    if (!std::isfinite(scale)) throw Error(Errc::data_exception, "scale must be finite, not " + std::to_string(scale));
    if (!std::isfinite(new_softcap) || new_softcap < 0)
        throw Error(Errc::data_exception, "softcap must be finite and not negative, not " + std::to_string(new_softcap));
    const auto dims = static_cast<size_t>(dim_k), count = static_cast<size_t>(new_rows);
    for (int row = 0; row < new_rows; row++)
        if (!query_fits(q + static_cast<size_t>(row) * dims, dim_k, scale))
            refuse_query(q + static_cast<size_t>(row) * dims, row, dim_k);
    rows = new_rows;
    dim = dim_k;
    softcap = new_softcap;
    stride_ = padded(dims, kRowPad);
    for (Basis *basis : {&plain_, &rotated_}) basis->made = basis->digits_made = false;
    float *to = plain_.q.get(count * stride_);
    for (size_t row = 0; row < count; row++, to += stride_) {
        for (size_t d = 0; d < dims; d++) to[d] = q[row * dims + d] * scale;
        std::fill(to + dims, to + stride_, 0.0f);
    }
    plain_.rows = {};
    plain_.rows.q = plain_.q.data();
    plain_.rows.stride = stride_;
    plain_.rows.rows = rows;
    plain_.made = true;
}

const QueryRows &Queries::Forms::in_basis(bool rotated, bool digits, const AttendKernels &kernels)
{
    Basis &basis = rotated ? rotated_ : plain_;
    if (!basis.made) {
        const size_t n = static_cast<size_t>(rows) * stride_;
        float *q = basis.q.get(n);
        std::copy_n(plain_.q.data(), n, q);
        for (size_t at = 0; at < n; at += stride_) rotate_by(kernels, q + at, dim);
        basis.rows = {};
        basis.rows.q = q;
        basis.rows.stride = stride_;
        basis.rows.rows = rows;
        basis.made = true;
    }
    if (digits && !basis.digits_made) make_digits(basis, kernels);
    return basis.rows;
}

namespace {

void flip(float *x, int dim, int set)
{
    const uint32_t *signs = rotation_signs(set);
    for (int d = 0; d < dim; d++) x[d] = std::bit_cast<float>(std::bit_cast<uint32_t>(x[d]) ^ signs[d]);
}

}  // namespace

void rotate_by(const AttendKernels &kernels, float *x, int dim)
{
    const int p = hadamard_size(dim);
    if (p < kBlock) return rotate(x, dim);
    flip(x, dim, 0);
    kernels.hadamard(x, p);
    if (p == dim) return;
    flip(x, dim, 1);
    kernels.hadamard(x + dim - p, p);
}

void rotate_back_by(const AttendKernels &kernels, float *x, int dim)
{
    const int p = hadamard_size(dim);
    if (p < kBlock) return rotate_back(x, dim);
    if (p != dim) {
        kernels.hadamard(x + dim - p, p);
        flip(x, dim, 1);
    }
    kernels.hadamard(x, p);
    flip(x, dim, 0);
}

void Queries::Forms::make_digits(Basis &basis, const AttendKernels &kernels) const
{
    const auto count = static_cast<size_t>(rows), sums_a_row = stride_ / kRowPad * 4;
    uint32_t *digits = basis.digits.get(count * stride_);
    int32_t *sums = basis.digit_sums.get(count * sums_a_row);
    basis.steps.resize(count);
    for (size_t row = 0; row < count; row++)
        kernels.digits(
            {basis.q.data() + row * stride_, stride_, digits + row * stride_, sums + row * sums_a_row, &basis.steps[row]});
    basis.rows.digits = digits;
    basis.rows.digit_sums = sums;
    basis.rows.steps = basis.steps.data();
    basis.digits_made = true;
}

// ---- angles -------------------------------------------------------------------------------------------------------------------

void RopePhases::start(const Rope &rope)
{
    frequencies_ = rope.frequencies();
    const size_t pairs = frequencies_.size();
    position_ = -1;
    for (Step &step : steps_) step.distance = 0;
    for (auto *values : {&cosine_, &sine_}) values->assign(pairs, 0.0);
    for (auto *values : {&cosine32_, &sine32_}) values->assign(pairs, 0.0f);
    for (auto *values : {&lane_cosines_, &lane_sines_}) values->assign(pairs * kBlock, 0.0f);
    for (size_t i = 0; i < pairs; i++)
        for (size_t lane = 0; lane < kBlock; lane++) {
            lane_cosines_[i * kBlock + lane] = static_cast<float>(std::cos(static_cast<double>(lane) * frequencies_[i]));
            lane_sines_[i * kBlock + lane] = static_cast<float>(std::sin(static_cast<double>(lane) * frequencies_[i]));
        }
}

void RopePhases::set_exactly(int64_t position)
{
    for (size_t i = 0; i < frequencies_.size(); i++) {
        const double angle = static_cast<double>(position) * frequencies_[i];
        cosine_[i] = std::cos(angle);
        sine_[i] = std::sin(angle);
    }
    advanced_ = 0;
}

void RopePhases::advance(int64_t distance)
{
    Step *step = &steps_[0];
    if (step->distance != distance) step = &steps_[1];
    if (step->distance != distance) {
        step = &steps_[next_step_];
        next_step_ = 1 - next_step_;
        step->distance = distance;
        step->cosine.resize(frequencies_.size());
        step->sine.resize(frequencies_.size());
        for (size_t i = 0; i < frequencies_.size(); i++) {
            step->cosine[i] = std::cos(static_cast<double>(distance) * frequencies_[i]);
            step->sine[i] = std::sin(static_cast<double>(distance) * frequencies_[i]);
        }
    }
    for (size_t i = 0; i < frequencies_.size(); i++) {
        const double c = cosine_[i], s = sine_[i];
        cosine_[i] = c * step->cosine[i] - s * step->sine[i];
        sine_[i] = s * step->cosine[i] + c * step->sine[i];
    }
    advanced_++;
}

RopeBlock RopePhases::at(const Rope &rope, int64_t position)
{
    if (rope.frequencies() != frequencies_) start(rope);
    if (position != position_) {
        const int64_t distance = position - position_;
        if (position_ >= 0 && distance > 0 && distance <= 512 && advanced_ < kExactEvery)
            advance(distance);
        else
            set_exactly(position);
        position_ = position;
        std::copy(cosine_.begin(), cosine_.end(), cosine32_.begin());
        std::copy(sine_.begin(), sine_.end(), sine32_.begin());
    }
    return {nullptr,
            static_cast<int>(frequencies_.size()),
            rope.pairing() == Pairing::interleaved,
            cosine32_.data(),
            sine32_.data(),
            lane_cosines_.data(),
            lane_sines_.data()};
}

}  // namespace vkv::kv
