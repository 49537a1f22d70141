// What follows from a device's float distances. A sum of n float terms errs by at most n roundings in any order, so with e for the
// device's sums and the operators' together, a row that the device puts at `d` is, as the operator compares,
//   l2 (squared), l1:   not nearer than d (1 - e)                         the terms are positive
//   ip:                 not nearer than d - e |query| |row|
//   cosine:             not nearer than 1 + d - e                         vectors are sent with length 1, of sums of floats
// and a device that names rows in order has none nearer among those it leaves out than the last it names.
#include "core/nearest/offers.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace vkv::nearest {
namespace {

constexpr double kRounding = 1.0 / (1 << 24);
constexpr double kUnderflow = 1e-33;  // sums of 65,536 terms below the least normal float stay below it
constexpr double kLeastNorm2 = 1e-30, kMostNorm2 = 1e30;

}  // namespace

Offers::Offers(Search *search)
    : search_(search),
      dim_(search->distance().dim),
      row_bytes_(dim_ * (search->distance().scalar == Scalar::f32 ? sizeof(float) : sizeof(uint16_t))),
      operator_error_((static_cast<double>(dim_) / 4 + 16) * kRounding),
      device_error_((static_cast<double>(dim_) + 16) * kRounding)
{
    for (size_t q = 0; q < search->queries(); ++q) query_norms2_.push_back(norm2(search->query(q)));
}

DeviceMetric Offers::metric() const
{
    switch (search_->distance().metric) {
        case Metric::l2:
            return DeviceMetric::l2_squared;
        case Metric::l1:
            return DeviceMetric::l1;
        default:
            return DeviceMetric::negative_inner_product;
    }
}

double Offers::norm2(const void *vector) const
{
    return -Distance{Metric::ip, search_->distance().scalar, dim_}.compared(vector, vector);
}

// No sum leaves the range of floats, and products keep their precision.
bool Offers::usual(double norm2) const
{
    return norm2 <= kMostNorm2 && (metric() != DeviceMetric::negative_inner_product || norm2 >= kLeastNorm2);
}

void Offers::begin(const void *rows, const RowId *ids, size_t n)
{
    rows_ = static_cast<const uint8_t *>(rows);
    ids_ = ids;
    sent_.clear();
    sent_norms2_.clear();
    kept_back_.clear();
    most_norm_ = 0;
    for (size_t i = 0; i < n; ++i) {
        const double norm = norm2(row(i));
        if (usual(norm)) {
            sent_.push_back(static_cast<uint32_t>(i));
            sent_norms2_.push_back(norm);
            most_norm_ = std::max(most_norm_, std::sqrt(norm));
        } else {
            kept_back_.push_back(static_cast<uint32_t>(i));
        }
    }
}

// Some more than the search keeps: the device may confuse the last with those next to them.
size_t Offers::wanted() const { return std::min(rows(), most_wanted(search_->k())); }

void Offers::write_vector(const void *vector, double norm2, float *out) const
{
    if (search_->distance().scalar == Scalar::f16)
        simd::kernels().f16_to_f32(static_cast<const uint16_t *>(vector), out, dim_);
    else
        std::memcpy(out, vector, row_bytes_);
    if (search_->distance().metric != Metric::cosine) return;
    const double factor = usual(norm2) ? 1 / std::sqrt(norm2) : 0;
    for (size_t d = 0; d < dim_; ++d) out[d] = static_cast<float>(static_cast<double>(out[d]) * factor);
}

void Offers::write(float *queries, float *vectors) const
{
    for (size_t q = 0; q < search_->queries(); ++q) write_vector(search_->query(q), query_norms2_[q], queries + q * dim_);
    for (size_t i = 0; i < rows(); ++i) write_vector(row(sent_[i]), sent_norms2_[i], vectors + i * dim_);
}

// What the operator compares is not less, of a row at this distance by the device.
double Offers::least(size_t q, double distance) const
{
    const double e = 1.01 * (operator_error_ + device_error_);
    switch (search_->distance().metric) {
        case Metric::ip:
            return distance - e * std::sqrt(query_norms2_[q]) * most_norm_ * (1 + e) - kUnderflow;
        case Metric::cosine:
            return 1 + distance - e - 8 * kRounding;
        default:
            return distance * (1 - e) - kUnderflow;
    }
}

void Offers::take(const Found *found)
{
    std::vector<bool> named;
    for (size_t q = 0; q < search_->queries(); ++q, found += wanted()) {
        for (uint32_t i : kept_back_) search_->offer(q, row(i), ids_[i]);
        named.assign(rows(), false);
        if (rows() == 0 || (usual(query_norms2_[q]) && take_named(q, found, &named))) continue;
        ++incomplete_;
        offer_all_but(q, named);
    }
}

// False if rows that were not named may be among the nearest.
bool Offers::take_named(size_t q, const Found *found, std::vector<bool> *named)
{
    for (size_t i = 0; i < wanted(); ++i) {
        if (least(q, static_cast<double>(found[i].distance)) > search_->limit(q)) return true;  // nor is one behind it
        const uint32_t at = found[i].row;
        if (at >= rows() || (*named)[at]) return false;  // no answer to what was asked
        search_->offer(q, row(sent_[at]), ids_[sent_[at]]);
        (*named)[at] = true;
    }
    return wanted() == rows() || least(q, static_cast<double>(found[wanted() - 1].distance)) > search_->limit(q);
}

void Offers::offer_all_but(size_t q, const std::vector<bool> &named)
{
    for (size_t i = 0; i < rows(); ++i)
        if (!named[i]) search_->offer(q, row(sent_[i]), ids_[sent_[i]]);
}

}  // namespace vkv::nearest
