// Exact answers with the help of a device that compares in float, in an order of its own.
//
// The device gets a block of rows as floats and names, for each query, the few it finds nearest, a little more than are wanted.
// What it says is taken as a hint with a bound: a row is compared again by the operators' kernels where it may be among the
// nearest, and where rows that the device did not name may be, too, the whole block is. Rows and queries whose sums may leave the
// range of floats are never left to the device. So the search finds what it would find alone.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/nearest/nearest.h"

namespace vkv::nearest {

// What the device compares by.
enum class DeviceMetric { l2_squared, negative_inner_product, l1 };

struct Found {
    float distance;
    uint32_t row;  // of those sent; beyond them where fewer are wanted than there are
};

// Of a device, for the k nearest: some more, which it may not tell apart.
constexpr size_t most_wanted(size_t k) { return k + std::max<size_t>(8, k / 8); }

class Offers {
public:
    explicit Offers(Search *search);

    DeviceMetric metric() const;
    // The rows, [n][dim] of the search's type, must stay until take(). Nothing is kept of them before.
    void begin(const void *rows, const RowId *ids, size_t n);
    size_t rows() const { return sent_.size(); }  // to be sent; with 0 of them take() needs no answer
    size_t wanted() const;                        // of them, for each query
    // The request: [queries][dim] and [rows()][dim].
    void write(float *queries, float *vectors) const;
    // The answer: [queries][wanted()], nearest first.
    void take(const Found *found);

    uint64_t incomplete() const { return incomplete_; }  // pairs of query and block that were compared here all the same

private:
    const uint8_t *row(size_t i) const { return rows_ + i * row_bytes_; }
    double norm2(const void *vector) const;
    bool usual(double norm2) const;
    void write_vector(const void *vector, double norm2, float *out) const;
    double least(size_t q, double distance) const;
    bool take_named(size_t q, const Found *found, std::vector<bool> *named);
    void offer_all_but(size_t q, const std::vector<bool> &named);

    Search *search_;
    size_t dim_, row_bytes_;
    double operator_error_, device_error_;
    std::vector<double> query_norms2_;
    const uint8_t *rows_ = nullptr;
    const RowId *ids_ = nullptr;
    std::vector<uint32_t> sent_, kept_back_;  // numbers of rows: for the device, and not
    std::vector<double> sent_norms2_;
    double most_norm_ = 0;
    uint64_t incomplete_ = 0;
};

}  // namespace vkv::nearest
