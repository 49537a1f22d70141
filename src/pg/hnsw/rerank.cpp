// Fetching heap tuples for the exact distance. PostgreSQL code runs guarded; values live in a context that is reset after each
// tuple.

#include "pg/hnsw/rerank.h"

#include <cmath>
#include <limits>

#include "core/nearest/distance.h"
#include "pg/hnsw/hidden_rows.h"

namespace vkv::hnsw {

HeapReader::HeapReader(Relation heap, Relation index, MemoryContext context)
{
    pg_call([&] {
        MemoryContext old = MemoryContextSwitchTo(context);
        heap_ = heap;
        context_ = AllocSetContextCreate(context, "hnsw rerank", ALLOCSET_DEFAULT_SIZES);
        fetch_ = table_index_fetch_begin(heap);
        slot_ = table_slot_create(heap, nullptr);
        column_ = index->rd_index->indkey.values[0];
        if (column_ == 0) {
            info_ = BuildIndexInfo(index);
            estate_ = CreateExecutorState();
            computes_ = may_compute_on_any_row(heap, index, info_->ii_Expressions);
        }
        MemoryContextSwitchTo(old);
    });
}

Datum HeapReader::indexed_value(bool *isnull)
{
    if (column_ != 0) return slot_getattr(slot_, column_, isnull);
    Datum values[INDEX_MAX_KEYS];
    bool nulls[INDEX_MAX_KEYS];
    GetPerTupleExprContext(estate_)->ecxt_scantuple = slot_;
    FormIndexDatum(info_, slot_, estate_, values, nulls);
    *isnull = nulls[0];
    return values[0];
}

namespace {

double operator_distance(Metric metric, const VectorView &query, const VectorView &x)
{
    if (query.scalar == Scalar::f32 || query.scalar == Scalar::f16)
        return nearest::Distance{metric, query.scalar, query.dim}.compared(query.data, x.data);
    return metric == Metric::cosine ? nearest::cosine_distance(nearest::sparse_cosine_parts(query, x))
                                    : exact_distance(metric, query, x);
}

}  // namespace

// What the operator says, bit for bit, so that rows come in its order; what it calls no number comes last.
double settled_distance(Metric metric, const VectorView &query, const VectorView &x)
{
    const double d = operator_distance(metric, query, x);
    return std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
}

// A damaged index may name any block; of other access methods it is not known what the number means.
bool HeapReader::is_in_table(const ItemPointerData &tid)
{
    if (heap_->rd_tableam != GetHeapamTableAmRoutine()) return true;
    const BlockNumber block = ItemPointerGetBlockNumberNoCheck(&tid);
    if (block >= blocks_) blocks_ = RelationGetNumberOfBlocks(heap_);
    return block < blocks_;
}

// use(value, datum) says whether it has had what it wants.
template <class Use>
bool HeapReader::read(std::span<const ItemPointerData> tids, Snapshot snapshot, const Shape &shape, Use &&use)
{
    for (ItemPointerData tid : tids) {
        VectorView x;
        Datum value = 0;
        const bool have = pg_call([&] {
            bool again = false, all_dead = false, isnull = true;
            if (!is_in_table(tid)) return false;
            if (!table_index_fetch_tuple(fetch_, &tid, snapshot, slot_, &again, &all_dead)) return false;
            MemoryContext old = MemoryContextSwitchTo(context_);
            value = indexed_value(&isnull);
            if (!isnull) x = view_datum(shape.scalar, value);
            MemoryContextSwitchTo(old);
            return !isnull;
        });
        const bool taken = have && use(x, value);
        pg_call([&] { clear(); });
        if (taken) return true;
    }
    return false;
}

std::optional<double> HeapReader::distance(std::span<const ItemPointerData> tids, Snapshot snapshot, const Shape &shape,
                                           const VectorView &query)
{
    std::optional<double> d;
    read(tids, snapshot, shape, [&](const VectorView &x, Datum) {
        if (x.dim == query.dim) d = settled_distance(shape.metric, query, x);
        return d.has_value();
    });
    return d;
}

bool HeapReader::value(std::span<const ItemPointerData> tids, Snapshot snapshot, const Shape &shape,
                       const std::function<void(const VectorView &, Datum)> &use)
{
    return read(tids, snapshot, shape, [&](const VectorView &x, Datum datum) {
        use(x, datum);
        return true;
    });
}

void HeapReader::clear()
{
    ExecClearTuple(slot_);
    MemoryContextReset(context_);
    if (estate_) ResetPerTupleExprContext(estate_);
}

// Bare PostgreSQL calls. The heap's own access method: what others make of a tuple that nobody sees is not known.
bool HeapReader::fetch_original(ItemPointerData tid, bool detoasts, Datum *value)
{
    if (heap_->rd_tableam != GetHeapamTableAmRoutine() || (info_ && !(detoasts && computes_))) return false;
    if (!is_in_table(tid)) return false;
    bool again = false, all_dead = false, isnull = true;
    if (!info_) {
        ItemPointerData at = tid;
        if (!table_index_fetch_tuple(fetch_, &at, SnapshotAny, slot_, &again, &all_dead)) return false;
        *value = indexed_value(&isnull);
        if (isnull || !VARATT_IS_EXTERNAL(DatumGetPointer(*value))) return !isnull;
        if (!detoasts) return false;
        ExecClearTuple(slot_);
        again = false;
    }
    // What is out of line stays for as long as a row that is there now can be seen by the statement's snapshot.
    if (!table_index_fetch_tuple(fetch_, &tid, SnapshotSelf, slot_, &again, &all_dead)) return false;
    *value = indexed_value(&isnull);
    return !isnull;
}

bool HeapReader::original(ItemPointerData tid, const Shape &shape, bool detoasts,
                          const std::function<bool(const VectorView &)> &use)
{
    VectorView x;
    const bool have = pg_call([&] {
        MemoryContext old = MemoryContextSwitchTo(context_);
        Datum value;
        const bool fetched = fetch_original(tid, detoasts, &value);
        if (fetched) x = view_datum(shape.scalar, value);
        MemoryContextSwitchTo(old);
        return fetched;
    });
    const bool taken = have && use(x);
    pg_call([&] { clear(); });
    return taken;
}

void HeapReader::reset()
{
    pg_call([&] { table_index_fetch_reset(fetch_); });
}

void HeapReader::close()
{
    pg_call([&] {
        ExecDropSingleTupleTableSlot(slot_);
        table_index_fetch_end(fetch_);
        if (estate_) FreeExecutorState(estate_);
        MemoryContextDelete(context_);
    });
}

}  // namespace vkv::hnsw
