// Which channels of a tile have a mean worth taking off: those whose mean is large beside what is left of a channel without it.
//
// Codes of a token share a scale (of all dims, or of groups), so a channel that is large in the same way for all tokens makes the
// steps of all others large. Means that come about by chance must not count: those of n random numbers are 1 / sqrt(n) of their
// deviation. Keys of models have a dozen such channels a head (docs/decisions.md), values hardly any, and the few that they have
// cost every read some work: so they must stand out more.
#include <algorithm>
#include <cmath>

#include "core/kv/encode.h"
#include "core/kv/tile.h"
#include "core/simd/half.h"

namespace vkv::kv {
namespace {

constexpr double kLeastOfKeys = 1, kLeastOfValues = 1.5;  // means, in deviations of the rest
constexpr double kOfChance = 16;                          // tokens of which means by chance reach a deviation
// What is left of a channel must be a half: a mean is off any of its numbers by at most twice the largest.
constexpr float kLargest = 65504.0f / 2;

struct Candidate {
    double mean;
    double weight;  // by how much it exceeds the bound
    uint16_t channel;
    bool of_values;
};

// What the minimum of a group of dims takes off all of them, nearly. Groups are asked for one dim after the other.
class UsualMeans {
public:
    double of(const MeasuredPlane &plane, int d)
    {
        if (plane.group == 0) return 0;
        if (d % plane.group == 0) {
            const int count = std::min(plane.group, plane.dim - d);
            float sums[kMaxEncodeDim];
            std::copy_n(plane.sums->sum + d, count, sums);
            std::nth_element(sums, sums + count / 2, sums + count);
            usual_ = static_cast<double>(sums[count / 2]) / plane.tokens;
        }
        return usual_;
    }

private:
    double usual_ = 0;
};

// The candidates of a plane, at most kMostMeans, into `out`; returns their end.
Candidate *list(const MeasuredPlane &plane, bool values, Candidate *out)
{
    if (plane.dim == 0) return out;
    const PlaneSums &sums = *plane.sums;
    const double part = 1.0 / plane.tokens;
    Candidate largest[kMaxEncodeDim];
    UsualMeans usual_means;
    double rest = 0;  // mean square of a token's numbers, without the means so far
    for (int d = 0; d < plane.dim; ++d) {
        const double usual = usual_means.of(plane, d), mean = static_cast<double>(sums.sum[d]) * part;
        const double off = sums.most[d] <= kLargest ? mean - usual : 0;
        largest[d] = {off, 0, static_cast<uint16_t>(d), values};
        rest += static_cast<double>(sums.square[d]) * part - (2 * mean - usual) * usual;
    }
    const int most = std::min(kMostMeans, plane.dim / 4);
    std::partial_sort(largest, largest + most, largest + plane.dim, [](const Candidate &a, const Candidate &b) {
        const double x = std::fabs(a.mean), y = std::fabs(b.mean);
        return x != y ? x > y : a.channel < b.channel;
    });
    const double least = values ? kLeastOfValues : kLeastOfKeys, bound = least * least * (1 + kOfChance * part);
    int chosen = 0;
    double usual = 0;
    for (int i = 0; i < most; ++i) {
        const double square = largest[i].mean * largest[i].mean;
        rest = std::max(rest - square, 0.0);
        const double needed = bound * rest / (plane.dim - i - 1);
        if (square == 0 || square < needed) continue;
        chosen = i + 1;
        usual = needed;
    }
    for (int i = 0; i < chosen; ++i) {
        largest[i].weight = largest[i].mean * largest[i].mean / std::max(usual, 1e-30);
        *out++ = largest[i];
    }
    return out;
}

}  // namespace

MeanCounts choose_means(const MeasuredPlane &k, const MeasuredPlane &v, int room, Mean *out)
{
    Candidate candidates[2 * kMostMeans];
    Candidate *const end = list(v, true, list(k, false, candidates));
    const int count = std::min(static_cast<int>(end - candidates), room);
    std::partial_sort(candidates, candidates + count, end, [](const Candidate &a, const Candidate &b) {
        if (a.weight != b.weight) return a.weight > b.weight;
        return a.of_values != b.of_values ? b.of_values : a.channel < b.channel;
    });
    std::sort(candidates, candidates + count, [](const Candidate &a, const Candidate &b) {
        return a.of_values != b.of_values ? b.of_values : a.channel < b.channel;
    });
    MeanCounts counts;
    for (int i = 0; i < count; ++i) {
        out[counts.all++] = {candidates[i].channel, float_to_half(static_cast<float>(candidates[i].mean))};
        if (!candidates[i].of_values) ++counts.k;
    }
    return counts;
}

}  // namespace vkv::kv
