// The search: margins, panels, and what is kept.
//
// Margins. A float sum of terms t_i errs by at most g * sum|t_i|, g = roundings in the longest chain * 2^-24. With e_o and e_p for
// the operators' sums and the panels', and |a|, |b| for the norms (sum|a_i b_i| <= |a| |b|), a row is passed over only if
//   l1:              sum * (1 - e_o - e_p) > limit                           the terms are positive: errors are relative
//   l2, differences: the same
//   l2, products:    (|a|^2 + |b|^2) (1 - 3 e_o - e_p) - 2 <a,b> > limit     as (|a| + |b|)^2 <= 2 (|a|^2 + |b|^2)
//   ip:              -<a, b/|b|> - (e_o + e_p) |a| > limit / |b|
//   cosine:          1 - <a, b/|b|> / |a| - (e_o + e_p) > limit              the operator's sums are doubles, but |b| is of floats
// with a few roundings more for norms and for the comparison itself. Where squared norms leave [1e-30, 1e30], products may
// underflow or overflow and no such bound holds: those rows (offset NaN) and queries (limit infinite) are always recomputed.
#include "core/nearest/nearest.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/error.h"

namespace vkv::nearest {
namespace {

constexpr double kRounding = 1.0 / (1 << 24);
constexpr double kLeastNorm2 = 1e-30, kMostNorm2 = 1e30;
constexpr float kInfinite = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
constexpr size_t kFewQueries = 3;  // as many are quicker compared one by one

// The farther of two comes first in a heap: by distance, then source, then id; NaN is beyond every number.
bool nearer(const Neighbor &a, const Neighbor &b)
{
    if (a.distance < b.distance) return true;
    if (a.distance > b.distance) return false;
    const bool a_nan = std::isnan(a.distance), b_nan = std::isnan(b.distance);
    if (a_nan != b_nan) return b_nan;
    return a.source != b.source ? a.source < b.source : a.id < b.id;
}

float round_up(double x)
{
    const float f = static_cast<float>(x);
    return static_cast<double>(f) < x ? std::nextafter(f, kInfinite) : f;
}

bool usual(double norm2) { return norm2 >= kLeastNorm2 && norm2 <= kMostNorm2; }

}  // namespace

Search::Search(const Setup &s)
    : distance_{s.metric, s.scalar, s.dim},
      k_(s.k),
      count_(s.count),
      row_bytes_(s.dim * (s.scalar == Scalar::f32 ? sizeof(float) : sizeof(uint16_t))),
      operator_error_((static_cast<double>(s.dim) / 4 + 16) * kRounding),
      panel_error_((static_cast<double>(std::min<size_t>(s.dim, kBlock)) + static_cast<double>(s.dim) / kBlock + 8) * kRounding),
      queries_(s.count * row_bytes_),
      facts_(s.count),
      limits_((s.count + kPanelQueries - 1) / kPanelQueries * kPanelQueries, -kInfinite),
      kept_(s.count)
{
    if (s.scalar != Scalar::f32 && s.scalar != Scalar::f16)
        throw Error(Errc::not_supported, "only dense vectors are searched exactly");
    if (s.k < 1) throw Error(Errc::internal, "k must be 1 or more");
    if (count_ > 0) std::memcpy(queries_.data(), s.queries, queries_.size());
    by_products_ = s.metric == Metric::l2;
    choose_operation();
    if (count_ > kFewQueries) pack_queries();
}

void Search::choose_operation()
{
    const PanelKernels &kernels = panel_kernels(simd::active_level());
    if (distance_.metric == Metric::l1)
        operation_ = kernels.l1;
    else
        operation_ = distance_.metric == Metric::l2 && !by_products_ ? kernels.l2 : kernels.dot;
}

void Search::pack_queries()
{
    packed_queries_.assign(limits_.size() * distance_.dim, 0);
    packed_rows_.assign(distance_.dim * kPanelRows + 16, 0);
    const size_t past = reinterpret_cast<uintptr_t>(packed_rows_.data()) % 64 / sizeof(float);
    panel_rows_ = packed_rows_.data() + (past ? 16 - past : 0);
    widened_.resize(distance_.dim * (distance_.scalar == Scalar::f16 ? kPanelRows : 1));
    const bool to_unit = distance_.metric == Metric::ip || distance_.metric == Metric::cosine;
    for (size_t q = 0; q < count_; ++q) {
        if (distance_.scalar == Scalar::f16)
            simd::kernels().f16_to_f32(static_cast<const uint16_t *>(query(q)), widened_.data(), distance_.dim);
        else if (distance_.dim > 0)
            std::memcpy(widened_.data(), query(q), row_bytes_);
        Query &fact = facts_[q];
        for (size_t d = 0; d < distance_.dim; ++d)
            fact.norm2 += static_cast<double>(widened_[d]) * static_cast<double>(widened_[d]);
        fact.odd = distance_.metric != Metric::l1 && !usual(fact.norm2);
        const double factor = fact.odd ? 0 : to_unit ? -1 / std::sqrt(fact.norm2) : 1;
        float *out = &packed_queries_[q / kPanelQueries * kPanelQueries * distance_.dim + q % kPanelQueries];
        for (size_t d = 0; d < distance_.dim; ++d)
            out[d * kPanelQueries] = static_cast<float>(static_cast<double>(widened_[d]) * factor);
        set_limit(q);
    }
}

double Search::limit(size_t q) const
{
    return kept_[q].size() < k_ ? std::numeric_limits<double>::infinity() : kept_[q].front().distance;
}

void Search::set_limit(size_t q)
{
    if (packed_queries_.empty()) return;
    const Query &fact = facts_[q];
    double limit = this->limit(q);
    if (fact.odd || std::isnan(limit)) {
        limits_[q] = kInfinite;
        return;
    }
    const double e_o = operator_error_, e_p = panel_error_;
    switch (distance_.metric) {
        case Metric::ip:
            limit /= std::sqrt(fact.norm2);
            break;
        case Metric::cosine:
            limit += -1 + e_o + e_p + 8 * kRounding;
            break;
        case Metric::l2:
            if (by_products_) limit -= fact.norm2 * (1 - 3 * e_o - e_p - 16 * kRounding);
            break;
        default:
            break;
    }
    // Squares may underflow. Differences do not: sums that are not normal are exact.
    if (distance_.metric == Metric::l2) limit += 1e-37;
    limits_[q] = limit > 1e37 ? kInfinite : round_up(limit);
}

// Row i of a panel: what its sums are scaled by and shifted to.
void Search::row_terms(const uint8_t *row, size_t i)
{
    const double e_o = operator_error_, e_p = panel_error_;
    scale_[i] = static_cast<float>(1 - e_o - e_p - 16 * kRounding);
    offset_[i] = 0;
    if (distance_.metric == Metric::l1 || (distance_.metric == Metric::l2 && !by_products_)) return;
    const Distance own{Metric::ip, distance_.scalar, distance_.dim};
    const double norm2 = -own.compared(row, row);
    if (!usual(norm2)) {
        offset_[i] = kNan;
    } else if (distance_.metric == Metric::l2) {
        scale_[i] = -2;
        offset_[i] = static_cast<float>(norm2 * (1 - 3 * e_o - e_p - 16 * kRounding));
    } else if (distance_.metric == Metric::cosine) {
        scale_[i] = static_cast<float>(1 / std::sqrt(norm2));
    } else {
        scale_[i] = 1;
        offset_[i] = static_cast<float>(-(1.01 * e_o + e_p + 8 * kRounding) * std::sqrt(norm2));
    }
}

void Search::pack_rows(const uint8_t *rows, size_t n)
{
    const size_t dim = distance_.dim;
    const float *values[kPanelRows];
    for (size_t i = 0; i < n; ++i) {
        const uint8_t *row = rows + i * row_bytes_;
        row_terms(row, i);
        if (distance_.scalar == Scalar::f16) {
            simd::kernels().f16_to_f32(reinterpret_cast<const uint16_t *>(row), &widened_[i * dim], dim);
            values[i] = &widened_[i * dim];
        } else {
            values[i] = reinterpret_cast<const float *>(row);
        }
    }
    for (size_t i = n; i < kPanelRows; ++i) values[i] = values[0];  // found there is nothing
    interleave(values, dim, panel_rows_);
}

void Search::add(const void *rows, const RowId *ids, size_t n)
{
    const auto *bytes = static_cast<const uint8_t *>(rows);
    compared_ += n * count_;
    if (packed_queries_.empty()) {
        add_directly(bytes, ids, n);
        return;
    }
    for (size_t i = 0; i < n; i += kPanelRows) {
        add_panel(bytes + i * row_bytes_, ids + i, std::min(kPanelRows, n - i));
        // Vectors far from the origin and near to each other: products cannot tell them apart, differences can.
        if (by_products_ && compared_ >= 1000 * count_ && recomputed_ > compared_ / 8 && k_ < compared_ / count_ / 16) {
            by_products_ = false;
            choose_operation();
            for (size_t q = 0; q < count_; ++q) set_limit(q);
        }
    }
}

void Search::add_directly(const uint8_t *rows, const RowId *ids, size_t n)
{
    recomputed_ += n * count_;
    for (size_t i = 0; i < n; ++i)
        for (size_t q = 0; q < count_; ++q) keep(q, distance_.compared(rows + i * row_bytes_, query(q)), ids[i]);
}

void Search::add_panel(const uint8_t *rows, const RowId *ids, size_t n)
{
    pack_rows(rows, n);
    const uint32_t real = n == kPanelRows ? ~uint32_t{0} : (uint32_t{1} << n) - 1;
    uint32_t found[kPanelQueries];
    for (size_t first = 0; first < count_; first += kPanelQueries) {
        operation_({panel_rows_, &packed_queries_[first * distance_.dim], distance_.dim, scale_, offset_, &limits_[first], found});
        const size_t end = std::min(count_, first + kPanelQueries);
        for (size_t q = first; q < end; ++q) {
            uint32_t bits = found[q - first] & real;
            if (bits == 0) continue;
            for (; bits != 0; bits &= bits - 1) {
                const auto i = static_cast<size_t>(__builtin_ctz(bits));
                keep(q, distance_.compared(rows + i * row_bytes_, query(q)), ids[i]);
                ++recomputed_;
            }
            set_limit(q);
        }
    }
}

void Search::offer(size_t q, const void *row, RowId id)
{
    keep(q, distance_.compared(row, query(q)), id);
    ++recomputed_;
}

void Search::keep(size_t q, double compared, RowId id)
{
    std::vector<Neighbor> &heap = kept_[q];
    const Neighbor row{compared, id.id, id.source};
    if (heap.size() < k_) {
        heap.push_back(row);
        std::push_heap(heap.begin(), heap.end(), nearer);
    } else if (nearer(row, heap.front())) {
        std::pop_heap(heap.begin(), heap.end(), nearer);
        heap.back() = row;
        std::push_heap(heap.begin(), heap.end(), nearer);
    }
}

std::vector<Neighbor> Search::take_compared(size_t q)
{
    std::vector<Neighbor> nearest = std::move(kept_[q]);
    kept_[q].clear();
    std::sort_heap(nearest.begin(), nearest.end(), nearer);
    return nearest;
}

std::vector<Neighbor> Search::take(size_t q)
{
    std::vector<Neighbor> nearest = take_compared(q);
    for (Neighbor &n : nearest) n.distance = distance_.shown(n.distance);
    return nearest;
}

}  // namespace vkv::nearest
