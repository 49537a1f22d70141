// Asking the helper program for the nearest rows of a block.

#include "pg/nearest/by_helper.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstring>

#include "core/offload/crossover.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/gpu/helper.h"

namespace vkv::nearest {

namespace {

constexpr double kRowsToJudge = 8192;  // of the helper's answers, before its pace counts
constexpr size_t kLeastRows = 512;     // of a request: each query costs it something, however few they are

static_assert(sizeof(Found) == sizeof(offload::Neighbor) && offsetof(Found, row) == offsetof(offload::Neighbor, row));

offload::Metric wire_metric(DeviceMetric metric)
{
    switch (metric) {
        case DeviceMetric::l2_squared:
            return offload::Metric::l2_squared;
        case DeviceMetric::l1:
            return offload::Metric::l1;
        default:
            return offload::Metric::negative_inner_product;
    }
}

uint64_t request_bytes(const Search &search, size_t rows)
{
    const uint64_t dim = search.distance().dim;
    return (search.queries() + rows) * dim * sizeof(float) + search.queries() * search.k() * sizeof(offload::Neighbor);
}

}  // namespace

ByHelper::ByHelper(Search *search) : search_(search), over_(helper::use() == helper::Use::off) {}

void ByHelper::took_here(size_t n, uint64_t nanoseconds)
{
    if (n > 0) here_ns_ = static_cast<double>(nanoseconds) / static_cast<double>(n);
}

bool ByHelper::worth_asking() const
{
    if (helper::use() != helper::Use::automatic) return true;
    if (here_ns_ == 0) return false;
    return there_rows_ < kRowsToJudge || there_ns_ / there_rows_ < here_ns_;
}

size_t ByHelper::most_rows() const
{
    const uint64_t k = most_wanted(search_->k());
    const uint64_t a_pair = offload::products_of_token(search_->distance().dim, 0) + offload::products_of_keeping(k);
    const uint64_t most = helper::max_products(k > offload::kMostNearest);
    return std::max<size_t>(most / std::max<uint64_t>(search_->queries() * a_pair, 1), kLeastRows);
}

bool ByHelper::add(const uint8_t *rows, const RowId *ids, size_t n)
{
    if (over_ || !worth_asking()) return false;
    helper::Estimate estimate;
    estimate.tile_bytes = estimate.staged_bytes = request_bytes(*search_, n);
    estimate.own_ns = static_cast<uint64_t>(here_ns_ * static_cast<double>(n));
    const char *why = nullptr;
    offload::Client *client = helper::client_for(estimate, &why);
    over_ = client == nullptr;
    if (over_) return false;
    if (!offers_) offers_.emplace(search_);
    offers_->begin(rows, ids, n);
    over_ = !helper::answered([&] {
        if (offers_->rows() > 0)
            ask(client);
        else
            offers_->take(nullptr);
        return true;
    });
    return !over_;
}

void ByHelper::ask(offload::Client *client)
{
    using Clock = std::chrono::steady_clock;
    const auto begun = Clock::now();
    offload::Client::NearestCall call;
    call.metric = wire_metric(offers_->metric());
    call.dim = static_cast<uint32_t>(search_->distance().dim);
    call.queries = static_cast<uint32_t>(search_->queries());
    call.rows = static_cast<uint32_t>(offers_->rows());
    call.k = static_cast<uint32_t>(offers_->wanted());
    call.deadline_us = helper::deadline_us();
    call.write = [this](float *queries, float *vectors) { offers_->write(queries, vectors); };
    const offload::Neighbor *answer = client->nearest(call);
    const auto waited = Clock::now() - begun;
    helper::count_answer(client->figures(),
                         static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(waited).count()));
    found_.resize(search_->queries() * offers_->wanted());
    std::memcpy(found_.data(), answer, found_.size() * sizeof(Found));
    offers_->take(found_.data());
    there_ns_ += static_cast<double>(std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begun).count());
    there_rows_ += static_cast<double>(offers_->rows());
}

}  // namespace vkv::nearest
