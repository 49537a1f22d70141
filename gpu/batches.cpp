// The scheduler's part that makes launches of what is ready.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/offload/crossover.h"
#include "gpu/scheduler.h"

namespace vkv::gpu {

using namespace offload;

namespace {

// More work than this gains nothing by being launched together with others' (microseconds).
constexpr uint64_t kTogetherUs = 20000;

uint64_t products_of(const Request &r)
{
    uint64_t tokens = 0;
    for (const Span &span : r.parts.spans) tokens += static_cast<uint64_t>(span.to - span.from);
    const AttendRequest &head = r.parts.head;
    return tokens * head.kv_heads * head.rows * products_of_token(head.dim_k, head.dim_v);
}

}  // namespace

void Scheduler::launch_ready()
{
    if (running_since_ || ready_.empty() || stopping_ || device_failed()) return;
    const uint64_t now = now_us();
    uint64_t tiles = 0;
    for (const Request *r : ready_) tiles += r->tiles;
    if (options_.batch_wait_us && tiles < options_.max_launch_tiles && now < ready_.front()->ready_us + options_.batch_wait_us)
        return;
    auto launch = std::make_unique<Launch>();
    tiles = 0;
    const uint64_t most_products = products_per_second(get(arena_->header().bytes_per_second)) / 1000000 * kTogetherUs;
    uint64_t products = 0;
    while (!ready_.empty()) {
        Request *r = ready_.front();
        const uint64_t more = r->is_attend() ? products_of(*r) : 0;
        if (!launch->answers.empty() && (!r->is_attend() || !launch->answers.front().request->is_attend() ||
                                         tiles + r->tiles > options_.max_launch_tiles || products + more > most_products))
            break;
        ready_.pop_front();
        try {
            if (r->is_attend()) add_to(launch.get(), r);
        } catch (const Failure &failure) {
            fail(r, failure.code(), failure.what());
            continue;
        }
        tiles += r->tiles;
        products += more;
        r->stage = Stage::running;
        Figures figures{};
        figures.tiles = r->tiles;
        figures.hits = r->hits;
        figures.staged_bytes = r->staged_bytes;
        figures.tile_bytes = r->tile_bytes;
        figures.staged_us = r->needed_us ? r->ready_us - r->needed_us : 0;
        figures.queued_us = now - r->submitted_us - figures.staged_us;
        launch->answers.push_back({r, r->peer->fd, figures, false});
    }
    if (launch->answers.empty()) return;
    running_since_ = now;
    launcher_->give(std::move(launch));
}

void Scheduler::add_to(Launch *launch, Request *r)
{
    AttendBatch &batch = launch->batch;
    Geometry geometry = r->parts.geometry();
    const size_t slots_before = batch.slots.size();
    const std::vector<Segment> segments = add_slots(r, &batch, &geometry);
    std::string why;
    if (!device_->supports(geometry, &why)) {
        batch.slots.resize(slots_before);
        throw Failure(FailureCode::not_supported, why);
    }
    const auto known = std::find(batch.geometries.begin(), batch.geometries.end(), geometry);
    const auto number = static_cast<uint32_t>(known - batch.geometries.begin());
    if (known == batch.geometries.end()) batch.geometries.push_back(geometry);
    add_heads(*r, number, segments, &batch);
}

// Slots of every span, head by head: [spans][heads].
std::vector<Segment> Scheduler::add_slots(Request *r, AttendBatch *batch, Geometry *geometry)
{
    std::vector<Segment> segments;
    r->tile_bytes = 0;
    for (size_t i = 0; i < r->parts.spans.size(); i++) {
        const Span &span = r->parts.spans[i];
        const Table *table = r->tables[i];
        if (table) geometry->codecs |= table->codecs;
        for (uint32_t h = 0; h < r->heads(); h++) {
            const auto first = static_cast<uint32_t>(batch->slots.size());
            if (table) {
                const Table::Head &head = table->heads[h];
                const auto [begin, end] = head.range(span.from, span.to);
                batch->slots.insert(batch->slots.end(), head.slots.begin() + begin, head.slots.begin() + end);
                r->tile_bytes += std::accumulate(head.bytes.begin() + begin, head.bytes.begin() + end, uint64_t{0});
            } else {
                const uint32_t *at = &r->private_at[i * r->heads() + h];
                for (uint32_t k = at[0]; k < at[1]; k++) {
                    const uint32_t slot = r->private_slots[k];
                    batch->slots.push_back(slot);
                    r->tile_bytes += cache_[slot].bytes;
                    geometry->codecs |= 1u << cache_[slot].codec;
                }
            }
            segments.push_back({first, static_cast<uint32_t>(batch->slots.size()) - first, span.from, span.to});
        }
    }
    batch->tile_bytes += r->tile_bytes;
    return segments;
}

void Scheduler::add_heads(const Request &r, uint32_t geometry, const std::vector<Segment> &of_spans, AttendBatch *batch)
{
    const uint64_t query_floats = r.parts.query_floats(), state_floats = r.parts.state_floats();
    const auto *queries = reinterpret_cast<const float *>(r.area + r.parts.head.queries_at);
    auto *states = reinterpret_cast<float *>(r.area + r.parts.head.states_at);
    for (const Item &item : r.parts.items)
        for (uint32_t h = 0; h < r.heads(); h++, queries += query_floats, states += state_floats) {
            if (item.spans == 0) {
                std::fill_n(states, r.parts.head.rows, -std::numeric_limits<float>::infinity());
                std::fill_n(states + r.parts.head.rows, state_floats - r.parts.head.rows, 0.0f);
                continue;
            }
            const auto first = static_cast<uint32_t>(batch->segments.size());
            for (uint32_t s = item.first_span; s < item.first_span + item.spans; s++)
                batch->segments.push_back(of_spans[size_t{s} * r.heads() + h]);
            batch->heads.push_back({geometry, item.total, first, item.spans, queries, states});
        }
}

// ---- answers ---------------------------------------------------------------------------------------------------------------

void Scheduler::collect_launches()
{
    for (const std::unique_ptr<Launch> &launch : launcher_->take_done()) {
        running_since_ = 0;
        if (!launch->device_error.empty()) device_error_ = launch->device_error;
        count(*launch);
        for (const Launch::Answer &answer : launch->answers) finish(answer.request);
    }
}

void Scheduler::count(const Launch &launch)
{
    ArenaHeader &head = arena_->header();
    bool counted = false;
    for (const Launch::Answer &answer : launch.answers) {
        if (answer.request->peer->own) continue;
        counted = true;
        const Figures &f = answer.figures;
        if (!launch.device_error.empty()) {
            add(head.failed, 1);
            continue;
        }
        if (!answer.delivered) add(head.dropped, 1);
        add(head.requests, 1);
        add(head.hits, f.hits);
        add(head.misses, f.tiles - f.hits);
        add(head.staged_bytes, f.staged_bytes);
        add(head.tile_bytes, f.tile_bytes);
        add(head.queue_us, f.queued_us);
    }
    if (!counted) return;
    add(head.batches, 1);
    add(head.launches, launch.batch.launches);
    add(head.device_us, launch.device_us);
}

}  // namespace vkv::gpu
