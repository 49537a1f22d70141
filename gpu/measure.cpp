// The speeds that `auto` compares, measured once when the helper starts.
#include "gpu/measure.h"

#include <poll.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "core/kv/tile.h"
#include "core/offload/client.h"
#include "core/simd/half.h"
#include "gpu/jobs.h"
#include "gpu/log.h"

namespace vkv::gpu {

using namespace offload;

namespace {

constexpr int kDim = 128, kHeads = 8, kRows = 4;
constexpr uint64_t kMostTiles = 1024;    // 8 MB
constexpr uint64_t kMostSlotsShare = 8;  // of the cache: an eighth, twice
constexpr uint64_t kBudgetUs = 60000;    // for each of the two repeated measurements
constexpr int kMostRepeats = 64, kRoundsOfStaging = 3;

// Tiles of halves, the same numbers in each.
class Tiles : public TileSource {
public:
    explicit Tiles(uint64_t count) : count_(static_cast<uint32_t>(count / kHeads)), tokens_(kv::tile_capacity(kShape)), ids_(count)
    {
        std::vector<uint16_t> halves(static_cast<size_t>(tokens_ * kDim));
        std::mt19937 random(1);
        std::normal_distribution<float> normal;
        for (uint16_t &h : halves) h = float_to_half(normal(random));
        bytes_ = kv::tile_bytes(kShape, tokens_);
        tile_.assign((bytes_ + 7) / 8, 0);
        kv::encode_tile(kShape, 0, 0, tokens_, {halves.data(), kDim}, {halves.data(), kDim}, tile_.data());
        rename();
    }
    // The same tiles under other ids, so that the cache does not know them.
    void rename()
    {
        for (uint64_t &id : ids_) id = kv::new_tile_id();
    }
    int32_t tokens() const { return static_cast<int32_t>(count_) * tokens_; }
    uint64_t bytes() const { return bytes_ * ids_.size(); }

    void entries(size_t, int32_t, std::vector<Entry> *out) override
    {
        for (uint32_t i = 0; i < count_; i++)
            for (uint16_t h = 0; h < kHeads; h++)
                out->push_back({ids_[i * kHeads + h], static_cast<int32_t>(i) * tokens_, static_cast<uint16_t>(tokens_), h});
    }
    void copy(size_t, const Entry &entry, void *slab) override
    {
        auto &header = *reinterpret_cast<kv::TileHeader *>(tile_.data());
        header.first = static_cast<uint32_t>(entry.first);
        header.head = entry.head;
        header.id = entry.id;
        header.crc = kv::tile_checksum(tile_.data(), bytes_);
        std::memcpy(slab, tile_.data(), bytes_);
    }

private:
    static constexpr kv::TileShape kShape{kv::Codec::f16, 0, kDim, kDim, kHeads};
    uint32_t count_;
    int tokens_;
    size_t bytes_ = 0;
    std::vector<uint64_t> tile_;
    std::vector<uint64_t> ids_;
};

struct Asked {
    uint64_t wall_us;
    Figures figures;
};

Asked ask(Client *client, Tiles *tiles)
{
    const Item item{0, 1, tiles->tokens(), 0};
    Span span{};
    span.to = tiles->tokens();
    AttendCall call;
    call.kv_heads = kHeads;
    call.rows = kRows;
    call.dim_k = call.dim_v = kDim;
    call.scale = 0.1f;
    call.items = {&item, 1};
    call.spans = {&span, 1};
    call.write_queries = [](float *q) { std::fill_n(q, kHeads * kRows * kDim, 0.5f); };
    const uint64_t begun = now_us();
    client->attend(call, tiles);
    return {now_us() - begun, client->figures()};
}

uint64_t per_second(uint64_t bytes, uint64_t us) { return bytes * 1000000 / std::max<uint64_t>(us, 1); }

// The helper is not kept from ending, nor from other clients.
void wait_a_while(int socket)
{
    pollfd p{socket, POLLIN, 0};
    if (::poll(&p, 1, 2000) == 0) throw Lost("no answer");
}

void measure_small(Client *client, ArenaHeader *head)
{
    Tiles tiles(kHeads);
    uint64_t best = UINT64_MAX;
    const uint64_t begun = now_us();
    for (int i = 0; i < kMostRepeats && now_us() - begun < kBudgetUs; i++) best = std::min(best, ask(client, &tiles).wall_us);
    set(head->launch_ns, best * 1000);
}

void measure_large(Client *client, ArenaHeader *head)
{
    const uint64_t share = std::min(kMostTiles, get(head->slots) / kMostSlotsShare);
    Tiles tiles(std::max<uint64_t>(share / kHeads, 1) * kHeads);
    // The first tiles find the arena's and the cache's pages untouched, later ones do not.
    for (int i = 0; i < kRoundsOfStaging; i++) {
        tiles.rename();
        const Figures f = ask(client, &tiles).figures;
        set(head->staging_per_second, std::max(head->staging_per_second, per_second(f.staged_bytes, f.staged_us)));
    }
    const uint64_t begun = now_us();
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < kMostRepeats && (i == 0 || now_us() - begun < kBudgetUs); i++) {
        const Asked cached = ask(client, &tiles);
        best = std::min(best, cached.figures.device_us);
    }
    if (best != UINT64_MAX) set(head->bytes_per_second, per_second(tiles.bytes(), best));
}

}  // namespace

void measure(const std::string &socket, Arena *arena)
{
    try {
        Client client;
        client.connect(socket.c_str(), wait_a_while, kMeasuring);
        measure_small(&client, &arena->header());
        measure_large(&client, &arena->header());
        const ArenaHeader &head = arena->header();
        log("a small request takes %llu us, tiles are read at %llu MB/s and copied to the cache at %llu MB/s",
            static_cast<unsigned long long>(head.launch_ns / 1000),
            static_cast<unsigned long long>(head.bytes_per_second / 1000000),
            static_cast<unsigned long long>(head.staging_per_second / 1000000));
    } catch (const std::exception &error) {
        log_as(Level::debug, "the helper did not measure itself: %s", error.what());
    }
}

}  // namespace vkv::gpu
