// Reading the tail: packed rows of one token each, gathered into one run of halves a head.

#include <algorithm>
#include <string>

#include "core/error.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/direct.h"
#include "pg/kv/packed_row.h"
#include "pg/kv/source.h"

namespace vkv::kv {

namespace {

struct Part {
    Range range;
    int first_chunk, last_chunk;
};

// All rows of a part are there: its tokens. None, of an unlogged tail that is lost: no tokens. Anything else is damage.
int32_t rows_there(const Cache *c, const Sequence *s, const Part &part, int64_t taken)
{
    const int32_t tokens = part.range.to - part.range.from;
    const int64_t wanted = static_cast<int64_t>(tokens) * (part.last_chunk - part.first_chunk + 1);
    if (taken == wanted) return tokens;
    if (taken == 0 && !c->tail_logged) {
        if (tail_row_is_there(c, s->own(), part.first_chunk, part.range.to - 1)) hidden_tail(c, s);
        return 0;
    }
    throw Error(Errc::data_corrupted,
                message("tail of sequence %lld in cache \"%s\" has %lld rows instead of %lld, or row security hides some",
                        static_cast<long long>(s->seq), c->name, static_cast<long long>(taken), static_cast<long long>(wanted)));
}

// Takes rows in order of chunk and position, each once and none but those asked for, and puts the slots first_slot .. first_slot +
// slots - 1 where they belong.
class Gather {
public:
    Gather(const Cache *c, const Sequence *s, int first_slot, int slots, const Range &range, MemoryContext context)
        : cache_(c), sequence_(s), first_slot_(first_slot), slots_(slots), range_(range), tokens_(range.to - range.from)
    {
        const size_t n = static_cast<size_t>(slots) * static_cast<size_t>(tokens_);
        halves_.first = range.from;
        halves_.tokens = tokens_;
        halves_.k = static_cast<uint16_t *>(MemoryContextAllocHuge(context, n * 2 * static_cast<size_t>(c->dim_k) + 64));
        halves_.v = c->values_in_keys
                        ? nullptr
                        : static_cast<uint16_t *>(MemoryContextAllocHuge(context, n * 2 * static_cast<size_t>(c->dim_v) + 64));
        row_ = static_cast<uint16_t *>(palloc(2 * static_cast<size_t>(c->row_slots) * static_cast<size_t>(c->slot_values())));
    }

    const Range &range() const { return range_; }
    int first_chunk() const { return first_slot_ / cache_->row_slots; }
    int last_chunk() const { return (first_slot_ + slots_ - 1) / cache_->row_slots; }

    // Before anything is done with a row.
    void expect(int chunk, int32_t pos)
    {
        if (chunk < first_chunk() || chunk > last_chunk() || pos < range_.from || pos >= range_.to)
            damaged(chunk, pos, "lies outside of what was asked for");
        if (taken_ > 0 && (chunk < chunk_ || (chunk == chunk_ && pos <= pos_))) damaged(chunk, pos, "is there twice");
        chunk_ = chunk;
        pos_ = pos;
    }

    void take(int chunk, int32_t pos, Datum row)
    {
        const int begin = chunk * cache_->row_slots, end = std::min(begin + cache_->row_slots, cache_->slots());
        const int first = std::max(begin, first_slot_), stop = std::min(end, first_slot_ + slots_);
        read(chunk, pos, row, {first - begin, stop - begin, end - begin});
        const int32_t t = pos - range_.from;
        const uint16_t *from = row_;
        for (int slot = first; slot < stop; ++slot, from += cache_->slot_values()) {
            const size_t at = static_cast<size_t>(slot - first_slot_) * static_cast<size_t>(tokens_) + static_cast<size_t>(t);
            memcpy(halves_.k + at * static_cast<size_t>(cache_->dim_k), from, 2 * static_cast<size_t>(cache_->dim_k));
            if (halves_.v)
                memcpy(halves_.v + at * static_cast<size_t>(cache_->dim_v), from + cache_->dim_k,
                       2 * static_cast<size_t>(cache_->dim_v));
        }
        ++taken_;
    }

    // A row of the first chunk.
    void note_place(int32_t pos, TupleTableSlot *slot)
    {
        if (!halves_.places) halves_.places = static_cast<TailPlace *>(palloc0(sizeof(TailPlace) * static_cast<size_t>(tokens_)));
        const auto *heap = reinterpret_cast<const BufferHeapTupleTableSlot *>(slot);
        halves_.places[pos - range_.from] = {ItemPointerGetBlockNumber(&slot->tts_tid),
                                             HeapTupleHeaderGetRawXmin(heap->base.tuple->t_data), heap->buffer,
                                             ItemPointerGetOffsetNumber(&slot->tts_tid)};
    }

    TailHalves finish()
    {
        halves_.tokens = rows_there(cache_, sequence_, {range_, first_chunk(), last_chunk()}, taken_);
        return halves_;
    }

    [[noreturn]] void damaged(int chunk, int32_t pos, const char *what) const
    {
        char text[300];
        snprintf(text, sizeof text, "tail row of sequence %lld at position %d, chunk %d in cache \"%s\" %s",
                 static_cast<long long>(sequence_->seq), pos, chunk, cache_->name, what);
        throw Error(Errc::data_corrupted, text);
    }

private:
    struct Slots {
        int from, to, all;  // within the row
    };

    void read(int chunk, int32_t pos, Datum datum, const Slots &slots)
    {
        try {
            const PackedRow row = packed_row(datum);
            if (row.shape().slots == slots.all && row.shape().width == cache_->slot_values())
                return row.read(slots.from, slots.to - slots.from, row_);
        } catch (const Error &error) {
            damaged(chunk, pos, ("does not unpack: " + error.message()).c_str());
        }
        damaged(chunk, pos, "has the wrong shape");
    }

    const Cache *cache_;
    const Sequence *sequence_;
    int first_slot_, slots_;
    Range range_;
    int32_t tokens_;
    TailHalves halves_{};
    uint16_t *row_;  // slots of a row, unpacked
    int64_t taken_ = 0;
    int chunk_ = 0;  // of the row before
    int32_t pos_ = 0;
};

constexpr Oid kTypes[] = {INT8OID, INT4OID, INT4OID, BYTEAOID};
constexpr AttrNumber kKeys[] = {1, 2, 3};
constexpr DirectLayout kLayout = {kTypes, 4, kKeys, 3};

bool open_tail(const Cache *c, DirectTable *table) { return open_direct(c->tail, kLayout, table); }

void gather_direct(Gather *gather, const Sequence *s, const DirectTable &table)
{
    DirectScan scan(table, 4);
    for (int chunk = gather->first_chunk(); chunk <= gather->last_chunk(); ++chunk) {
        ScanKeyData keys[4];
        ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(s->own()));
        ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(chunk));
        ScanKeyInit(&keys[2], 3, BTGreaterEqualStrategyNumber, F_INT4GE, Int32GetDatum(gather->range().from));
        ScanKeyInit(&keys[3], 3, BTLessStrategyNumber, F_INT4LT, Int32GetDatum(gather->range().to));
        scan.start(keys, 4);
        while (TupleTableSlot *slot = scan.next()) {
            CHECK_FOR_INTERRUPTS();
            bool null;
            const int32_t pos = DatumGetInt32(slot_getattr(slot, 3, &null));
            gather->expect(chunk, pos);
            if (chunk == gather->first_chunk()) gather->note_place(pos, slot);
            Datum row = slot_getattr(slot, 4, &null);
            if (null) gather->damaged(chunk, pos, "is null");
            gather->take(chunk, pos, row);
        }
    }
    scan.end();
}

void gather_planned(Gather *gather, Cache *c, const Sequence *s, bool read_only)
{
    Datum values[] = {Int64GetDatum(s->own()), Int32GetDatum(gather->range().from), Int32GetDatum(gather->range().to),
                      Int32GetDatum(gather->first_chunk()), Int32GetDatum(gather->last_chunk())};
    run_plan(c, Plan::tail_read, values, read_only);
    for (uint64_t i = 0; i < SPI_processed; ++i) {
        CHECK_FOR_INTERRUPTS();
        HeapTuple row = SPI_tuptable->vals[i];
        TupleDesc desc = SPI_tuptable->tupdesc;
        bool null;
        const int chunk = DatumGetInt32(SPI_getbinval(row, desc, 1, &null));
        const int32_t pos = DatumGetInt32(SPI_getbinval(row, desc, 2, &null));
        gather->expect(chunk, pos);
        Datum value = SPI_getbinval(row, desc, 3, &null);
        if (null) gather->damaged(chunk, pos, "is null");
        gather->take(chunk, pos, value);
    }
    SPI_freetuptable(SPI_tuptable);
}

// Of a part that is large: false when it is lost as a whole.
bool count_part(Cache *c, const Sequence *s, const Part &part, bool read_only)
{
    if (!tail_is_large(c, part.range.from, part.range.to)) return true;
    Datum values[] = {Int64GetDatum(s->own()), Int32GetDatum(part.range.from), Int32GetDatum(part.range.to),
                      Int32GetDatum(part.first_chunk), Int32GetDatum(part.last_chunk)};
    run_plan(c, Plan::tail_count, values, read_only);
    bool null;
    const int64_t rows = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    SPI_freetuptable(SPI_tuptable);
    return rows_there(c, s, part, rows) > 0;
}

}  // namespace

bool tail_is_large(const Cache *c, int32_t from, int32_t to)
{
    constexpr int64_t kUsual = 1024;    // beyond the tokens that stay: more than any tile takes
    constexpr double kLarge = 8 << 20;  // bytes, of all layers
    const int64_t tokens = static_cast<int64_t>(to) - from;
    const double bytes = 2.0 * static_cast<double>(tokens) * c->slots() * c->slot_values();
    return bytes > kHugeClaim || (tokens > c->exact_tail() + kUsual && bytes > kLarge);
}

void expect_tail(Cache *c, const Sequence *s) { count_part(c, s, {{s->sealed, s->length}, 0, c->chunks() - 1}, true); }

TailHalves read_tail(Cache *c, const Sequence *s, int layer, MemoryContext context)
{
    return read_tail_part(c, s, layer, {s->sealed, s->length}, context);
}

TailHalves read_tail_part(Cache *c, const Sequence *s, int layer, const Range &range, MemoryContext context)
{
    if (range.from >= range.to) return {range.from, 0, nullptr, nullptr, nullptr};
    if (!c->tail_logged && RecoveryInProgress()) return {range.from, 0, nullptr, nullptr, nullptr};
    const int first = layer * c->kv_heads;
    if (!count_part(c, s, {range, first / c->row_slots, (first + c->kv_heads - 1) / c->row_slots}, true))
        return {range.from, 0, nullptr, nullptr, nullptr};
    Gather gather(c, s, first, c->kv_heads, range, context);
    DirectTable table;
    if (open_tail(c, &table)) {
        gather_direct(&gather, s, table);
        close_direct(&table);
    } else {
        gather_planned(&gather, c, s, true);
    }
    return gather.finish();
}

namespace {

bool is_there(Relation rel, const TailPlace &place, Buffer buffer)
{
    Page page = BufferGetPage(buffer);
    if (place.offset > PageGetMaxOffsetNumber(page)) return false;
    ItemId item = PageGetItemId(page, place.offset);
    if (!ItemIdIsNormal(item)) return false;
    HeapTupleData tuple;
    tuple.t_data = reinterpret_cast<HeapTupleHeader>(PageGetItem(page, item));
    tuple.t_len = ItemIdGetLength(item);
    tuple.t_tableOid = RelationGetRelid(rel);
    ItemPointerSet(&tuple.t_self, place.block, place.offset);
    return HeapTupleHeaderGetRawXmin(tuple.t_data) == place.xmin &&
           HeapTupleSatisfiesVisibility(&tuple, GetActiveSnapshot(), buffer);
}

bool still_there(Relation rel, TailPlace *place)
{
    if (!BufferIsValid(place->buffer) || !compat::pin_recent(rel, place->block, place->buffer)) {
        if (place->block >= RelationGetNumberOfBlocks(rel)) return false;
        place->buffer = ReadBuffer(rel, place->block);
    }
    LockBuffer(place->buffer, BUFFER_LOCK_SHARE);
    const bool there = is_there(rel, *place, place->buffer);
    UnlockReleaseBuffer(place->buffer);
    return there;
}

}  // namespace

TailState look_at_tail(const Cache *c, const compat::Storage &storage, TailPlace *last)
{
    DirectTable table;
    if (!open_tail(c, &table)) return {false, false, false, {}};
    TailState state{true, false, !compat::emptied_in_place(table.rel) && !c->parents.any, compat::relation_storage(table.rel)};
    state.same = last && state.storage == storage && still_there(table.rel, last);
    close_direct(&table);
    return state;
}

bool tail_row_is_there(const Cache *c, int64_t extent, int chunk, int32_t pos)
{
    DirectTable table;
    if (!open_unasked(c->tail, kLayout, &table)) return false;
    DirectScan scan(table, 3);
    ScanKeyData keys[3];
    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(extent));
    ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(chunk));
    ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(pos));
    scan.start(keys, 3);
    const bool there = scan.next() != nullptr;
    scan.end();
    close_direct(&table);
    return there;
}

void hidden_tail(const Cache *c, const Sequence *s)
{
    ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
            errmsg("the tail of sequence %lld in cache \"%s\" is hidden by row security", static_cast<long long>(s->seq), c->name),
            errhint("Who sees the header of a sequence must see its tail, too."));
}

TailHalves read_whole_tail(Cache *c, const Sequence *s, int32_t stop, MemoryContext context)
{
    if (stop <= s->sealed) return {s->sealed, 0, nullptr, nullptr, nullptr};
    if (!count_part(c, s, {{s->sealed, stop}, 0, c->chunks() - 1}, false)) return {s->sealed, 0, nullptr, nullptr, nullptr};
    Gather gather(c, s, 0, c->slots(), {s->sealed, stop}, context);
    gather_planned(&gather, c, s, false);
    return gather.finish();
}

}  // namespace vkv::kv
