// Forms of queries for the attention kernels, and the scratch memory of one attention: what is behind kv::Queries.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

#include "core/kv/attend.h"
#include "core/kv/kernels.h"

namespace vkv::kv {

constexpr size_t padded(size_t n, size_t to) { return (n + to - 1) / to * to; }

// Memory at a cache line, grown as needed; what it held is lost when it grows.
template <class T>
class Scratch {
public:
    Scratch() = default;
    ~Scratch() { ::operator delete[](data_, std::align_val_t{64}); }
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;
    T *get(size_t n)
    {
        if (n > size_) {
            T *grown = static_cast<T *>(::operator new[](n * sizeof(T), std::align_val_t{64}));
            ::operator delete[](std::exchange(data_, grown), std::align_val_t{64});
            size_ = n;
        }
        return data_;
    }
    T *data() const { return data_; }
    size_t bytes() const { return size_ * sizeof(T); }

private:
    T *data_ = nullptr;
    size_t size_ = 0;
};

// Cosines and sines of a block's angles. Most blocks lie a known distance behind the one before: their angles follow by a complex
// product in double; every kExactEvery products they are computed anew, so that errors stay below 1e-13.
class RopePhases {
public:
    // What rope_block needs for the 16 positions from `position` on, but for the block itself.
    RopeBlock at(const Rope &rope, int64_t position);

private:
    static constexpr int kExactEvery = 256;
    struct Step {
        int64_t distance = 0;
        std::vector<double> cosine, sine;
    };
    void start(const Rope &rope);
    void set_exactly(int64_t position);
    void advance(int64_t distance);

    std::vector<double> frequencies_;
    std::vector<double> cosine_, sine_;  // at position_
    std::vector<float> cosine32_, sine32_;
    std::vector<float> lane_cosines_, lane_sines_;  // [pairs][16]
    Step steps_[2];
    int next_step_ = 0, advanced_ = 0;
    int64_t position_ = -1;
};

// rotate and rotate_back of rotation.h by these kernels: the same but for rounding.
void rotate_by(const AttendKernels &kernels, float *x, int dim);
void rotate_back_by(const AttendKernels &kernels, float *x, int dim);

struct Queries::Forms {
    int rows = 0, dim = 0;
    float softcap = 0;

    // The queries in the caller's basis, or in that of rotated codecs; with digits, made by these kernels, if asked for.
    const QueryRows &in_basis(bool rotated, bool digits, const AttendKernels &kernels);
    void set(const float *q, int rows, int dim_k, float scale, float softcap);

    // Scratch of whoever attends.
    Scratch<float> scores, block, values;
    std::vector<float> factors;
    RopePhases phases;

private:
    struct Basis {
        bool made = false, digits_made = false;
        Scratch<float> q;
        Scratch<uint32_t> digits;
        Scratch<int32_t> digit_sums;
        std::vector<float> steps;
        QueryRows rows;
    };
    void make_digits(Basis &basis, const AttendKernels &kernels) const;

    size_t stride_ = 0;
    Basis plain_, rotated_;
};

}  // namespace vkv::kv
