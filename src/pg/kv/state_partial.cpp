// Queries, geometry and sums of partial attention; see state_partial.h.

#include "pg/kv/state_partial.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/rope.h"

namespace vkv::kv {
namespace {

// What a head takes beside its sums: its objects and scores of a tile; an element of q as it came, as a float, in digits and
// rotated; a dimension of keys that are turned: their block, and the angles.
constexpr size_t kHeadBytes = 3072;
constexpr int kQueryBytes = 16, kTurnedBytes = 176;

bool same_bytes(const std::vector<uint8_t> &kept, const void *bytes, size_t n)
{
    if (kept.size() != n) return false;
    bool same = true;
    by_pieces(n, kPollBytes, look_for_interrupts, [&](size_t at, size_t count) {
        same = same && memcmp(kept.data() + at, static_cast<const uint8_t *>(bytes) + at, count) == 0;
    });
    return same;
}

[[noreturn]] void refuse_change()
{
    throw Error(Errc::data_exception, "q, scale, softcap and rope must be the same for all tiles of a group",
                "Group by what they depend on.");
}

void keep_bytes(std::vector<uint8_t> *kept, const void *bytes, size_t n)
{
    const auto *from = static_cast<const uint8_t *>(bytes);
    kept->clear();
    kept->reserve(n);
    by_pieces(n, kPollBytes, look_for_interrupts,
              [&](size_t at, size_t count) { kept->insert(kept->end(), from + at, from + at + count); });
}

void check_query(const TensorView &q, const TileView &tile)
{
    if ((q.dims != 2 && q.dims != 3) || q.elements() == 0) {
        throw Error(Errc::data_exception,
                    message("q must be [q_heads, dim] or [q_heads, positions, dim], not %s", shape_text(q).c_str()));
    }
    if (q.shape[q.dims - 1] != static_cast<uint32_t>(tile.dim_k)) {
        throw Error(Errc::data_exception, message("q has %u dimensions, keys have %d", q.shape[q.dims - 1], tile.dim_k));
    }
    if (q.shape[0] % static_cast<uint32_t>(tile.heads) != 0) {
        throw Error(Errc::data_exception, message("%u query heads cannot share %d KV heads", q.shape[0], tile.heads));
    }
    if (q.elements() / q.shape[q.dims - 1] > INT32_MAX / kMaxHeadDim) {
        throw Error(Errc::limit_exceeded, message("q has too many rows: %s", shape_text(q).c_str()));
    }
}

// A tile fills a page, and pages that were read one after the other mostly lie so in shared buffers: the next row's tile is
// probably a page further. The address is a hint to the processor and is not read through; when it is wrong, some lines of cache
// are lost.
const void *likely_next(const TileView &tile)
{
    return reinterpret_cast<const void *>(reinterpret_cast<uintptr_t>(tile.k) - kTileHeaderBytes + BLCKSZ);
}

// scale and softcap as the kernels take them.
struct Factors {
    float scale, softcap;
};

Factors factors_of(const Scaling &scaling, int dim_k)
{
    const double scale = scaling.has_scale ? scaling.scale : 1.0 / std::sqrt(static_cast<double>(dim_k));
    const Factors factors{static_cast<float>(scale), static_cast<float>(scaling.softcap)};
    if (!std::isfinite(factors.scale)) {
        throw Error(Errc::invalid_parameter, message("scale must be a finite number, not %g", scale));
    }
    if (!std::isfinite(factors.softcap) || factors.softcap < 0) {
        throw Error(Errc::invalid_parameter, message("softcap must be a positive number or 0, not %g", scaling.softcap));
    }
    return factors;
}

// A tile says whether its keys are turned already. A rope beside one that is turned is refused, although there is nothing left to
// do for it: who gives it believes something else of the keys, and the answer could be wrong without a word.
void check_turned(const TileView &tile, bool turned)
{
    if (tile.before_rope() == turned) return;
    if (turned) {
        throw Error(Errc::invalid_parameter,
                    "rope is given, but the keys of this tile are stored after the rotary position embedding",
                    "Such keys are not rotated again: leave rope out, or let it be null.");
    }
    throw Error(Errc::invalid_parameter, "the keys of this tile are stored before the rotary position embedding",
                "Give the argument rope: kv.rope(cache) is that of a cache, kv.rope(dims, theta, pairing) makes others.");
}

}  // namespace

// What turns the tile's keys; null: they are turned already.
const Rope *PartialAttention::rope_for(const varlena *given, const TileView &tile)
{
    const bool turned = given != nullptr;
    check_turned(tile, turned);
    bool same = turned == turned_;
    const size_t bytes = turned ? VARSIZE_ANY(given) : 0;
    if (turned && !same_bytes(rope_value_, given, bytes)) {
        Rope rope = rope_of(pg_call([&] { return rope_row(given); }));
        const bool equal = rope_ && rope_->pairing() == rope.pairing() && rope_->frequencies() == rope.frequencies();
        same = same && equal;
        if (same || !seen_) {
            keep_bytes(&rope_value_, given, bytes);
            rope_ = std::move(rope);
        }
    }
    if (!same && seen_) refuse_change();
    turned_ = turned;
    if (!turned) return nullptr;
    if (rope_->dims() > tile.dim_k) {
        throw Error(Errc::invalid_parameter, message("rope turns %d dimensions, keys have %d", rope_->dims(), tile.dim_k));
    }
    return &*rope_;
}

// The first tile says what the others must be.
void PartialAttention::check_geometry(const TensorView &q, const TileView &tile)
{
    check_query(q, tile);
    const int rows = static_cast<int>(q.elements() / q.shape[q.dims - 1]);
    const bool same = kv_heads_ == tile.heads && dim_k_ == tile.dim_k && dim_v_ == tile.dim_v && rows_ == rows;
    if (same) return;
    if (seen_) {
        throw Error(Errc::data_exception,
                    message("attention of %d rows over %d KV heads, keys of %d and values of %d dimensions is followed by "
                            "%d rows, %d KV heads, %d and %d dimensions",
                            rows_, kv_heads_, dim_k_, dim_v_, rows, tile.heads, tile.dim_k, tile.dim_v));
    }
    heads_.clear();
    bytes_ = 0;
    heads_.resize(static_cast<size_t>(tile.heads));
    rows_ = rows;
    kv_heads_ = tile.heads;
    head_rows_ = rows / tile.heads;
    dim_k_ = tile.dim_k;
    dim_v_ = tile.dim_v;
}

int PartialAttention::rows_of(size_t part) const
{
    return std::min(head_rows_ - static_cast<int>(part) * kMostQueryRows, kMostQueryRows);
}

PartialAttention::Head &PartialAttention::head(const TileView &tile)
{
    std::unique_ptr<Head> &head = heads_[static_cast<size_t>(tile.head)];
    if (!head) {
        auto made = std::make_unique<Head>();
        made->parts.resize((static_cast<size_t>(head_rows_) + kMostQueryRows - 1) / kMostQueryRows);
        size_t bytes = 0;
        for (size_t i = 0; i < made->parts.size(); ++i) {
            look_for_interrupts();
            Accumulator &sums = made->parts[i].sums;
            sums.reset(rows_of(i), dim_v_);
            bytes += kHeadBytes + static_cast<size_t>(rows_of(i)) * static_cast<size_t>(kQueryBytes * dim_k_) + sums.bytes();
            if (tile.before_rope()) bytes += static_cast<size_t>(kTurnedBytes * dim_k_);
        }
        head = std::move(made);
        bytes_ += bytes;
    }
    return *head;
}

// Makes the head's queries those of q.
void PartialAttention::take_queries(Head *head, const TileView &tile, const TensorView &q, const Scaling &scaling)
{
    const size_t n = static_cast<size_t>(head_rows_) * static_cast<size_t>(dim_k_);
    const size_t bytes = n * dtype_bytes(q.dtype);
    const auto *values = static_cast<const uint8_t *>(q.data) + static_cast<size_t>(tile.head) * bytes;
    if (head->scaling == scaling && same_bytes(head->values, values, bytes)) return;
    if (head->seen) refuse_change();
    const Factors factors = factors_of(scaling, dim_k_);
    head->values.clear();
    head->pointer.clear();
    scratch_.resize(std::min(n, static_cast<size_t>(kMostQueryRows) * static_cast<size_t>(dim_k_)));
    const uint8_t *from = values;
    for (size_t i = 0; i < head->parts.size(); ++i) {
        look_for_interrupts();
        const size_t some = static_cast<size_t>(rows_of(i)) * static_cast<size_t>(dim_k_);
        to_f32(q.dtype, from, scratch_.data(), some);
        head->parts[i].queries.set(scratch_.data(), rows_of(i), dim_k_, factors.scale, factors.softcap);
        from += some * dtype_bytes(q.dtype);
    }
    keep_bytes(&head->values, values, bytes);
    head->scaling = scaling;
}

void PartialAttention::add(const QueryArguments &arguments, const TileView &tile)
{
    const Rope *rope = rope_for(arguments.rope, tile);
    const Scaling &scaling = arguments.scaling;
    const varlena *raw = arguments.q;
    const bool inlined = VARATT_IS_4B_U(raw);
    const size_t raw_bytes = inlined ? 0 : VARSIZE_ANY(raw);
    const bool fits = kv_heads_ == tile.heads && dim_k_ == tile.dim_k && dim_v_ == tile.dim_v;
    Head *mine = fits ? heads_[static_cast<size_t>(tile.head)].get() : nullptr;
    const bool known = !inlined && mine != nullptr && mine->scaling == scaling && same_bytes(mine->pointer, raw, raw_bytes);
    if (!known) {
        const auto *plain = reinterpret_cast<const TensorHeader *>(raw);
        if (!inlined) plain = pg_call([&] { return datum_tensor(PointerGetDatum(raw)); });
        const TensorView q = view_of(plain);
        check_geometry(q, tile);
        mine = &head(tile);
        take_queries(mine, tile, q, scaling);
        if (!inlined) keep_bytes(&mine->pointer, raw, raw_bytes);
    }
    Selection selection;
    selection.rope = rope;
    selection.next = likely_next(tile);
    for (Part &part : mine->parts) {
        const size_t before = part.sums.bytes();
        part.sums.add(part.queries, tile, selection);
        bytes_ += part.sums.bytes() - before;
        mine->seen = seen_ = true;
        look_for_interrupts();
    }
}

void PartialAttention::clear()
{
    for (std::unique_ptr<Head> &head : heads_) {
        if (!head || !head->seen) continue;
        for (size_t i = 0; i < head->parts.size(); ++i) {
            look_for_interrupts();
            head->parts[i].sums.reset(rows_of(i), dim_v_);
        }
        head->seen = false;
    }
    seen_ = false;
}

void PartialAttention::merge_into(StateHeader *state)
{
    if (state->rows != static_cast<uint32_t>(rows_) || state->dim != static_cast<uint32_t>(dim_v_)) {
        throw Error(Errc::data_exception, message("a state of %u rows and %u dimensions cannot take %d rows and %d dimensions",
                                                  state->rows, state->dim, rows_, dim_v_));
    }
    auto *m = reinterpret_cast<float *>(state + 1), *l = m + rows_, *o = l + rows_;
    const size_t dim = static_cast<size_t>(dim_v_), most = static_cast<size_t>(std::min(head_rows_, kMostQueryRows));
    scratch_.resize(most * (dim + 2));
    float *m2 = scratch_.data(), *l2 = m2 + most, *o2 = l2 + most;
    for (size_t i = 0; i < heads_.size(); ++i) {
        if (!heads_[i] || !heads_[i]->seen) continue;
        size_t row = i * static_cast<size_t>(head_rows_);
        for (size_t p = 0; p < heads_[i]->parts.size(); ++p, row += most) {
            look_for_interrupts();
            heads_[i]->parts[p].sums.state(m2, l2, o2);
            merge_states(rows_of(p), dim_v_, m + row, l + row, o + row * dim, m2, l2, o2);
        }
    }
}

QueryArguments query_arguments(FunctionCallInfo fcinfo, int i, int j)
{
    QueryArguments arguments;
    arguments.q = reinterpret_cast<const varlena *>(PG_GETARG_POINTER(i));
    if (PG_NARGS() > j && !PG_ARGISNULL(j)) {
        arguments.scaling.has_scale = true;
        arguments.scaling.scale = PG_GETARG_FLOAT8(j);
    }
    if (PG_NARGS() > j + 1 && !PG_ARGISNULL(j + 1)) arguments.scaling.softcap = PG_GETARG_FLOAT8(j + 1);
    if (PG_NARGS() > j + 2 && !PG_ARGISNULL(j + 2)) arguments.rope = rope_argument(fcinfo, j + 2);
    return arguments;
}

PartialAttention *call_attention(FunctionCallInfo fcinfo)
{
    FmgrInfo *call = fcinfo->flinfo;
    if (call->fn_extra == nullptr) call->fn_extra = own<PartialAttention>(call->fn_mcxt);
    return static_cast<PartialAttention *>(call->fn_extra);
}

}  // namespace vkv::kv
