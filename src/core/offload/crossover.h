// Where attention is computed sooner: by the helper or by the caller itself. A model of three measured figures; it decides, it does
// not promise.
#pragma once
#include <cstdint>

namespace vkv::offload {

// How fast this process reads tiles: a moving average in which large calls weigh as much as they read.
class OwnSpeed {
public:
    void add(uint64_t tile_bytes, uint64_t microseconds)
    {
        bytes_ = bytes_ * kKept + static_cast<double>(tile_bytes);
        microseconds_ = microseconds_ * kKept + static_cast<double>(microseconds);
        if (calls_ < kFirstCalls) ++calls_;
    }
    // Too little is known before: the first calls also warm up what later ones find warm.
    bool known() const { return calls_ >= kFirstCalls && bytes_ > 0; }
    double nanoseconds(uint64_t tile_bytes) const { return static_cast<double>(tile_bytes) * microseconds_ * 1e3 / bytes_; }

private:
    static constexpr double kKept = 0.9;
    static constexpr int kFirstCalls = 3;
    double bytes_ = 0, microseconds_ = 0;
    int calls_ = 0;
};

// What a helper measured when it started (ArenaHeader).
struct HelperSpeed {
    uint64_t launch_ns, bytes_per_second, staging_per_second;
    bool known() const { return launch_ns > 0 && bytes_per_second > 0 && staging_per_second > 0; }
    double nanoseconds(uint64_t tile_bytes, uint64_t staged_bytes) const
    {
        return static_cast<double>(launch_ns) + 1e9 * static_cast<double>(tile_bytes) / static_cast<double>(bytes_per_second) +
               1e9 * static_cast<double>(staged_bytes) / static_cast<double>(staging_per_second);
    }
};

// Work of attention and of nearest vectors: products of a number of a query and one that is stored. A token, or a vector,
// costs some more, which short ones have little of their own beside.
inline constexpr uint64_t kProductsOfToken = 32;
inline constexpr uint64_t products_of_token(uint64_t dim_k, uint64_t dim_v) { return dim_k + dim_v + kProductsOfToken; }

// Keeping the k nearest costs each vector as much as products, at most. Of more than these a GPU keeps none: one thread of the
// processor does (gpu/cuda/device_cuda.cu), as slowly as any helper.
inline constexpr uint32_t kMostNearest = 1024;
inline constexpr uint64_t products_of_keeping(uint64_t k) { return k <= kMostNearest ? 2 * k : 512; }

// What the helper was measured to read, 4 rows of queries over halves (gpu/measure.cpp); before that, what a slow one does.
inline uint64_t products_per_second(uint64_t bytes_per_second)
{
    constexpr uint64_t kSlowest = 8000000000;
    return bytes_per_second > 0 ? 2 * bytes_per_second : kSlowest;
}

inline bool helper_is_faster(const HelperSpeed &helper, uint64_t own_nanoseconds, uint64_t tile_bytes, uint64_t staged_bytes)
{
    return helper.known() && helper.nanoseconds(tile_bytes, staged_bytes) < static_cast<double>(own_nanoseconds);
}

inline bool helper_is_faster(const HelperSpeed &helper, const OwnSpeed &own, uint64_t tile_bytes, uint64_t staged_bytes)
{
    return own.known() && helper_is_faster(helper, static_cast<uint64_t>(own.nanoseconds(tile_bytes)), tile_bytes, staged_bytes);
}

}  // namespace vkv::offload
