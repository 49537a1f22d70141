// Fetching heap tuples for the exact distance. PostgreSQL code runs guarded; values live in a context that is reset after each
// tuple.

#include "pg/hnsw/rerank.h"

#include <cmath>
#include <limits>

#include "core/nearest/distance.h"

namespace vkv::hnsw {

HeapReader::HeapReader(Relation heap, Relation index, MemoryContext context)
{
    pg_call([&] {
        MemoryContext old = MemoryContextSwitchTo(context);
        context_ = AllocSetContextCreate(context, "hnsw rerank", ALLOCSET_DEFAULT_SIZES);
        fetch_ = table_index_fetch_begin(heap);
        slot_ = table_slot_create(heap, nullptr);
        column_ = index->rd_index->indkey.values[0];
        if (column_ == 0) {
            info_ = BuildIndexInfo(index);
            estate_ = CreateExecutorState();
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

// What the operator says, bit for bit, so that rows come in its order; what it calls no number comes last. But for cosine: 1 - dot
// of vectors that are close has few digits in single precision, and the order of what it cannot tell apart is better known in
// double.
static double settled_distance(Metric metric, const VectorView &query, const VectorView &x)
{
    const bool dense = query.scalar == Scalar::f32 || query.scalar == Scalar::f16;
    if (!dense) return exact_distance(metric, query, x);
    const double d = nearest::Distance{metric, query.scalar, query.dim}.compared(query.data, x.data);
    if (std::isnan(d)) return std::numeric_limits<double>::infinity();
    return metric == Metric::cosine && std::isfinite(d) ? exact_distance(metric, query, x) : d;
}

std::optional<double> HeapReader::distance(std::span<const ItemPointerData> tids, Snapshot snapshot, const Shape &shape,
                                           const VectorView &query)
{
    for (ItemPointerData tid : tids) {
        VectorView x;
        const bool have = pg_call([&] {
            bool again = false, all_dead = false, isnull = true;
            if (!table_index_fetch_tuple(fetch_, &tid, snapshot, slot_, &again, &all_dead)) return false;
            MemoryContext old = MemoryContextSwitchTo(context_);
            Datum value = indexed_value(&isnull);
            if (!isnull) x = view_datum(shape.scalar, value);
            MemoryContextSwitchTo(old);
            return !isnull;
        });
        std::optional<double> d;
        if (have && x.dim == query.dim) d = settled_distance(shape.metric, query, x);
        pg_call([&] {
            ExecClearTuple(slot_);
            MemoryContextReset(context_);
            if (estate_) ResetPerTupleExprContext(estate_);
        });
        if (d) return d;
    }
    return std::nullopt;
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
