// Reading the tail: packed rows of one token each, gathered into one run of halves a head.

#include <algorithm>
#include <string>

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/direct.h"
#include "pg/kv/packed_row.h"
#include "pg/kv/source.h"

namespace vkv::kv {

namespace {

// Takes rows in order of chunk and position, and puts the slots first_slot .. first_slot + slots - 1 where they belong.
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

    // All rows there: the halves. None, and the tail may be lost: no tokens. Anything else is damage.
    TailHalves finish()
    {
        const int64_t wanted = static_cast<int64_t>(tokens_) * (last_chunk() - first_chunk() + 1);
        if (taken_ == 0 && !cache_->tail_logged)
            halves_.tokens = 0;
        else if (taken_ != wanted) {
            char text[300];
            snprintf(text, sizeof text,
                     "tail of sequence %lld in cache \"%s\" has %lld rows instead of %lld, or row security hides some",
                     static_cast<long long>(sequence_->seq), cache_->name, static_cast<long long>(taken_),
                     static_cast<long long>(wanted));
            throw Error(Errc::data_corrupted, text);
        }
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
};

bool open_tail(const Cache *c, DirectTable *table)
{
    constexpr Oid kTypes[] = {INT8OID, INT4OID, INT4OID, BYTEAOID};
    constexpr AttrNumber kKeys[] = {1, 2, 3};
    return open_direct(c->tail, {kTypes, 4, kKeys, 3}, table);
}

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
            bool null;
            const int32_t pos = DatumGetInt32(slot_getattr(slot, 3, &null));
            gather->take(chunk, pos, slot_getattr(slot, 4, &null));
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
        HeapTuple row = SPI_tuptable->vals[i];
        TupleDesc desc = SPI_tuptable->tupdesc;
        bool null;
        gather->take(DatumGetInt32(SPI_getbinval(row, desc, 1, &null)), DatumGetInt32(SPI_getbinval(row, desc, 2, &null)),
                     SPI_getbinval(row, desc, 3, &null));
    }
    SPI_freetuptable(SPI_tuptable);
}

}  // namespace

TailHalves read_tail(Cache *c, const Sequence *s, int layer, MemoryContext context)
{
    return read_tail_part(c, s, layer, {s->sealed, s->length}, context);
}

TailHalves read_tail_part(Cache *c, const Sequence *s, int layer, const Range &range, MemoryContext context)
{
    if (range.from >= range.to) return {range.from, 0, nullptr, nullptr};
    if (!c->tail_logged && RecoveryInProgress()) return {range.from, 0, nullptr, nullptr};
    Gather gather(c, s, layer * c->kv_heads, c->kv_heads, range, context);
    DirectTable table;
    if (open_tail(c, &table)) {
        gather_direct(&gather, s, table);
        close_direct(&table);
    } else {
        gather_planned(&gather, c, s, true);
    }
    return gather.finish();
}

bool tail_read_directly(const Cache *c)
{
    DirectTable table;
    if (!open_tail(c, &table)) return false;
    close_direct(&table);
    return true;
}

TailHalves read_whole_tail(Cache *c, const Sequence *s, int32_t stop, MemoryContext context)
{
    if (stop <= s->sealed) return {s->sealed, 0, nullptr, nullptr};
    Gather gather(c, s, 0, c->slots(), {s->sealed, stop}, context);
    gather_planned(&gather, c, s, false);
    return gather.finish();
}

}  // namespace vkv::kv
