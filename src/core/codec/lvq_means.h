// The means that LVQ codes are taken around: that of all vectors, and one for every group of vectors so close together that codes
// around the first cannot tell them apart (templated texts, frames of a film, variants of a product). Around its own mean a group's
// residuals are small, and so are the steps of its codes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace vkv::lvq {

inline constexpr uint32_t kMaxMeans = 1024;  // a code has ten bits for its mean

// Keeps an even choice of the rows that are added, whatever their order and number. Deterministic.
class Sample {
public:
    explicit Sample(uint32_t dim);
    void add(const float *row);
    const std::vector<float> &rows() const { return rows_; }
    // How many rows that were added one row that was kept stands for.
    double weight() const { return kept_ == 0 ? 1 : static_cast<double>(seen_) / static_cast<double>(kept_); }

private:
    uint32_t dim_;
    size_t most_, kept_ = 0;
    uint64_t seen_ = 0, state_ = 0;
    std::vector<float> rows_;
};

// Means of groups found in the sample, f32[dim] each, at most kMaxMeans - 1; none in most data. `mean` is that of all.
std::vector<float> group_means(const Sample &sample, uint32_t dim, std::span<const float> mean, const std::function<void()> &poll);

// Which of these means, f32[dim] each, x is coded around: the nearest of a group, if it is much nearer than the first, which is
// that of all. The same on every instruction set.
uint32_t nearest_mean(const float *means, uint32_t count, const float *x, uint32_t dim);

}  // namespace vkv::lvq
