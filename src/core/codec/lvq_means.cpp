// Finding groups: a row of the sample is asked how many others lie within the reach of its code's error. Where they are enough to
// outgrow the pool of a search, their mean becomes one of the model's. Rounds are repeated around the means found so far, so a
// group within a group is found too; a few dozen rows in a row that have no group end it, and that is all that most data cost.
#include "core/codec/lvq_means.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/codec/lvq_layout.h"
#include "core/simd/kernels.h"

namespace vkv::lvq {
namespace {

constexpr size_t kSampleBytes = size_t{16} << 20;
constexpr size_t kFewestRows = 256;
constexpr size_t kPollEvery = 512;  // rows
constexpr int kRounds = 4;
constexpr int kVainProbes = 32;    // rows without a group, one after the other, after which no more are asked
constexpr size_t kMembers = 4;     // of a group, in the sample: different ones
constexpr double kGroupRows = 32;  // of a group, in what the sample stands for: fewer are all in a search's pool

uint64_t random_of(uint64_t &state)  // split mix
{
    uint64_t z = state += 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

double square_to(const float *a, const float *b, uint32_t dim)
{
    return sum_of(dim, [&](uint32_t i) {
        const double difference = static_cast<double>(a[i]) - b[i];
        return difference * difference;
    });
}

class GroupSearch {
public:
    GroupSearch(const Sample &sample, uint32_t dim, std::span<const float> mean, const std::function<void()> &poll)
        : poll_(poll),
          rows_(sample.rows().data()),
          n_(sample.rows().size() / dim),
          dim_(dim),
          fewest_(std::max(static_cast<double>(kMembers), kGroupRows / sample.weight())),
          means_(mean.begin(), mean.end()),
          order_(n_),
          distance_(n_),
          rest_(dim)
    {
        std::iota(order_.begin(), order_.end(), uint32_t{0});
        uint64_t state = n_;
        for (size_t i = n_; i > 1; --i) std::swap(order_[i - 1], order_[random_of(state) % i]);
    }

    std::vector<float> find()
    {
        for (int round = 0; round < kRounds && probe_all(); ++round) {
        }
        return {means_.begin() + dim_, means_.end()};
    }

private:
    const float *row(size_t i) const { return rows_ + i * dim_; }
    uint32_t count() const { return static_cast<uint32_t>(means_.size() / dim_); }

    bool probe_all()
    {
        std::vector<bool> done(n_);
        bool found = false;
        int vain = 0;
        for (const uint32_t i : order_) {
            if (done[i]) continue;
            done[i] = true;
            if (vain == kVainProbes || count() == kMaxMeans) break;
            const bool group = probe(i, done);
            vain = group ? 0 : vain + 1;
            found |= group;
        }
        return found;
    }

    // The square of the distance below which codes of this row's step do not tell rows apart: half a step in each dimension.
    double reach_of(const float *x, const float *mean, float *range)
    {
        for (uint32_t i = 0; i < dim_; i++) rest_[i] = x[i] - mean[i];
        float low, high;
        simd::kernels().min_max(rest_.data(), dim_, &low, &high);
        *range = high - low;
        const double step = (static_cast<double>(high) - low) / 255;
        return dim_ * step * step / 4;
    }

    // The mean of the rows within reach of x; how many different distances they have.
    size_t gather(const float *x, double reach, std::vector<float> *centre)
    {
        members_.clear();
        std::vector<float> distances;
        for (size_t i = 0; i < n_; i++) {
            if (i % kPollEvery == 0) poll_();
            distance_[i] = simd::kernels().l2_f32(x, row(i), dim_);
            if (!(distance_[i] <= reach)) continue;
            members_.push_back(static_cast<uint32_t>(i));
            distances.push_back(distance_[i]);
        }
        std::vector<double> sum(dim_);
        for (size_t m = 0; m < members_.size(); m++) {
            if (m % kPollEvery == 0) poll_();
            for (uint32_t k = 0; k < dim_; k++) sum[k] += row(members_[m])[k];
        }
        centre->resize(dim_);
        for (uint32_t k = 0; k < dim_ && !members_.empty(); k++)
            (*centre)[k] = static_cast<float>(sum[k] / static_cast<double>(members_.size()));
        size_t compared = 0;
        std::sort(distances.begin(), distances.end(), [&](float a, float b) {
            if (++compared % kPollEvery == 0) poll_();
            return a < b;
        });
        return static_cast<size_t>(std::unique(distances.begin(), distances.end()) - distances.begin());
    }

    bool probe(uint32_t at, std::vector<bool> &done)
    {
        const float *x = row(at);
        float range, left;
        const double reach = reach_of(x, &means_[size_t{nearest_mean(means_.data(), count(), x, dim_)} * dim_], &range);
        std::vector<float> first, centre;
        if (static_cast<double>(gather(x, reach, &first)) < fewest_) return false;
        gather(first.data(), reach, &centre);  // the group as seen from its middle
        if (members_.empty()) return false;
        reach_of(x, centre.data(), &left);
        if (!(left < range / 2)) return false;  // nothing is gained
        for (const uint32_t i : members_) done[i] = true;
        means_.insert(means_.end(), centre.begin(), centre.end());
        return true;
    }

    const std::function<void()> &poll_;
    const float *rows_;
    size_t n_;
    uint32_t dim_;
    double fewest_;
    std::vector<float> means_;
    std::vector<uint32_t> order_, members_;
    std::vector<float> distance_, rest_;
};

}  // namespace

Sample::Sample(uint32_t dim) : dim_(dim), most_(std::max(kFewestRows, kSampleBytes / (size_t{dim} * sizeof(float)))) {}

void Sample::add(const float *row)
{
    size_t at = kept_;
    if (kept_ == most_)
        at = random_of(state_) % (seen_ + 1);
    else
        rows_.resize(++kept_ * dim_);
    ++seen_;
    if (at < kept_) std::copy(row, row + dim_, &rows_[at * dim_]);
}

std::vector<float> group_means(const Sample &sample, uint32_t dim, std::span<const float> mean, const std::function<void()> &poll)
{
    return GroupSearch(sample, dim, mean, poll).find();
}

uint32_t nearest_mean(const float *means, uint32_t count, const float *x, uint32_t dim)
{
    if (count == 1) return 0;
    // Around the mean of a group that it is no part of, a row's step would hardly be smaller, and distances to codes of another
    // mean take longer.
    constexpr double kGain = 16;
    // Levels differ in the last bits of a float: what is as near as that is measured again.
    constexpr float kSlack = 1 + 1e-4f;
    std::vector<float> distance(count, INFINITY);
    for (uint32_t j = 1; j < count; j++) distance[j] = simd::kernels().l2_f32(means + size_t{j} * dim, x, dim);
    const float bound = *std::min_element(distance.begin(), distance.end()) * kSlack;
    uint32_t best = 0;
    double least = INFINITY;
    for (uint32_t j = 1; j < count; j++) {
        if (!(distance[j] <= bound)) continue;
        const double square = square_to(means + size_t{j} * dim, x, dim);
        if (square < least) {
            least = square;
            best = j;
        }
    }
    return least * kGain <= square_to(means, x, dim) ? best : 0;
}

}  // namespace vkv::lvq
