// kv.check_cache: reads everything a cache holds and reports what does not fit together, one row a problem.

#include <string>

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/call.h"
#include "pg/kv/source.h"

namespace vkv::kv {

namespace {

struct Report {
    ReturnSetInfo *info;
    int64_t seq;
    int layer;

    void put(bool has_seq, int head, int32_t position, const char *problem) const
    {
        Datum values[] = {Int64GetDatum(seq), Int32GetDatum(layer), Int32GetDatum(head), Int32GetDatum(position),
                          CStringGetTextDatum(problem)};
        bool nulls[] = {!has_seq, layer < 0, head < 0, position < 0, false};
        tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
    }
};

// A tile that attention would read, down to its checksum.
void check_tile(const Report &report, const TileView &view)
{
    const auto *header = reinterpret_cast<const TileHeader *>(view.k) - 1;
    if (tile_checksum(header, VARSIZE(header)) != header->crc) report.put(true, view.head, view.first, "checksum differs");
}

// What a check that is given up leaves open (pins, tables) is released with this owner. Destroyed by the transaction's end
// otherwise.
class Owner {
public:
    Owner() : outer_(CurrentResourceOwner), own_(ResourceOwnerCreate(outer_, "kv.check_cache")) { CurrentResourceOwner = own_; }
    void close()
    {
        CurrentResourceOwner = outer_;
        for (auto phase : {RESOURCE_RELEASE_BEFORE_LOCKS, RESOURCE_RELEASE_LOCKS, RESOURCE_RELEASE_AFTER_LOCKS})
            ResourceOwnerRelease(own_, phase, false, false);
        ResourceOwnerDelete(own_);
    }

private:
    ResourceOwner outer_, own_;
};

// False, and the text of the fault, when core or this folder found one; errors of PostgreSQL go on.
bool check_layer_of(Cache *c, const Sequence *s, Report *report, int layer, char *fault, size_t size)
{
    report->layer = layer;
    try {
        visit_sealed(c, s, layer, [report](const TileView &tile, int32_t) { check_tile(*report, tile); });
        const TailHalves tail = read_tail(c, s, layer, CurrentMemoryContext);
        if (tail.tokens == 0) return true;
        const size_t n = static_cast<size_t>(c->kv_heads) * static_cast<size_t>(tail.tokens);
        const size_t k = n * static_cast<size_t>(c->dim_k), v = tail.v ? n * static_cast<size_t>(c->dim_v) : 0;
        if (first_not_finite_f16(Dtype::f16, tail.k, k) != k || (v && first_not_finite_f16(Dtype::f16, tail.v, v) != v))
            report->put(true, -1, tail.first, "the tail holds a number that is not finite");
        pfree(tail.k);
        if (tail.v) pfree(tail.v);
        return true;
    } catch (const Error &error) {
        snprintf(fault, size, "%s", error.message().c_str());
        return false;
    }
}

void check_sequence(Cache *c, const Sequence *s, Report *report)
{
    report->seq = s->seq;
    for (int layer = 0; layer < c->layers; ++layer) {
        char fault[500];
        Owner owner;
        const bool sound = check_layer_of(c, s, report, layer, fault, sizeof fault);
        owner.close();
        if (!sound) report->put(true, -1, -1, fault);
        CHECK_FOR_INTERRUPTS();
    }
}

}  // namespace

SQL_FUNCTION(kv_check_cache)
{
    compat::init_materialized(fcinfo);
    Report report{reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo), 0, -1};
    SPI_connect();
    Cache *c = cache_of(PG_GETARG_OID(0));
    StringInfoData sql;
    initStringInfo(&sql);
    appendStringInfo(&sql, "SELECT coalesce(pg_catalog.array_agg(seq ORDER BY seq), '{}') FROM %s", c->header_sql);
    SPI_execute(sql.data, true, 0);
    bool null;
    ArrayType *seqs = DatumGetArrayTypePCopy(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    int count;
    const Sequence *sequences = read_sequences(c, seqs, &count, CurrentMemoryContext);
    for (int i = 0; i < count; ++i) check_sequence(c, &sequences[i], &report);
    SPI_finish();
    return 0;
}

}  // namespace vkv::kv
