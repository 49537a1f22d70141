// Kept tails. A block is as many tokens as an f16 tile takes; whole blocks are kept as the planes of a tile a head, the last,
// partial one as rows, which are interleaved anew at each call.

#include "pg/kv/tail_tiles.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "core/kv/halves.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/settings.h"
#include "pg/kv/tail_changes.h"

namespace vkv::kv {

namespace {

struct Key {
    Oid table;
    int32_t layer;
    int64_t extent;
};

int kept_memory = 65536;  // kB
size_t kept_bytes = 0;
uint64_t uses = 0;
HTAB *tails = nullptr;

struct alignas(64) Planes {
    uint8_t bytes[(kMaxTileData + 63) / 64 * 64];
};

}  // namespace

struct TailTiles {
    Key key;
    int64_t epoch;
    uint64_t storage, last_use;
    uint64_t changes = 0;           // by hand, that what is kept was read after; 0: not certain
    int32_t first, tokens;          // positions first .. first + tokens - 1
    int32_t block;                  // tokens of a whole block
    int holders = 0;                // that need it as it is: it is neither changed nor forgotten
    bool replaced = false;          // goes with its last holder
    std::vector<Planes> planes;     // [whole blocks][heads]
    std::vector<uint64_t> ids;      // of these
    std::vector<TailPlace> places;  // [tokens]: where these were read
    std::vector<uint16_t> k, v;     // [heads][block][dim]: the partial block
    size_t bytes() const
    {
        return planes.capacity() * sizeof(Planes) + places.capacity() * sizeof(TailPlace) + (k.capacity() + v.capacity()) * 2;
    }
    int32_t whole() const { return tokens / block; }
};

namespace {

struct Slot {
    Key key;
    TailTiles *tail;
};

void start()
{
    HASHCTL control{};
    control.keysize = sizeof(Key);
    control.entrysize = sizeof(Slot);
    control.hcxt = TopMemoryContext;
    tails = hash_create("vectorkv tails", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

void remove(TailTiles *tail)
{
    kept_bytes -= tail->bytes();
    const Key key = tail->key;
    delete tail;
    hash_search(tails, &key, HASH_REMOVE, nullptr);
}

// Forgets the tails that were used longest ago and that nobody holds, until the memory is within its limit.
void shrink()
{
    while (kept_bytes > static_cast<size_t>(kept_memory) * 1024) {
        HASH_SEQ_STATUS scan;
        TailTiles *oldest = nullptr;
        hash_seq_init(&scan, tails);
        while (auto *slot = static_cast<Slot *>(hash_seq_search(&scan)))
            if (slot->tail->holders == 0 && (!oldest || slot->tail->last_use < oldest->last_use)) oldest = slot->tail;
        if (!oldest) return;
        remove(oldest);
    }
}

void clear(TailTiles *tail, const Sequence *s)
{
    tail->epoch = s->epoch;
    tail->first = s->sealed;
    tail->tokens = 0;
    tail->changes = 0;
    tail->planes.clear();
    tail->ids.clear();
    tail->places.clear();
}

// Held once more by the caller.
TailTiles *hold(TailTiles *tail)
{
    ++tail->holders;
    tail->last_use = ++uses;
    return tail;
}

void release(TailTiles *tail)
{
    if (--tail->holders > 0 || !tail->replaced) return;
    kept_bytes -= tail->bytes();
    delete tail;
}

// An empty tail in the slot of its key, held. What was there is forgotten, or goes with its last holder.
TailTiles *hold_new(const Cache *c, const Sequence *s, const Key &key)
{
    auto tail = std::make_unique<TailTiles>();
    tail->key = key;
    tail->block = tile_capacity(c->shape(Codec::f16));
    clear(tail.get(), s);
    bool found;
    auto *slot = pg_call([&] { return static_cast<Slot *>(hash_search(tails, &key, HASH_ENTER, &found)); });
    if (found) {
        slot->tail->replaced = true;
        release(hold(slot->tail));
    }
    slot->tail = tail.release();
    return hold(slot->tail);
}

TailTiles *hold_kept(const Cache *c, const Sequence *s, int layer)
{
    if (!tails) pg_call([] { start(); });
    const Key key{c->tail, layer, s->own()};
    const auto *slot = pg_call([&] { return static_cast<Slot *>(hash_search(tails, &key, HASH_FIND, nullptr)); });
    return slot ? hold(slot->tail) : hold_new(c, s, key);
}

// Whether what is kept goes on where the sequence's tail begins.
bool meets(const TailTiles *tail, const Sequence *s)
{
    return tail->epoch == s->epoch && tail->first <= s->sealed && tail->first + tail->tokens >= s->sealed;
}

// Drops whole blocks that are sealed by now.
void drop_sealed(const Cache *c, TailTiles *tail, int32_t sealed)
{
    const int32_t blocks = std::min((sealed - tail->first) / tail->block, tail->whole());
    if (blocks < 4) return;  // moving the rest has its price, too
    tail->planes.erase(tail->planes.begin(), tail->planes.begin() + static_cast<ptrdiff_t>(blocks) * c->kv_heads);
    tail->ids.erase(tail->ids.begin(), tail->ids.begin() + static_cast<ptrdiff_t>(blocks) * c->kv_heads);
    tail->places.erase(tail->places.begin(), tail->places.begin() + static_cast<ptrdiff_t>(blocks) * tail->block);
    tail->first += blocks * tail->block;
    tail->tokens -= blocks * tail->block;
}

Rows rows_of(const std::vector<uint16_t> &all, int head, int32_t block, int dim)
{
    const size_t d = static_cast<size_t>(dim);
    return {all.data() + static_cast<size_t>(head) * static_cast<size_t>(block) * d, d};
}

TileView view_block(const Cache *c, const TailTiles *tail, int head, int32_t first, int32_t tokens, uint8_t *planes)
{
    const Rows v = c->values_in_keys ? Rows{} : rows_of(tail->v, head, tail->block, c->dim_v);
    return view_halves(c->shape(Codec::f16), head, first, tokens, rows_of(tail->k, head, tail->block, c->dim_k), v, planes);
}

void add_rows(const Cache *c, TailTiles *tail, const TailHalves &halves)
{
    const size_t heads = static_cast<size_t>(c->kv_heads), block = static_cast<size_t>(tail->block);
    const size_t dk = static_cast<size_t>(c->dim_k), dv = halves.v ? static_cast<size_t>(c->dim_v) : 0;
    tail->k.resize(heads * block * dk);
    tail->v.resize(heads * block * dv);
    const auto n = static_cast<size_t>(halves.tokens);
    for (size_t t = 0; t < n; ++t) tail->places.push_back(halves.places ? halves.places[t] : TailPlace{});
    for (size_t t = 0; t < n;) {
        const size_t at = static_cast<size_t>(tail->tokens) % block, count = std::min(block - at, n - t);
        for (size_t h = 0; h < heads; ++h) {
            memcpy(&tail->k[(h * block + at) * dk], halves.k + (h * n + t) * dk, 2 * count * dk);
            if (dv) memcpy(&tail->v[(h * block + at) * dv], halves.v + (h * n + t) * dv, 2 * count * dv);
        }
        t += count;
        if (at + count == block) {
            const size_t made = tail->planes.size();
            tail->planes.resize(made + heads);
            for (size_t h = 0; h < heads; ++h) {
                view_block(c, tail, static_cast<int>(h), 0, tail->block, tail->planes[made + h].bytes);
                tail->ids.push_back(new_tile_id());
            }
        }
        tail->tokens += static_cast<int32_t>(count);
    }
}

}  // namespace

namespace {

// Lets go what a constructor holds that does not come to its end.
struct Guard {
    TailTiles **tail;
    ~Guard()
    {
        if (tail && *tail) release(*tail);
    }
};

void visit_partial(Cache *c, const TailTiles *tail, TailVisitor visit, void *argument)
{
    const int32_t rest = tail->tokens % tail->block;
    if (rest == 0) return;
    Planes planes;
    for (int h = 0; h < c->kv_heads; ++h)
        visit(argument, view_block(c, tail, h, tail->first + tail->whole() * tail->block, rest, planes.bytes));
}

}  // namespace

// Reading runs others' code (policies), which may attend to the same tail: from the beginning on this one is held, and one that
// somebody else holds is not changed but replaced.
HeldTail::HeldTail(Cache *c, const Sequence *s, int layer) : cache_(c)
{
    if (s->length == s->sealed) return;
    tail_ = hold_kept(c, s, layer);
    Guard guard{&tail_};
    auto renew = [&] {
        TailTiles *fresh = hold_new(c, s, tail_->key);
        release(std::exchange(tail_, fresh));
    };
    // The newest kept token that the header speaks of: where it stands, what is before it does.
    const bool met = meets(tail_, s);
    const int32_t newest = std::min(tail_->first + tail_->tokens, s->length) - 1;
    TailPlace *last = met && newest >= tail_->first ? &tail_->places[static_cast<size_t>(newest - tail_->first)] : nullptr;
    const uint64_t storage = tail_->storage;
    uint64_t changes = 0;
    const TailState state = pg_call([&] {
        changes = tail_changes();
        return look_at_tail(c, storage, last);
    });
    const bool stands = met && state.direct && state.same && tail_->changes == changes,
               enough = tail_->first + tail_->tokens >= s->length;
    if (!stands || !enough) {
        if (tail_->holders > 1)
            renew();
        else if (!stands)
            clear(tail_, s);
        read(s, layer, state.storage);
    }
    if (tail_) tokens_ = s->length - s->sealed;
    guard.tail = nullptr;
}

// What is missing up to the sequence's end; none when an unlogged tail was lost.
void HeldTail::read(const Sequence *s, int layer, uint64_t storage)
{
    const int32_t have = tail_->first + tail_->tokens;
    uint64_t changes = 0;
    const TailHalves halves = pg_call([&] {
        changes = sees_tail_changes() ? tail_changes() : 0;
        return read_tail_part(cache_, s, layer, {have, s->length}, CurrentMemoryContext);
    });
    if (halves.tokens == 0) {
        release(std::exchange(tail_, nullptr));
        return;
    }
    const size_t before = tail_->bytes();
    tail_->storage = storage;
    tail_->changes = changes;
    drop_sealed(cache_, tail_, s->sealed);
    add_rows(cache_, tail_, halves);
    kept_bytes += tail_->bytes() - before;
    shrink();
}

HeldTail::HeldTail(HeldTail &&other) noexcept
    : cache_(other.cache_), tail_(std::exchange(other.tail_, nullptr)), tokens_(other.tokens_)
{
}

HeldTail::~HeldTail()
{
    if (tail_) release(tail_);
}

size_t HeldTail::blocks() const { return tail_ ? tail_->planes.size() : 0; }

HeldTail::Block HeldTail::block(size_t i) const
{
    const auto heads = static_cast<size_t>(cache_->kv_heads);
    return {tail_->ids[i], tail_->first + static_cast<int32_t>(i / heads) * tail_->block, tail_->block,
            static_cast<int>(i % heads)};
}

void HeldTail::copy(size_t i, void *tile) const
{
    const TileShape shape = cache_->shape(Codec::f16);
    const Block b = block(i);
    planes_to_tile(shape, {b.head, b.first, b.tokens, b.id}, tail_->planes[i].bytes, tile);
    SET_VARSIZE(tile, tile_bytes(shape, b.tokens));
}

bool HeldTail::has_rest() const { return tail_ && tail_->tokens % tail_->block != 0; }

void HeldTail::visit(TailVisitor visit, void *argument) const
{
    if (!tail_) return;
    const TileShape shape = cache_->shape(Codec::f16);
    for (size_t i = 0; i < blocks(); ++i) {
        const Block b = block(i);
        visit(argument, view_planes(shape, b.head, b.first, b.tokens, tail_->planes[i].bytes));
    }
    visit_rest(visit, argument);
}

void HeldTail::visit_rest(TailVisitor visit, void *argument) const
{
    if (tail_) visit_partial(cache_, tail_, visit, argument);
}

void define_tail_settings()
{
    DefineCustomIntVariable("vectorkv.tail_memory", "Sets how much memory a session may use to keep the tails of sequences.",
                            "Tails that were used longest ago are forgotten first, and read again when they are needed.",
                            &kept_memory, 65536, 64, MAX_KILOBYTES, PGC_USERSET, GUC_UNIT_KB, nullptr, nullptr, nullptr);
}

}  // namespace vkv::kv
