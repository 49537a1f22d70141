// Kept tails. A block is as many tokens as an f16 tile takes; whole blocks are kept as the planes of a tile a head, the last,
// partial one as rows, which are interleaved anew at each call.
//
// Blocks begin at multiples of their length, wherever a tail begins when it is read: sums are rounded as the tokens are grouped,
// and sessions that have read the same tail at different times must group alike. What is missing of the first block is zeros.

#include "pg/kv/tail_tiles.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "core/kv/halves.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/kept.h"
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
HTAB *tails = nullptr;
constinit MemoryContext tail_context = nullptr;

struct alignas(64) Planes {
    uint8_t bytes[(kMaxTileData + 63) / 64 * 64];
};

template <typename T>
using Array = std::vector<T, ContextAllocator<T, &tail_context>>;

}  // namespace

struct TailTiles {
    Key key;
    int64_t epoch;
    compat::Storage storage{};
    uint64_t changes = 0;   // by hand, that what is kept was read after; 0: not certain
    uint64_t parents = 0;   // the stamp of what the table inherited then
    int32_t first, tokens;  // positions first .. first + tokens - 1
    int32_t from;           // those before were not read
    int32_t block;          // tokens of a whole block
    int holders = 0;        // that need it as it is: it is neither changed nor forgotten, nor in line
    bool replaced = false;  // goes with its last holder
    TailTiles *older = nullptr, *newer = nullptr;
    Array<Planes> planes;     // [whole blocks][heads]
    Array<uint64_t> ids;      // of these
    Array<TailPlace> places;  // [tokens]: where these were read
    Array<uint16_t> k, v;     // [heads][block][dim]: the partial block
    size_t bytes() const
    {
        constexpr size_t kSlotBytes = 64;  // its share of the hash table
        auto of = [](const auto &array) { return chunk_bytes(array.capacity() * sizeof(array[0])); };
        return kSlotBytes + chunk_bytes(sizeof(TailTiles)) + of(planes) + of(ids) + of(places) + of(k) + of(v);
    }
    int32_t whole() const { return tokens / block; }
};

namespace {

struct Slot {
    Key key;
    TailTiles *tail;
};

constinit KeptInOrder<TailTiles> kept;

void start()
{
    tail_context = AllocSetContextCreate(TopMemoryContext, "vectorkv tails", ALLOCSET_DEFAULT_SIZES);
    HASHCTL control{};
    control.keysize = sizeof(Key);
    control.entrysize = sizeof(Slot);
    control.hcxt = tail_context;
    tails = hash_create("vectorkv places of tails", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

TailTiles *make_tail()
{
    auto *tail = new (ContextAllocator<TailTiles, &tail_context>().allocate(1)) TailTiles;
    kept.count(tail->bytes());
    return tail;
}

void destroy(TailTiles *tail)
{
    kept.discount(tail->bytes());
    tail->~TailTiles();
    ContextAllocator<TailTiles, &tail_context>().deallocate(tail, 1);
}

void remove(TailTiles *tail)
{
    kept.take_out(tail);
    const Key key = tail->key;
    destroy(tail);
    hash_search(tails, &key, HASH_REMOVE, nullptr);
}

void clear(TailTiles *tail, const Sequence *s)
{
    tail->epoch = s->epoch;
    tail->first = tail->from = s->sealed;
    tail->tokens = 0;
    tail->changes = 0;
    tail->planes.clear();
    tail->ids.clear();
    tail->places.clear();
}

// Held once more by the caller.
TailTiles *hold(TailTiles *tail)
{
    if (tail->holders++ == 0) kept.take_out(tail);
    return tail;
}

void release(TailTiles *tail)
{
    if (--tail->holders > 0) return;
    if (tail->replaced) return destroy(tail);
    if (tail->tokens == 0) return remove(tail);  // lost, or not read for an error
    kept.use(tail);
    // Many that were held at once make room as they are released: two for one, so that no destructor takes long.
    for (int n = 0; n < 2 && !kept.within(kept_memory) && kept.oldest(); ++n) remove(kept.oldest());
}

// An empty tail in the slot of its key, held. What was there is forgotten, or goes with its last holder.
TailTiles *hold_new(const Cache *c, const Sequence *s, const Key &key)
{
    std::unique_ptr<TailTiles, void (*)(TailTiles *)> made(make_tail(), destroy);
    made->key = key;
    made->block = tile_capacity(c->shape(Codec::f16));
    clear(made.get(), s);
    bool found;
    auto *slot = pg_call([&] { return static_cast<Slot *>(hash_search(tails, &key, HASH_ENTER, &found)); });
    if (found) {
        slot->tail->replaced = true;
        release(hold(slot->tail));
    }
    slot->tail = made.release();
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
    return tail->epoch == s->epoch && tail->from <= s->sealed && tail->first + tail->tokens >= s->sealed;
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
    tail->from = std::max(tail->from, tail->first);
}

Rows rows_of(const Array<uint16_t> &all, int head, int32_t block, int dim)
{
    const size_t d = static_cast<size_t>(dim);
    return {all.data() + static_cast<size_t>(head) * static_cast<size_t>(block) * d, d};
}

TileView view_block(const Cache *c, const TailTiles *tail, int head, int32_t first, int32_t tokens, uint8_t *planes)
{
    const Rows v = c->values_in_keys ? Rows{} : rows_of(tail->v, head, tail->block, c->dim_v);
    return view_halves(c->shape(Codec::f16), head, first, tokens, rows_of(tail->k, head, tail->block, c->dim_k), v, planes);
}

// Zeros from where the block begins that the first token is in.
void begin_block(TailTiles *tail)
{
    const int32_t missing = tail->first % tail->block;
    std::fill(tail->k.begin(), tail->k.end(), uint16_t{0});
    std::fill(tail->v.begin(), tail->v.end(), uint16_t{0});
    tail->places.assign(static_cast<size_t>(missing), TailPlace{});
    tail->first -= missing;
    tail->tokens = missing;
}

void add_rows(const Cache *c, TailTiles *tail, const TailHalves &halves)
{
    const size_t heads = static_cast<size_t>(c->kv_heads), block = static_cast<size_t>(tail->block);
    const size_t dk = static_cast<size_t>(c->dim_k), dv = halves.v ? static_cast<size_t>(c->dim_v) : 0;
    tail->k.resize(heads * block * dk);
    tail->v.resize(heads * block * dv);
    if (tail->tokens == 0) begin_block(tail);
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
    TailPlace *last = met && newest >= tail_->from ? &tail_->places[static_cast<size_t>(newest - tail_->first)] : nullptr;
    const compat::Storage storage = tail_->storage;
    bool unchanged = false;
    const TailState state = pg_call([&] {
        unchanged = tail_->changes == tail_changes() && sees_tail_changes() && tail_->parents == c->parents.stamp;
        return look_at_tail(c, storage, last);
    });
    const bool stands = met && state.direct && state.same && unchanged, enough = tail_->first + tail_->tokens >= s->length;
    if (!stands || !enough) {
        if (tail_->holders > 1)
            renew();
        else if (!stands)
            clear(tail_, s);
        read(s, layer, state);
    }
    kept.shrink(kept_memory, nullptr, remove);
    if (tail_) tokens_ = s->length - s->sealed;
    guard.tail = nullptr;
}

// What is missing up to the sequence's end; none when an unlogged tail was lost. The number of changes is taken before it is read,
// and goes for what is kept, too, only if none has been heard of since that was looked at.
void HeldTail::read(const Sequence *s, int layer, const TailState &state)
{
    const int32_t have = tail_->first + tail_->tokens;
    const uint64_t parents = cache_->parents.stamp;
    uint64_t changes = 0;
    const TailHalves halves = pg_call([&] {
        const uint64_t heard = tail_changes();
        const bool sees_all = sees_tail_changes(), known = tail_->tokens == 0 || tail_->changes == heard;
        changes = sees_all && known ? heard : 0;
        return read_tail_part(cache_, s, layer, {have, s->length}, CurrentMemoryContext);
    });
    if (halves.tokens == 0) {
        release(std::exchange(tail_, nullptr));
        return;
    }
    // Counted as it has become. When memory ends in between, nothing of it is kept.
    struct Change {
        TailTiles *tail;
        bool whole = false;
        explicit Change(TailTiles *t) : tail(t) { kept.discount(t->bytes()); }
        ~Change()
        {
            kept.count(tail->bytes());
            if (!whole) tail->tokens = 0;
        }
    } change(tail_);
    tail_->storage = state.storage;
    tail_->changes = state.stays ? changes : 0;
    tail_->parents = parents;
    drop_sealed(cache_, tail_, s->sealed);
    add_rows(cache_, tail_, halves);
    change.whole = true;
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
